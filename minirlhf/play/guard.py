"""Who may ask the server: only the page that it served itself, in this machine's browser.

Any web page can send requests to 127.0.0.1, and a foreign name may be made to point there. So each
request must be addressed to this server (Host), come from its own page if from a page at all
(Origin), and know the random token in the path. Nothing else is answered.
"""

from __future__ import annotations

import hmac
import json
import math
import sys
from typing import Any

from tornado.web import HTTPError, RequestHandler

from minirlhf.system.terminal import visible_line

MAX_BODY = 200_000  # bytes
HEADERS = {
    # The page uses files of its own only, sends to its own server only, and is no one's frame.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Refused(HTTPError):
    """A request that is not answered: the status and one line that says why."""

    def __init__(self, status: int, why: str):
        super().__init__(status)
        self.why = why


class GuardedHandler(RequestHandler):
    """Checks each request before it is answered. The first part of each path is the token."""

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        port = self.settings["port"]
        hosts = (f"127.0.0.1:{port}", f"localhost:{port}")
        host, origin = self.request.headers.get("Host", ""), self.request.headers.get("Origin")
        if host not in hosts:
            raise Refused(403, f"Host: expected {hosts[0]}, found another")
        if origin is not None and origin != f"http://{host}":
            raise Refused(403, "Origin: expected this server's own page, found another")
        token = self.path_args[0] if self.path_args else ""
        if not hmac.compare_digest(token.encode(), self.settings["token"].encode()):
            raise Refused(403, "token: expected the one in the address that play printed")

    def body(self) -> dict:
        """The JSON object that was sent. Raises Refused for anything else."""
        kind = self.request.headers.get("Content-Type", "").partition(";")[0].strip()
        if kind != "application/json":  # which a page of another origin cannot send unasked
            raise Refused(415, "Content-Type: expected application/json")
        if len(self.request.body) > MAX_BODY:
            raise Refused(413, f"body: expected at most {MAX_BODY} bytes, found more")
        try:
            value = json.loads(self.request.body)
        except (ValueError, RecursionError):
            raise Refused(400, "body: expected JSON") from None
        if not isinstance(value, dict):
            raise Refused(400, f"body: expected a JSON object, found {type(value).__name__}")
        return value

    def send(self, answer: dict) -> None:
        """Write an object as one line of JSON."""
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.write(to_line(answer))

    def write_error(self, status_code: int, **more: Any) -> None:
        error = more.get("exc_info", (None, None, None))[1]
        if isinstance(error, Refused):
            why = error.why
        elif isinstance(error, ValueError):  # what the package says of a wrong request
            self.set_status(400)
            why = str(error)
        elif isinstance(error, HTTPError):
            why = self._reason
        else:
            why = "the server failed; the terminal says how"
        self.send({"error": " ".join(why.split("\n"))})

    def log_exception(self, kind: Any, error: Any, traceback: Any) -> None:
        """A failure of the server itself is one line in the terminal; the rest is the client's."""
        if not isinstance(error, (HTTPError, ValueError)):
            print(f"error: play: {visible_line(f'{kind.__name__}: {error}')}", file=sys.stderr)


class Nothing(GuardedHandler):
    """Every other path. Without the token not even that is told."""

    def prepare(self) -> None:
        self.path_args = [self.request.path.split("/")[1]]
        super().prepare()
        raise Refused(404, "no such page")


def to_line(answer: dict) -> str:
    """An object as one line of JSON; numbers that JSON lacks (NaN, infinity) become null.

    Everything but ASCII is escaped, so that half of a surrogate pair survives, too.
    """
    return json.dumps(_finite(answer)) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return value
