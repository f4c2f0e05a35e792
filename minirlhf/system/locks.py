"""A lock on a folder: of several processes only one changes what is in it.

The operating system holds the lock and releases it when the process ends, even by kill -9, so a
lock never outlives its holder. The text in the lock file only says who that is.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

LOCK = ".lock"
# On Windows no one else can read a byte that is locked, so lock one far behind the text.
LOCKED_BYTE = 2**30


@contextmanager
def locked(folder: Path, command: str) -> Iterator[None]:
    """Hold the lock of an existing folder while the block runs.

    `command` is what this process does, for the message in the others. Raises ValueError, one line,
    if another process holds the lock. A file system without locks is reported and used as it is.
    """
    path = folder / LOCK
    file = _open(path)
    try:
        try:
            _lock(file)
        except BlockingIOError:
            os.lseek(file, 0, os.SEEK_SET)
            holder = os.read(file, 2000).decode("utf-8", "replace").strip()
            raise ValueError(
                f"{folder}: expected no other process at work here, found "
                f"{holder or 'one that has just begun'}"
            ) from None
        except OSError as error:
            print(
                f"warning: {folder}: cannot be locked ({error.strerror}); "
                "let only one process at a time work here",
                file=sys.stderr,
            )
        since = datetime.now().isoformat(" ", "seconds")
        holder = f"process {os.getpid()} on {socket.gethostname()} since {since}: {command}\n"
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        os.write(file, holder.encode("utf-8", "surrogateescape"))
        try:
            yield
        finally:
            _remove(path)
    finally:
        os.close(file)  # this releases the lock
        if os.name == "nt":
            _remove(path)  # Windows deletes no open file


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)


def _remove(path: Path) -> None:
    """Delete the lock file. If that fails it does no harm: what counts is the system's lock."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _lock(file: int) -> None:
    """Lock an open file for this process.

    Raises BlockingIOError if it is locked, another OSError if the file system has no locks.
    """
    if sys.platform == "win32":
        import msvcrt

        os.lseek(file, LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            raise BlockingIOError from None
        return
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    # The last holder may have deleted the file after we had opened it: then we hold nothing.
    if os.fstat(file).st_nlink == 0:
        raise BlockingIOError
