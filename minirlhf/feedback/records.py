"""Language feedback (语言反馈): read it, check it, save it, split it. Step 1 of section 3.2.

The unit of feedback is a triple: a topic, a text written for it, and the score that raters gave the text.
A file holds one triple a line, each a JSON object (JSONL):

    {"topic": "sleep", "text": "Seven hours ...", "score": 4.33, "ratings": [4, 5, 4], "provenance": "people"}

`topic`, `text` and `score` (the mean rating) are required. `ratings` (one number a rater) is optional. So is
`provenance`, which says where the scores come from: "people", "authors" or "simulated", and `rater`, a name.
Other fields are ignored, and so are blank lines. Scores in a file are on the file's own scale, such as 1 to 5;
in memory they are scaled to [0, 1].

The other form of feedback is a comparison (排序): which of two texts on one topic is better, or neither:

    {"topic": "sleep", "better": "Seven hours ...", "worse": "Sleep is good.", "tie": false}

One wrong score spoils a reward model and no curve shows it. So a file is read whole or not at all:
each fault is listed with its line and field, and nothing is returned.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from minirlhf.system.files import replacing

MAX_LINE_BYTES = 1_000_000
MAX_LISTED = 20  # faults listed in one error
MAX_SHOWN = 60  # characters shown of a wrong value


class FeedbackError(ValueError):
    """The feedback is not as expected; the message lists each fault, one a line."""


class _Fault(ValueError):
    """One fault, found while JSON is being read."""


@dataclass(frozen=True)
class Triple:
    """One rated text. `score` is in [0, 1]; `ratings` are on the file's own scale (empty if not known)."""

    topic: str
    text: str
    score: float
    ratings: tuple[float, ...] = ()
    provenance: str = "people"
    rater: str = ""


@dataclass(frozen=True)
class Comparison:
    """One answer to "which text is better?". In a tie neither is, and the order of the two means nothing."""

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

    Raises FeedbackError listing every fault (the first 20 in full) as file, line, field, expected and found;
    also for a file that is empty or cannot be read. Raises ValueError for a score range that is none.
    """
    low, high = _checked_range(score_range)
    return [
        _to_triple(record, low, high)
        for record in _read_records(path, lambda record: _faults_of(record, low, high))
    ]


def read_comparisons(path: str | os.PathLike[str]) -> list[Comparison]:
    """Read a JSONL file of comparisons. Raises FeedbackError as `read_triples` does."""
    return [
        Comparison(
            record["topic"],
            record["better"],
            record["worse"],
            record.get("tie", False),
            record.get("provenance", "people"),
            record.get("rater", ""),
        )
        for record in _read_records(path, _comparison_faults)
    ]


def holds_comparisons(path: str | os.PathLike[str]) -> bool:
    """Whether the first line that is a JSON object is a comparison (it has the field "better")."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            first = next((line for line in file if line.strip()), "")
        record = json.loads(first)
    except (OSError, ValueError, RecursionError):
        return False  # whoever reads the file says what is wrong with it
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
            # At most the limit and a bit is ever held of a line, however long it is.
            while raw := file.readline(MAX_LINE_BYTES + 2):
                number += 1
                if len(raw.rstrip(b"\r\n")) > MAX_LINE_BYTES:
                    faults.append(
                        f"line {number}: expected at most {MAX_LINE_BYTES} bytes, found more"
                    )
                    while raw and not raw.endswith(b"\n"):
                        raw = file.readline(MAX_LINE_BYTES)
                    continue
                if number == 1:
                    raw = raw.removeprefix(
                        b"\xef\xbb\xbf"
                    )  # the byte order mark that some editors write
                if not raw.strip():
                    continue
                record, line_faults = _parse(raw)
                line_faults = line_faults or faults_of(record)
                if line_faults:
                    faults += [f"line {number}: {fault}" for fault in line_faults]
                elif not faults:
                    records.append(record)
    except OSError as error:
        raise FeedbackError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not faults and not records:
        raise FeedbackError(f"{path}: expected one JSON object a line, found an empty file")
    _raise_if_any(faults, path)
    return records


def write_triples(
    path: str | os.PathLike[str],
    triples: Iterable[Triple],
    score_range: tuple[float, float] = (1.0, 5.0),
) -> None:
    """Write triples as `read_triples` reads them, scores on the file's scale to 4 decimals. Atomic.

    Read back with the same range, they are the same, but for the rounding of the score.
    Raises FeedbackError, and writes nothing, if a triple would not be read back or there is none.
    """
    low, high = _checked_range(score_range)
    path = Path(path)
    lines: list[str] = []
    faults: list[str] = []
    for number, triple in enumerate(triples, start=1):
        if not 0 <= triple.score <= 1:
            faults.append(f"line {number}: score: expected 0 to 1 in memory, found {triple.score}")
            continue
        score = round(low + triple.score * (high - low), 4)
        score = min(max(score, low), high)  # rounding can step over the end
        record = {"topic": triple.topic, "text": triple.text, "score": _plain(score)}
        if triple.ratings:
            record["ratings"] = [_plain(rating) for rating in triple.ratings]
        record["provenance"] = triple.provenance
        if triple.rater:
            record["rater"] = triple.rater
        faults += [f"line {number}: {fault}" for fault in _faults_of(record, low, high)]
        if not faults:
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
            if len(lines[-1].encode("utf-8")) > MAX_LINE_BYTES:
                faults.append(f"line {number}: expected at most {MAX_LINE_BYTES} bytes, found more")
    _raise_if_any(faults, path)
    if not lines:
        raise FeedbackError(f"{path}: expected at least one triple to write, found none")
    with replacing(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8", newline="\n")


def _checked_range(score_range: tuple[float, float]) -> tuple[float, float]:
    low, high = score_range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"score range: expected two finite numbers LO < HI, found {low} {high}")
    return float(low), float(high)


