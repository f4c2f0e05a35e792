"""The task `openings`: write the opening of a text for a topic. It ships with the project.

The corpus is composed (compose.py) and the judge is a rubric (judge.py). No person scored the
feedback: three SIMULATED raters (raters.py) see the rubric through their own bias and noise. The
handwritten files were scored by their authors.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from minirlhf.feedback.records import read_triples
from minirlhf.system.files import replacing
from minirlhf.tasks.openings.compose import FEEDBACK_SHARES, corpus, mixture
from minirlhf.tasks.openings.judge import explain, judge
from minirlhf.tasks.openings.knowledge import DATA, knowledge
from minirlhf.tasks.openings.raters import rate
from minirlhf.tasks.task import Task

CORPUS_SIZE = 20_000
HELDOUT_SIZE = 1_000
FEEDBACK_SIZE = 12_000
FEEDBACK_SEED = 2024
HELDOUT_SEED_OFFSET = 1_000_003  # apart from the seeds of the corpora that users train on


def build_feedback(
    path: str | os.PathLike[str], seed: int = FEEDBACK_SEED, count: int = FEEDBACK_SIZE
) -> None:
    """Write `count` different texts on the training topics with simulated ratings. Atomic.

    The same seed gives the same bytes. The score in the file is the mean rating to two decimals.
    Raises ValueError if fewer than `count` different texts were composed.
    """
    topics = tuple(topic for topic in knowledge() if topic.split == "train")
    pairs = list(dict.fromkeys(mixture(2 * count, seed, FEEDBACK_SHARES, topics)))[:count]
    if len(pairs) < count:
        raise ValueError(
            f"count: expected at most {len(pairs)}, the different texts composed, found {count}"
        )
    lines = []
    for topic, text in pairs:
        ratings = rate(topic, text, seed)
        record = {
            "topic": topic,
            "text": text,
            "score": round(sum(ratings) / 3, 2),
            "ratings": [int(rating) for rating in ratings],
            "provenance": "simulated",
        }
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    path = Path(path)
    with replacing(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8", newline="\n")


def load(seed: int, corpus_texts: int = CORPUS_SIZE) -> Task:
    """The task; `corpus_texts` texts are composed from the seed, apart from the held-out corpus.

    Raises ValueError if a shipped file is missing or broken.
    """
    texts = corpus(corpus_texts, seed)
    known = set(texts)
    # Many of the shorter texts turn up in both corpora, so more are composed than are kept.
    candidates = dict.fromkeys(corpus(3 * HELDOUT_SIZE, seed + HELDOUT_SEED_OFFSET))
    fresh = [pair for pair in candidates if pair not in known]
    topics = knowledge()
    return Task(
        name="openings",
        train_prompts=[topic.topic for topic in topics if topic.split == "train"],
        heldout_prompts=[topic.topic for topic in topics if topic.split == "heldout"],
        corpus=texts,
        corpus_heldout=fresh[:HELDOUT_SIZE],
        feedback=read_triples(DATA / "openings.jsonl"),
        authors_feedback=read_triples(DATA / "handwritten_train.jsonl"),
        handwritten=read_triples(DATA / "handwritten.jsonl"),
        judge=judge,
        explain=explain,
        judge_name="rubric of tasks/openings/judge.py (rules, no person)",
        raters=rate,
        match_topics=True,
        base_steps=0,
        notes=(
            "the raters of this task are simulated: no person scored its feedback",
            "the judge is the rubric that the simulated raters see through noise",
        ),
    )
