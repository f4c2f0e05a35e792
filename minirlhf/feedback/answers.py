"""Append-only, crash-safe JSONL file of ratings, with undo for the answers of this session."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

from minirlhf.feedback.checks import SCORES, kind_of, record_faults
from minirlhf.system.files import MAX_LINE_BYTES, TOO_LONG, JsonLine, json_lines, read_jsonl

ANSWER_RANGE = (1, 5)  # of the scores that a person gives
BEGINNING = b'{"topic"'  # of every answer


class AnswerFile:
    """A JSONL file to which answers are added one by one; a crash leaves only complete lines.

    `kind` ("scores" or "comparisons") is what the file must hold, if that is known. The file is
    looked at first: one that holds anything but answers is never changed. Raises ValueError for
    such a file, and if the file cannot be written.
    """

    def __init__(self, path: Path, kind: str | None = None):
        self.path, self.kind = path, kind
        self.dropped = ""  # a partial line that an earlier crash left, now cut off
        # Size of the file in bytes before and after each answer of this session.
        self.spans: list[tuple[int, int]] = []
        try:
            last = self._look()
            path.parent.mkdir(parents=True, exist_ok=True)
            if last is not None and not last.ended:
                self._repair(last)
        except OSError as error:
            raise self._not_writable(error) from None

    def _look(self) -> JsonLine | None:
        """Check that all lines are answers of one kind; return the last, which may be cut off."""
        if not self.path.exists():
            return None
        if not self.path.is_file():
            raise ValueError(
                f"{self.path}: expected a file to add answers to, found something else"
            )
        line = None
        for line in json_lines(self.path):
            if line.fault and not line.ended and self._is_begun_answer(line):
                break
            if fault := line.fault or self._fault_of(line.record):
                raise ValueError(
                    f"{self.path}: line {line.number}: {fault}; "
                    "answers are only added to a file of answers, give another one with --output"
                )
            self.kind = kind_of(line.record)  # the first answer decides
        return line

    def _fault_of(self, record: dict) -> str:
        """What the reader of feedback would say against an answer, or ""."""
        kind = kind_of(record) or self.kind or SCORES
        if self.kind and kind != self.kind:
            return f"holds {kind}, expected {self.kind}"
        faults = record_faults(record, kind, *ANSWER_RANGE, conversations=True)
        return faults[0] if faults else ""

    def _is_begun_answer(self, line: JsonLine) -> bool:
        with open(self.path, "rb") as file:
            file.seek(line.start)
            begun = file.read(len(BEGINNING))
        return BEGINNING.startswith(begun)

    def _repair(self, last: JsonLine) -> None:
        """Complete a last line that lacks only its line feed; cut off a partial one."""
        size = self.path.stat().st_size
        if not last.fault:
            self._write(b"\n", size)
            return
        with open(self.path, "rb") as file:
            file.seek(last.start)
            self.dropped = file.read(MAX_LINE_BYTES).decode("utf-8", "replace")
        os.truncate(self.path, last.start)

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
        return read_jsonl(self.path)

    def append(self, record: dict) -> None:
        """Add one answer; it is on the disk when this returns.

        Raises ValueError, and writes nothing, for a record that the reader would refuse.
        """
        if fault := self._fault_of(record):
            raise ValueError(f"{self.path}: this answer cannot be written: {fault}")
        data = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        if len(data) > MAX_LINE_BYTES + 1:
            raise ValueError(f"{self.path}: this answer cannot be written: {TOO_LONG}")
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            self._write(data, size)
        except OSError as error:
            raise self._not_writable(error) from None
        self.kind = kind_of(record)
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