def _parse(raw: bytes) -> tuple[dict, list[str]]:
    """One line of bytes to (its JSON object, faults); with a fault the object is empty."""

    def without_duplicates(pairs: list[tuple[str, object]]) -> dict:
        record: dict = {}
        for key, value in pairs:
            if key in record:
                raise _Fault(f"{_shown(key, quote=False)}: expected each key once, found it twice")
            record[key] = value
        return record

    try:
        line = raw.decode("utf-8").rstrip("\r\n")
        record = json.loads(line, object_pairs_hook=without_duplicates)
    except _Fault as fault:
        return {}, [str(fault)]
    except UnicodeDecodeError as error:
        wrong = raw[error.start : error.start + 1].hex()
        return {}, [f"expected UTF-8, found byte 0x{wrong} at byte {error.start + 1}"]
    except (ValueError, RecursionError) as error:  # ValueError: also a number of too many digits
        is_syntax = isinstance(error, json.JSONDecodeError)
        reason = f"{error.msg} at column {error.colno}" if is_syntax else str(error)
        return {}, [f"expected a JSON object, found {_shown(line.strip(), quote=False)} ({reason})"]
    if not isinstance(record, dict):
        return {}, [f"expected a JSON object, found {_shown(record)}"]
    return record, []


def _faults_of(record: dict, low: float, high: float) -> list[str]:
    """Everything that is wrong with one record, as "field: expected ..., found ..."."""
    faults = _text_faults(record, ("topic", "text"))
    number = f"a number from {low:g} to {high:g}"
    if "score" not in record:
        faults.append(f"score: expected {number}, found no such field")
    elif not _is_number_in(record["score"], low, high):
        faults.append(f"score: expected {number}, found {_shown(record['score'])}")
    if "ratings" in record:
        ratings = record["ratings"]
        if not isinstance(ratings, list) or not ratings:
            faults.append(
                f"ratings: expected a list of numbers that is not empty, found {_shown(ratings)}"
            )
        else:
            faults += [
                f"ratings[{i}]: expected {number}, found {_shown(rating)}"
                for i, rating in enumerate(ratings)
                if not _is_number_in(rating, low, high)
            ]
    return faults + _character_faults(record, ("topic", "text"))


def _comparison_faults(record: dict) -> list[str]:
    """The same for a comparison."""
    faults = _text_faults(record, ("topic", "better", "worse"))
    if not faults and record["better"] == record["worse"]:
        faults.append("worse: expected another text than better, found the same")
    if not isinstance(record.get("tie", False), bool):
        faults.append(f"tie: expected true or false, found {_shown(record['tie'])}")
    return faults + _character_faults(record, ("topic", "better", "worse"))


def _text_faults(record: dict, fields: tuple[str, ...]) -> list[str]:
    """Fields that must be there and hold a text."""
    faults = []
    for field in fields:
        if field not in record:
            faults.append(f"{field}: expected a text that is not empty, found no such field")
        elif not isinstance(record[field], str) or not record[field].strip():
            faults.append(
                f"{field}: expected a text that is not empty, found {_shown(record[field])}"
            )
    return faults


def _character_faults(record: dict, fields: tuple[str, ...]) -> list[str]:
    """Names that are no texts, and texts that UTF-8 cannot hold."""
    names = ("provenance", "rater")
    faults = [
        f"{field}: expected a text, found {_shown(record[field])}"
        for field in names
        if not isinstance(record.get(field, ""), str)
    ]
    for field in fields + names:
        value = record.get(field)
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            found = f"half a surrogate pair in {_shown(value)}"
            faults.append(f"{field}: expected whole characters, found {found}")
    return faults


def _is_number_in(value: object, low: float, high: float) -> bool:
    """True for a number in the range: no bool (an int to Python), no NaN (it compares false), no infinity."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _to_triple(record: dict, low: float, high: float) -> Triple:
    return Triple(
        topic=record["topic"],
        text=record["text"],
        score=(float(record["score"]) - low) / (high - low),
        ratings=tuple(float(rating) for rating in record.get("ratings", ())),
        provenance=record.get("provenance", "people"),
        rater=record.get("rater", ""),
    )


def _plain(number: float) -> float | int:
    """4.0 as 4: shorter in the file, the same number when read."""
    return int(number) if float(number).is_integer() else float(number)


def _shown(value: object, quote: bool = True) -> str:
    """A value for an error message: short, on one line, nothing in it that a terminal would obey."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    text = json.dumps(value, ensure_ascii=False) if quote else str(value)
    text = "".join(
        character if character.isprintable() else "?" for character in text[: MAX_SHOWN + 1]
    )
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def _raise_if_any(faults: list[str], path: str | os.PathLike[str]) -> None:
    if faults:
        listed = [f"{path}: {fault}" for fault in faults[:MAX_LISTED]]
        if len(faults) > MAX_LISTED:
            listed.append(f"... and {len(faults) - MAX_LISTED} more")
        raise FeedbackError("\n".join(listed))
