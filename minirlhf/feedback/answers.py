"""A file of answers that no crash can spoil."""

from __future__ import annotations

import json
import os
from pathlib import Path


class AnswerFile:
    """A JSONL file to which answers are added one by one; whatever stops the program, it holds whole lines only.

    Raises ValueError if the file cannot be written.
    """

    def __init__(self, path: Path):
        self.path = path
        self.dropped = ""  # half a line that an earlier crash left, now cut off
        self.spans: list[
            tuple[int, int]
        ] = []  # bytes of the file before and after each answer of this session
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._repair()
        except OSError as error:
            raise ValueError(f"{path}: cannot be written: {error.strerror}") from None

    def _repair(self) -> None:
        content = self.path.read_bytes() if self.path.exists() else b""
        whole, _, rest = content.rpartition(b"\n")
        if not rest:
            return
        try:
            json.loads(rest)
            self._write(b"\n", len(content))  # a whole line that only lacks its end
        except ValueError:
            os.truncate(self.path, len(content) - len(rest))
            self.dropped = rest.decode("utf-8", "replace")

    def _write(self, data: bytes, size: int) -> None:
        """Add `data` behind the `size` bytes that are there, all of it or (the disk is full) nothing."""
        file = os.open(
            self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666
        )
        try:
            if os.write(file, data) != len(data):
                os.truncate(self.path, size)
                raise OSError(28, "no space left on the disk")
            os.fsync(file)  # an answer that was given survives a power cut
        finally:
            os.close(file)

    def records(self) -> list[dict]:
        """The JSON objects that are there. Raises ValueError naming a line that is none."""
        if not self.path.exists():
            return []
        records = []
        for number, line in enumerate(
            self.path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1
        ):
            try:
                if line.strip():
                    records.append(dict(json.loads(line)))
            except (ValueError, TypeError):
                raise ValueError(f"{self.path}: line {number}: expected a JSON object") from None
        return records

    def append(self, record: dict) -> None:
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            self._write(json.dumps(record, ensure_ascii=False).encode() + b"\n", size)
        except OSError as error:
            raise ValueError(f"{self.path}: cannot be written: {error.strerror}") from None
        self.spans.append((size, self.path.stat().st_size))

    def undo(self) -> None:
        """Take the last answer of this session back. Raises ValueError if another program has written behind it."""
        start, end = self.spans[-1]
        if self.path.stat().st_size != end:
            raise ValueError(
                f"{self.path}: another program has written to it; the last answer cannot be taken back"
            )
        os.truncate(self.path, start)
        self.spans.pop()
