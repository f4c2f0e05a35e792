"""The topics of a run: which ones it knows, what a user should know about another one."""

from __future__ import annotations

import difflib
from pathlib import Path

from minirlhf.feedback.conversation import in_words
from minirlhf.runs.folder import Run
from minirlhf.system.files import json_lines
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.truncation import CutTopics

NEAREST = 3  # topics listed
ALIKE = 0.3  # least similarity (0 to 1) of a topic that counts as near
COMPARED, COMPARED_CHARACTERS = 1000, 40  # so that the search takes no time worth mentioning
SHOWN = 60  # characters of a topic in a message


def known_topics(run: Run) -> list[str]:
    """The topics of the run's task, without the cost of its corpus and judge.

    Empty if they cannot be read any more.
    """
    config = run.config
    try:
        if config.feedback is not None:
            copy = run.path / "feedback.jsonl"
            return _topics_of(copy if copy.exists() else config.feedback)
        if config.task == "openings":
            from minirlhf.tasks.openings.knowledge import knowledge

            return [topic.topic for topic in knowledge()]
        if config.task == "assistant":
            return []  # it may be asked anything
        from minirlhf.tasks.reviews import task as reviews

        train, heldout = reviews.heldout_split()
        return list(dict.fromkeys(in_words(triple.topic) for triple in train + heldout))
    except (OSError, ValueError, KeyError):
        return []


def _topics_of(path: Path) -> list[str]:
    """The topics of a feedback file that was checked when it was trained on."""
    return list(dict.fromkeys(line.record["topic"] for line in json_lines(path)))


def nearest(topic: str, topics: list[str]) -> list[str]:
    """The topics written most like this one, nearest first; upper and lower case are alike."""

    def simple(words: str) -> str:
        return words.casefold()[:COMPARED_CHARACTERS]

    words = set(simple(topic).split())
    # Of very many topics, those that share most words come first.
    ordered = sorted(topics, key=lambda known: -len(words & set(simple(known).split())))
    by_simple: dict[str, str] = {}
    for known in ordered[:COMPARED]:
        by_simple.setdefault(simple(known), known)
    found = difflib.get_close_matches(simple(topic), by_simple, NEAREST, ALIKE)
    return [by_simple[match] for match in found]


def advice_on_topic(run: Run, tokenizer: Tokenizer, topic: str) -> list[str]:
    """What to know before texts on this topic are sampled, one line each; usually nothing."""
    lines = []
    cut = CutTopics.of(tokenizer, [topic], run.config.model.context)
    if cut.cut:
        lines.append(
            f"topic: the model reads its last {cut.limit - 1} tokens; "
            "what stands before them is cut"
        )
    topics = known_topics(run)
    if topics and topic not in topics:
        near = nearest(topic, topics)
        words = "nearest known topics" if near else "known topics are, for example"
        listed = "; ".join(_shortened(known) for known in near or topics[:NEAREST])
        lines.append(
            f"topic: {_shortened(topic)} is new to this run, so the texts may be about something "
            f"else; {words}: {listed}"
        )
    return lines


def _shortened(topic: str) -> str:
    return repr(topic if len(topic) <= SHOWN else topic[: SHOWN - 3] + "...")
