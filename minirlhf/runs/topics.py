"""The topics of a run: which ones it knows, what a user should know about another one."""

from __future__ import annotations

import difflib
from typing import Any

from minirlhf.feedback.conversation import in_words
from minirlhf.runs.folder import Run
from minirlhf.runs.products import DEMONSTRATIONS, FEEDBACK
from minirlhf.system.files import json_lines
from minirlhf.tasks.load import load_task
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.truncation import CutTopics

NEAREST = 3  # topics listed
ALIKE = 0.3  # least similarity (0 to 1) of a topic that counts as near
COMPARED, COMPARED_CHARACTERS = 1000, 40  # so that the search takes no time worth mentioning
SHOWN = 60  # characters of a topic in a message


def known_topics(run: Run) -> list[str]:
    """The topics of the run's task, without the cost of its corpus and judge.

    Empty if they cannot be read any more, and for a run with conversations, which may be asked
    anything.
    """
    if has_conversations(run):
        return []
    try:
        topics = _own_prompts(run)
        if run.config.feedback is None:
            topics = [*_topics_of_task(run.config.task), *topics]
        return list(dict.fromkeys(topics))
    except (OSError, ValueError, KeyError):
        return []


def has_conversations(run: Run) -> bool:
    """Whether the run's prompts are conversations, not topics."""
    if run.config.feedback is None and run.config.task == "assistant":
        return True
    try:
        return any(isinstance(prompt, list) for prompt in _own_prompts(run))
    except (OSError, ValueError, KeyError):
        return False


def _own_prompts(run: Run) -> list[Any]:
    """The topics of the user's own feedback and the prompts of their demonstrations, as in the
    files, which were checked when they were trained on: texts, or lists of turns.
    """
    config = run.config
    files = (
        (config.feedback, FEEDBACK, "topic"),
        (config.sft.demonstrations, DEMONSTRATIONS, "prompt"),
    )
    prompts = []
    for original, kept, field in files:
        if original is not None:
            copy = run.path / kept
            lines = json_lines(copy if copy.exists() else original)
            prompts += [line.record[field] for line in lines]
    return prompts


def _topics_of_task(task: str) -> list[str]:
    if task == "openings":
        from minirlhf.tasks.openings.knowledge import knowledge

        return [topic.topic for topic in knowledge()]
    if task == "reviews":
        from minirlhf.tasks.reviews import task as reviews

        train, heldout = reviews.heldout_split()
        return [in_words(triple.topic) for triple in train + heldout]
    found = load_task(task, seed=0, corpus_texts=1)
    return [in_words(prompt) for prompt in (*found.train_prompts, *found.heldout_prompts)]


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
        what = "question" if has_conversations(run) else "topic"
        lines.append(
            f"{what}: the model reads its last {cut.limit - 1} tokens; "
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
