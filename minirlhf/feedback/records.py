"""Language feedback (语言反馈): its two kinds of record, read from and written to JSONL files.

This is step 1 of the article's section 3.2. The unit of feedback is a triple: a topic, a text
written for it, and the score that raters gave the text. A file holds one triple per line, each a
JSON object:

    {"topic": "sleep", "text": "Seven hours ...", "score": 4.33, "ratings": [4, 5, 4],
     "provenance": "people"}

`topic`, `text` and `score` (the mean rating) are required. `ratings` (one number per rater) is
optional. So are `provenance`, which says where the scores come from ("people", "authors" or
"simulated"), and `rater`, a name. Other fields are ignored, and so are blank lines. Scores in a
file are on the file's own scale, such as 1 to 5; in memory they are scaled to [0, 1].

The other kind of feedback is a comparison (排序): which of two texts on one topic is better, or
neither:

    {"topic": "sleep", "better": "Seven hours ...", "worse": "Sleep is good.", "tie": false}

One wrong score spoils a reward model, and no curve shows it. So a file is read completely or not at
all: each fault is listed with its line and field (checks.py), and nothing is returned.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from minirlhf.feedback.checks import comparison_faults, parse_line, triple_faults
from minirlhf.system.files import replacing

MAX_LINE_BYTES = 1_000_000
MAX_LISTED = 20  # faults listed in one error
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # some editors write it at the start of a file
TOO_LONG = f"expected at most {MAX_LINE_BYTES} bytes, found more"


class FeedbackError(ValueError):
    """The feedback is not as expected; the message lists each fault, one per line."""


@dataclass(frozen=True)
class Triple:
    """One scored text. `score` is in [0, 1]; `ratings` are on the file's own scale, if known."""

    topic: str
    text: str
    score: float
    ratings: tuple[float, ...] = ()
    provenance: str = "people"
    rater: str = ""


@dataclass(frozen=True)
class Comparison:
    """One answer to "which text is better?". In a tie the order of the two means nothing."""

    topic: str
    better: str
    worse: str
    tie: bool = False
    provenance: str = "people"
    rater: str = ""


def read_triples(
    path: str | os.PathLike[str], score_range: tuple[float, float] = (1.0, 5.0)
) -> list[Triple]:
    """Read a JSONL file of triples whose scores lie in `score_range`; scale the scores to [0, 1].

    Raises FeedbackError listing every fault (the first 20 in full) as file, line, field, expected
    and found; also for a file that is empty or cannot be read. Raises ValueError for an invalid
    score range.
    """
    low, high = _checked_range(score_range)
    records = _read_records(path, lambda record: triple_faults(record, low, high))
    return [_to_triple(record, low, high) for record in records]


def read_comparisons(path: str | os.PathLike[str]) -> list[Comparison]:
    """Read a JSONL file of comparisons. Raises FeedbackError as `read_triples` does."""
    return [_to_comparison(record) for record in _read_records(path, comparison_faults)]


def holds_comparisons(path: str | os.PathLike[str]) -> bool:
    """Whether the first line that is a JSON object is a comparison (it has the field "better")."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            first = next((line for line in file if line.strip()), "")
        record = json.loads(first)
    except (OSError, ValueError, RecursionError):
        return False  # the reader reports the error
    return isinstance(record, dict) and "better" in record


def _read_records(
    path: str | os.PathLike[str], faults_of: Callable[[dict], list[str]]
) -> list[dict]:
    """The JSON object of each line; all of them or, as a FeedbackError, every fault."""
    records: list[dict] = []
    faults: list[str] = []
    number = 0
    try:
        with open(path, "rb") as file:
            # However long a line is, no more than the limit and two bytes of it are held in memory.
            while raw := file.readline(MAX_LINE_BYTES + 2):
                number += 1
                if len(raw.rstrip(b"\r\n")) > MAX_LINE_BYTES:
                    faults.append(f"line {number}: {TOO_LONG}")
                    while raw and not raw.endswith(b"\n"):  # skip the rest of the line
                        raw = file.readline(MAX_LINE_BYTES)
                    continue
                if number == 1:
                    raw = raw.removeprefix(BYTE_ORDER_MARK)
                if not raw.strip():
                    continue
                record, line_faults = parse_line(raw)
                line_faults = line_faults or faults_of(record)
                if line_faults:
                    faults += [f"line {number}: {fault}" for fault in line_faults]
                elif not faults:
                    records.append(record)
    except OSError as error:
        raise FeedbackError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not faults and not records:
        raise FeedbackError(f"{path}: expected one JSON object per line, found an empty file")
    _raise_if_any(faults, path)
    return records


def _to_triple(record: dict, low: float, high: float) -> Triple:
    return Triple(
        topic=record["topic"],
        text=record["text"],
        score=(float(record["score"]) - low) / (high - low),
        ratings=tuple(float(rating) for rating in record.get("ratings", ())),
        provenance=record.get("provenance", "people"),
        rater=record.get("rater", ""),
    )


def _to_comparison(record: dict) -> Comparison:
    return Comparison(
        topic=record["topic"],
        better=record["better"],
        worse=record["worse"],
        tie=record.get("tie", False),
        provenance=record.get("provenance", "people"),
        rater=record.get("rater", ""),
    )


def write_triples(
    path: str | os.PathLike[str],
    triples: Iterable[Triple],
    score_range: tuple[float, float] = (1.0, 5.0),
) -> None:
    """Write triples as `read_triples` reads them, scores on the file's scale to 4 decimals. Atomic.

    Read back with the same range, they are the same except for the rounding of the score.
    Raises FeedbackError, and writes nothing, if a triple could not be read back or there is none.
    """
    low, high = _checked_range(score_range)
    path = Path(path)
    lines: list[str] = []
    faults: list[str] = []
    for number, triple in enumerate(triples, start=1):
        if not 0 <= triple.score <= 1:
            faults.append(f"line {number}: score: expected 0 to 1 in memory, found {triple.score}")
            continue
        record = _to_record(triple, low, high)
        faults += [f"line {number}: {fault}" for fault in triple_faults(record, low, high)]
        if not faults:
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
            if len(lines[-1].encode("utf-8")) > MAX_LINE_BYTES:
                faults.append(f"line {number}: {TOO_LONG}")
    _raise_if_any(faults, path)
    if not lines:
        raise FeedbackError(f"{path}: expected at least one triple to write, found none")
    with replacing(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8", newline="\n")


def _to_record(triple: Triple, low: float, high: float) -> dict:
    score = round(low + triple.score * (high - low), 4)
    score = min(max(score, low), high)  # rounding can step over the end of the range
    record: dict = {"topic": triple.topic, "text": triple.text, "score": _plain(score)}
    if triple.ratings:
        record["ratings"] = [_plain(rating) for rating in triple.ratings]
    record["provenance"] = triple.provenance
    if triple.rater:
        record["rater"] = triple.rater
    return record


def _plain(number: float) -> float | int:
    """4.0 as 4: shorter in the file, the same number when read."""
    return int(number) if float(number).is_integer() else float(number)


def _checked_range(score_range: tuple[float, float]) -> tuple[float, float]:
    low, high = score_range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"score range: expected two finite numbers LO < HI, found {low} {high}")
    return float(low), float(high)


def _raise_if_any(faults: list[str], path: str | os.PathLike[str]) -> None:
    if not faults:
        return
    lines = [f"{path}: {fault}" for fault in faults[:MAX_LISTED]]
    if len(faults) > MAX_LISTED:
        lines.append(f"... and {len(faults) - MAX_LISTED} more")
    raise FeedbackError("\n".join(lines))
