"""Rankings (排名): several answers to one prompt, in order, read from and written to JSONL files.

One JSON object per line. The prompt is a text, or a conversation (conversation.py); rank 1 is the
best answer, and equal ranks are ties:

    {"prompt": "Why sleep?", "answers": ["It mends memory.", "Sleep is good.", "Who cares?"],
     "ranks": [1, 2, 3], "provenance": "people"}

Other fields are ignored, and so are blank lines. An answer may be empty, as a model may say
nothing. As with feedback, a file is read completely or not at all: every fault is listed with its
line and field. Source of the format: Ouyang et al. 2022 (InstructGPT), whose raters rank K answers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations

from minirlhf.feedback.checks import ranking_faults
from minirlhf.feedback.conversation import Prompt, from_json, to_json
from minirlhf.feedback.records import (
    Comparison,
    lines_of,
    listed,
    raise_if_any,
    write_records,
)


@dataclass(frozen=True)
class Ranked:
    """Answers to one prompt and the rank of each: 1 is the best, equal ranks are ties."""

    prompt: Prompt
    answers: tuple[str, ...]
    ranks: tuple[int, ...]
    provenance: str = "simulated"


def read_rankings(path: str | os.PathLike[str]) -> list[Ranked]:
    """The rankings of a JSONL file, which may be a pipe.

    A line without `provenance` is by people. Raises FeedbackError listing every fault (the first 20
    in full) as file, line, field, expected and found; also for a file that is empty or cannot be
    read.
    """
    lines = lines_of(path)
    faults: list[tuple[int, str]] = []
    for line in lines:
        found = [line.fault] if line.fault else ranking_faults(line.record)
        faults += [(line.number, fault) for fault in found]
    raise_if_any(listed(faults), path)
    return [
        Ranked(
            prompt=from_json(line.record["prompt"]),
            answers=tuple(line.record["answers"]),
            ranks=tuple(line.record["ranks"]),
            provenance=line.record.get("provenance", "people"),
        )
        for line in lines
    ]


def write_rankings(path: str | os.PathLike[str], rankings: Iterable[Ranked]) -> None:
    """Write rankings as `read_rankings` reads them. Atomic.

    Raises FeedbackError, and writes nothing, if one could not be read back or there is none.
    """

    def checked(one: Ranked) -> tuple[dict, list[str]]:
        record = {
            "prompt": to_json(one.prompt),
            "answers": list(one.answers),
            "ranks": list(one.ranks),
            "provenance": one.provenance,
        }
        return record, ranking_faults(record)

    write_records(path, map(checked, rankings), "ranking")


def pairs_of_rankings(rankings: Sequence[Ranked]) -> list[Comparison]:
    """Every pair of answers to one prompt of which one ranks before the other; ties make none."""
    pairs = []
    for one in rankings:
        for better, worse in permutations(range(len(one.ranks)), 2):
            if one.ranks[better] < one.ranks[worse]:
                texts = one.answers[better], one.answers[worse]
                pairs.append(Comparison(one.prompt, *texts, provenance=one.provenance))
    return pairs
