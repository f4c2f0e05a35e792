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

In both, `topic` may also be a conversation that waits for an answer: a list of turns
(conversation.py). In a file with conversations a topic that is a text is one of a single turn,
which is the same to a model.

A file holds one of the two kinds; which one is decided by what most of its lines are.

One wrong score spoils a reward model, and no curve shows it. So a file is read completely or not at
all: each fault is listed with its line and field (checks.py), and nothing is returned.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from minirlhf.feedback.checks import (
    COMPARISONS,
    FIELDS,
    MISSING,
    NOUNS,
    SCORES,
    kind_of,
    record_faults,
    triple_faults,
)
from minirlhf.feedback.conversation import Prompt, as_conversation, from_json, to_json
from minirlhf.system.files import MAX_LINE_BYTES, TOO_LONG, JsonLine, json_lines, replacing

MAX_LISTED = 20  # faults listed in one error
MANY_OUTSIDE = 0.1  # share of scores outside the range that makes the range itself doubtful
MAX_EQUAL = 3  # lines listed that lack the same field; more of them are counted


class FeedbackError(ValueError):
    """The feedback is not as expected; the message lists each fault, one per line."""


@dataclass(frozen=True)
class Triple:
    """One scored text. `score` is in [0, 1]; `ratings` are on the file's own scale, if known."""

    topic: Prompt
    text: str
    score: float
    ratings: tuple[float, ...] = ()
    provenance: str = "people"
    rater: str = ""


@dataclass(frozen=True)
class Comparison:
    """One answer to "which text is better?". In a tie the order of the two means nothing."""

    topic: Prompt
    better: str
    worse: str
    tie: bool = False
    provenance: str = "people"
    rater: str = ""


@dataclass(frozen=True)
class Feedback:
    """What a file of feedback holds; one of the two lists is empty."""

    triples: list[Triple] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)


def read_feedback(
    path: str | os.PathLike[str],
    score_range: tuple[float, float] = (1.0, 5.0),
    conversations: bool = False,
) -> Feedback:
    """Read a JSONL file of scored texts or of comparisons, whichever most of its lines are.

    Scores lie in `score_range` and are scaled to [0, 1]. With `conversations` a topic may also be
    one (conversation.py). The file may be a pipe. Raises FeedbackError listing every fault (the
    first 20 in full) as file, line, field, expected and found; also for a file of both kinds, and
    for one that is empty or cannot be read. Raises ValueError for an invalid score range.
    """
    return _read(path, score_range, None, conversations)


def read_triples(
    path: str | os.PathLike[str],
    score_range: tuple[float, float] = (1.0, 5.0),
    conversations: bool = False,
) -> list[Triple]:
    """`read_feedback` of a file that must hold scored texts."""
    return _read(path, score_range, SCORES, conversations).triples


def read_comparisons(path: str | os.PathLike[str], conversations: bool = False) -> list[Comparison]:
    """`read_feedback` of a file that must hold comparisons."""
    return _read(path, (1.0, 5.0), COMPARISONS, conversations).comparisons


def _read(
    path: str | os.PathLike[str],
    score_range: tuple[float, float],
    kind: str | None,
    conversations: bool = False,
) -> Feedback:
    """All records of a file or, as a FeedbackError, every fault. `kind`: what they must be."""
    low, high = _checked_range(score_range)
    lines = lines_of(path)
    kinds = {line.number: kind_of(line.record) for line in lines if not line.fault}
    counts = Counter(found for found in kinds.values() if found)
    most = counts.most_common(1)[0][0] if counts else SCORES
    wanted = kind or most
    faults = _wrong_kind(kinds, counts, wanted)
    by_line: list[tuple[int, str]] = []
    for line in lines:
        if line.fault:
            by_line.append((line.number, line.fault))
        elif kinds[line.number] in (wanted, None):
            found = record_faults(line.record, wanted, low, high, conversations)
            by_line += [(line.number, fault) for fault in found]
    if wanted == SCORES:
        by_line = _with_scale(by_line, lines, low, high)
    raise_if_any(faults + listed(by_line), path)
    return _converted(lines, wanted, low, high)


def _with_scale(
    by_line: list[tuple[int, str]], lines: list[JsonLine], low: float, high: float
) -> list[tuple[int, str]]:
    """The faults (line, fault). If many scores lie outside the range, the first says how to give
    another one.
    """
    scores = {line.number: line.record.get("score") for line in lines}
    numbers = {
        line: score
        for line, score in scores.items()
        if isinstance(score, (int, float)) and not isinstance(score, bool)
    }
    outside = {line for line, score in numbers.items() if not low <= score <= high}
    if len(outside) < max(2, MANY_OUTSIDE * len(numbers)):
        return by_line
    how = f"as {len(outside):,} lines lie outside: another range is given by --score-range LOW HIGH"
    for place, (line, fault) in enumerate(by_line):
        if line in outside and fault.startswith("score: "):
            return [*by_line[:place], (line, f"{fault} ({how})"), *by_line[place + 1 :]]
    return by_line


