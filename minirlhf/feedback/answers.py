"""Append-only, crash-safe JSONL file of ratings, with undo for the answers of this session."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path


class AnswerFile:
    """A JSONL file to which answers are added one by one; a crash leaves only complete lines.

    Raises ValueError if the file cannot be written.
    """

    def __init__(self, path: Path):
        self.path = path
        self.dropped = ""  # a partial line that an earlier crash left, now cut off
        # Size of the file in bytes before and after each answer of this session.
        self.spans: list[tuple[int, int]] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._repair()
        except OSError as error:
            raise self._not_writable(error) from None

    def _repair(self) -> None:
        """Complete a last line that lacks only its line feed; cut off a partial one."""
        content = self.path.read_bytes() if self.path.exists() else b""
        _, _, rest = content.rpartition(b"\n")
        if not rest:
            return
        try:
            json.loads(rest)
            self._write(b"\n", len(content))
        except ValueError:
            os.truncate(self.path, len(content) - len(rest))
            self.dropped = rest.decode("utf-8", "replace")

    def _write(self, data: bytes, size: int) -> None:
        """Append `data` to the `size` bytes in the file: all of it or, on a full disk, nothing."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        file = os.open(self.path, flags, 0o666)
        try:
            if os.write(file, data) != len(data):
                os.truncate(self.path, size)
                raise OSError(errno.ENOSPC, "no space left on the disk")
            os.fsync(file)  # a confirmed answer survives a power cut
        finally:
            os.close(file)

    def _not_writable(self, error: OSError) -> ValueError:
        return ValueError(f"{self.path}: cannot be written: {error.strerror}")

    def records(self) -> list[dict]:
        """The JSON objects in the file. Raises ValueError naming a line that is not one."""
        if not self.path.exists():
            return []
        records = []
        content = self.path.read_bytes().removeprefix(b"\xef\xbb\xbf")  # a byte order mark
        for number, line in enumerate(content.split(b"\n"), start=1):
            try:
                if line.strip():
                    records.append(dict(json.loads(line)))
            except (ValueError, TypeError):
                raise ValueError(f"{self.path}: line {number}: expected a JSON object") from None
        return records

    def append(self, record: dict) -> None:
        """Add one answer; it is on the disk when this returns."""
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            self._write(json.dumps(record, ensure_ascii=False).encode() + b"\n", size)
        except OSError as error:
            raise self._not_writable(error) from None
        self.spans.append((size, self.path.stat().st_size))

    def undo(self) -> None:
        """Remove the last answer of this session.

        Raises ValueError if another program has written to the file since.
        """
        start, end = self.spans[-1]
        if self.path.stat().st_size != end:
            raise ValueError(
                f"{self.path}: another program has written to it; the last answer cannot be removed"
            )
        os.truncate(self.path, start)
        self.spans.pop()
