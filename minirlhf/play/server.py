"""The server: a socket of this machine alone, a random address, a browser, until Ctrl-C."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path

from tornado.httpserver import HTTPServer
from tornado.web import Application

from minirlhf.play import handlers
from minirlhf.play.guard import Nothing
from minirlhf.play.workshop import Workshop

ADDRESS = "127.0.0.1"
MAX_REQUEST = 2**22  # bytes held in memory; guard.py says in words that even less is too much
STATIC = Path(__file__).parent / "static"


def listening(port: int | None) -> socket.socket:
    """A socket on `port` of this machine, or on a free one. Raises ValueError if it is taken."""
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((ADDRESS, port or 0))
    except OSError as error:
        found.close()
        raise ValueError(f"--port {port}: cannot be used: {error.strerror}") from None
    found.listen(64)
    found.setblocking(False)
    return found


def application(workshop: Workshop, port: int, token: str) -> Application:
    """The pages of the server. Each path begins with the token."""
    api = {
        "run": handlers.RunPage,
        "write": handlers.Write,
        "look": handlers.Look,
        "judge": handlers.Judge,
        "curves": handlers.Curves,
        "rate": handlers.Rate,
    }
    routes: list[tuple] = [
        (r"/([^/]+)/", handlers.Page),
        (r"/([^/]+)/static/(.*)", handlers.Static),
    ]
    routes += [(rf"/([^/]+)/api/{name}", handler) for name, handler in api.items()]
    return Application(
        routes,
        default_handler_class=Nothing,
        log_function=lambda handler: None,
        workshop=workshop,
        port=port,
        token=token,
        # Read once: no path that is asked for ever reaches the file system.
        files={path.name: path.read_bytes() for path in STATIC.iterdir() if path.is_file()},
    )


def start(workshop: Workshop, found: socket.socket) -> tuple[HTTPServer, str]:
    """Begin to answer on this socket, in the running event loop; also the page's address."""
    port, token = found.getsockname()[1], secrets.token_urlsafe(16)
    # A malformed or aborted request is the client's matter; guard.py reports the server's failures.
    logging.getLogger("tornado").setLevel(logging.CRITICAL)
    server = HTTPServer(application(workshop, port, token), max_body_size=MAX_REQUEST)
    server.add_socket(found)
    return server, f"http://{ADDRESS}:{port}/{token}/"


def serve(
    workshop: Workshop,
    port: int | None = None,
    *,
    browser: bool = True,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve the page until the process is interrupted. `ready` is told its address.

    The page is there before the models are: they are loaded meanwhile. Raises ValueError if the
    port is taken or the run has no models.
    """
    with listening(port) as found:

        async def forever() -> None:
            _, address = start(workshop, found)
            ready(address)
            if browser:  # in a thread: some browsers return only when they are closed
                threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
            await workshop.loaded()  # what is wrong with the run ends the command
            await asyncio.Event().wait()

        asyncio.run(forever())
