"""How a command ends: well, with one line per error, interrupted, or with nobody left to read."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

from minirlhf.settings import SettingError
from minirlhf.system.terminal import accept_any_text, visible

BAD_INPUT = 2
# What shells report for a program that one of these signals ended: 128 and its number.
INTERRUPTED, PIPE_CLOSED, TERMINATED = 130, 141, 143


class Terminated(KeyboardInterrupt):
    """SIGTERM: treated as Ctrl-C, so that what is open is closed, but for the exit code."""


def interrupted(stop: KeyboardInterrupt, words: str = "Interrupted.") -> None:
    """Say in one line that the command was interrupted, and exit."""
    print(f"\n{visible(words)}", file=sys.stderr)
    sys.exit(TERMINATED if isinstance(stop, Terminated) else INTERRUPTED)


@contextlib.contextmanager
def orderly() -> Iterator[None]:
    """Around a whole command: nothing that a user, a file or the system does ends in a traceback.

    Bad input: one line per fault on standard error, exit code 2. Ctrl-C: one line, 130. SIGTERM:
    one line, 143. Output that nobody reads any more (`| head -1`): silence, 141.
    """
    accept_any_text()
    try:
        with _sigterm_raises():
            try:
                yield
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()  # here, not after the last line of this program
    except KeyboardInterrupt as stop:
        interrupted(stop)
    except BrokenPipeError:
        _discard_output()
        sys.exit(PIPE_CLOSED)
    except (SettingError, ValueError, OSError) as error:
        print(f"error: {visible(_words(error))}", file=sys.stderr)
        if os.environ.get("MINIRLHF_DEBUG"):
            raise
        sys.exit(BAD_INPUT)


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Within the block SIGTERM raises Terminated.

    Not where torchrun started several processes: one that waits for another in C code would not
    hear of it.
    """
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if not alone or threading.current_thread() is not threading.main_thread():
        yield
        return

    def raise_terminated(number: int, frame: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _discard_output() -> None:
    """Let Python's own flush at exit go nowhere; it would complain about the closed pipe."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
