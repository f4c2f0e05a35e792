"""The task `openings`: write the opening of a text for a topic. Ships with the project, needs no download.

The corpus is composed (openings_compose.py), the judge is a rubric (openings_judge.py). No person scored the
feedback: three SIMULATED raters (模拟评分者) see the rubric through their own bias and noise.
The handwritten files were scored by their authors.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from minirlhf.feedback.records import read_triples
from minirlhf.system.files import replacing
from minirlhf.tasks.openings.compose import FEEDBACK_SHARES, corpus, mixture
from minirlhf.tasks.openings.judge import judge
from minirlhf.tasks.openings.knowledge import DATA, knowledge
from minirlhf.tasks.openings.raters import rate
from minirlhf.tasks.task import Task

CORPUS_SIZE = 20_000
HELDOUT_SIZE = 1_000
FEEDBACK_SIZE = 12_000
FEEDBACK_SEED = 2024


def build_feedback(
    path: str | os.PathLike[str], seed: int = FEEDBACK_SEED, count: int = FEEDBACK_SIZE
) -> None:
    """Write feedback: `count` different texts on the training topics, with simulated ratings. Atomic.

    The same seed gives the same bytes. The file's score is the mean rating, rounded to two decimals.
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
    """The task. Its corpus is composed from the seed; the held-out corpus shares no text with it."""
    texts = corpus(corpus_texts, seed)
    known = set(texts)
    # Drawn apart from the corpus; many of the shorter texts turn up in both, so more are drawn than are kept.
    fresh = [
        pair
        for pair in dict.fromkeys(corpus(3 * HELDOUT_SIZE, seed + 1_000_003))
        if pair not in known
    ]
    return Task(
        name="openings",
        train_prompts=[topic.topic for topic in knowledge() if topic.split == "train"],
        heldout_prompts=[topic.topic for topic in knowledge() if topic.split == "heldout"],
        corpus=texts,
        corpus_heldout=fresh[:HELDOUT_SIZE],
        feedback=read_triples(DATA / "openings.jsonl"),
        authors_feedback=read_triples(DATA / "handwritten_train.jsonl"),
        handwritten=read_triples(DATA / "handwritten.jsonl"),
        judge=judge,
        judge_name="rubric of openings_judge.py (a rule list, no person)",
        raters=rate,
        match_topics=True,
        base_steps=0,
        notes=(
            "the raters of this task are simulated: no person scored its feedback",
            "the judge is the rubric that the simulated raters see through noise",
        ),
    )