def lines_of(path: str | os.PathLike[str]) -> list[JsonLine]:
    """All lines of a user's file. Raises FeedbackError if it is empty or cannot be read."""
    try:
        lines = list(json_lines(path))
    except OSError as error:
        raise FeedbackError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not lines:
        raise FeedbackError(f"{path}: expected one JSON object per line, found an empty file")
    return lines


def _wrong_kind(kinds: dict[int, str | None], counts: Counter, wanted: str) -> list[str]:
    """The fault that a file holds both kinds, or the other than wanted; [] if it does not."""
    if len(counts) == 2:
        fewer = counts.most_common()[1][0]
        first = next(number for number, kind in kinds.items() if kind == fewer)
        found = " and ".join(f"{counts[kind]:,} {NOUNS[kind]}" for kind in NOUNS)
        where = f"the first of the {NOUNS[fewer]} on line {first}"
        return [f"expected one kind of feedback, found {found} ({where}); split the file in two"]
    if counts and wanted not in counts:
        (other,) = counts
        fields = ", ".join(FIELDS[wanted])
        return [f"expected {NOUNS[wanted]} ({fields}), found {counts[other]:,} {NOUNS[other]}"]
    return []


def _converted(lines: list[JsonLine], kind: str, low: float, high: float) -> Feedback:
    topics: list[Prompt] = [from_json(line.record["topic"]) for line in lines]
    if not all(isinstance(topic, str) for topic in topics):
        topics = [as_conversation(topic) for topic in topics]
    records = [line.record | {"topic": topic} for line, topic in zip(lines, topics, strict=True)]
    if kind == SCORES:
        return Feedback(triples=[_to_triple(record, low, high) for record in records])
    return Feedback(comparisons=[_to_comparison(record) for record in records])


def listed(faults: list[tuple[int, str]]) -> list[str]:
    """(line, fault) as text. Where many lines lack the same fields, the first stands for all."""
    counts = Counter(fault for _, fault in faults if MISSING in fault or "; rename " in fault)
    told = set()
    listed = []
    for number, fault in faults:
        more = counts[fault] - 1
        if more < MAX_EQUAL:
            listed.append(f"line {number}: {fault}")
        elif fault not in told:
            told.add(fault)
            listed.append(f"line {number} and {more:,} more lines: {fault}")
    return listed


def _to_triple(record: dict, low: float, high: float) -> Triple:
    """The record of a line, its topic as a Prompt."""
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

    def checked(triple: Triple) -> tuple[dict, list[str]]:
        if not 0 <= triple.score <= 1:
            return {}, [f"score: expected 0 to 1 in memory, found {triple.score}"]
        record = to_record(triple, low, high)
        return record, triple_faults(record, low, high, conversations=True)

    write_records(path, map(checked, triples), "triple")


def write_records(
    path: str | os.PathLike[str], checked: Iterable[tuple[dict, list[str]]], what: str
) -> None:
    """Write one JSON line per record, where none has a fault. Atomic.

    `checked`: each record with its faults; `what` names one of them in the message. Raises
    FeedbackError, and writes nothing, if one has a fault or is too long, or there is none.
    """
    lines: list[str] = []
    faults: list[str] = []
    for number, (record, found) in enumerate(checked, start=1):
        faults += [f"line {number}: {fault}" for fault in found]
        if not found:
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
            if len(lines[-1].encode("utf-8")) > MAX_LINE_BYTES:
                faults.append(f"line {number}: {TOO_LONG}")
    raise_if_any(faults, path)
    if not lines:
        raise FeedbackError(f"{path}: expected at least one {what} to write, found none")
    with replacing(Path(path)) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8", newline="\n")


def to_record(triple: Triple, low: float, high: float) -> dict:
    """The triple as a line of a feedback file whose scores are from `low` to `high`."""
    score = round(low + triple.score * (high - low), 4)
    score = min(max(score, low), high)  # rounding can step over the end of the range
    record: dict = {"topic": to_json(triple.topic), "text": triple.text, "score": _plain(score)}
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


def raise_if_any(faults: list[str], path: str | os.PathLike[str]) -> None:
    """Raise FeedbackError, if there are faults, with the first MAX_LISTED of them."""
    if not faults:
        return
    lines = [f"{path}: {fault}" for fault in faults[:MAX_LISTED]]
    if len(faults) > MAX_LISTED:
        lines.append(f"... and {len(faults) - MAX_LISTED} more")
    raise FeedbackError("\n".join(lines))
