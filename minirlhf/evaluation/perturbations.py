"""Perturbation tests (敏感性检查): ways to degrade a good text that should lower its score.

A perturbation need not make a text worse. So the judge, which trained nothing, scores both texts
too, and what counts is how often the reward model's score falls where the judge's does.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minirlhf.feedback.conversation import Prompt
from minirlhf.feedback.records import Triple
from minirlhf.stats import wilson

PRAISE = "A wonderful, excellent and truly amazing text, the best ever."

# A perturbation maps (topic, text, all topics, random numbers) to another (topic, text).


def shuffled_words(
    topic: Prompt, text: str, topics: Sequence[Prompt], generator: random.Random
) -> tuple[Prompt, str]:
    words = text.split()
    generator.shuffle(words)
    return topic, " ".join(words)


def repeated_sentence(
    topic: Prompt, text: str, topics: Sequence[Prompt], generator: random.Random
) -> tuple[Prompt, str]:
    sentences = re.findall(r"[^.!?]+[.!?]*", text)
    first = sentences[0] if sentences else text
    return topic, f"{text} {first.strip()}"


def other_topic(
    topic: Prompt, text: str, topics: Sequence[Prompt], generator: random.Random
) -> tuple[Prompt, str]:
    others = [other for other in topics if other != topic]
    return (generator.choice(others) if others else topic), text


def truncated(
    topic: Prompt, text: str, topics: Sequence[Prompt], generator: random.Random
) -> tuple[Prompt, str]:
    words = text.split()
    return topic, " ".join(words[: len(words) // 2]).rstrip(".!?,;:")


def added_praise(
    topic: Prompt, text: str, topics: Sequence[Prompt], generator: random.Random
) -> tuple[Prompt, str]:
    return topic, f"{text} {PRAISE}"


CHECKS = {
    "words shuffled": shuffled_words,
    "first sentence repeated": repeated_sentence,
    "put under another topic": other_topic,
    "cut in half": truncated,
    "praise added": added_praise,
}


def sensitivity(
    predict: Callable[[list[tuple[Prompt, str]]], np.ndarray],
    judge: Callable[[Any, str], float],
    triples: Sequence[Triple],
    topics: Sequence[Prompt],
    seed: int,
    most: int = 200,
) -> list[dict]:
    """Perturb the better half of `triples` (at most `most` of them); one row per perturbation.

    `predict` maps (topic, text) pairs to scores (n,). A row holds
    - check, n: the perturbation, and the number of texts that it changed;
    - falls, change: the share of them whose predicted score fell, and its mean change;
    - judge_n, judge_falls: the number and share of them whose judged score fell;
    - falls_with_judge, low, high: of those, the share whose predicted score fell too, with its 95%
      interval (Wilson); None if the judged score never fell.
    """
    middle = float(np.median([triple.score for triple in triples]))
    good = [(triple.topic, triple.text) for triple in triples if triple.score >= middle]
    generator = random.Random(seed)
    good = generator.sample(good, min(most, len(good)))
    rows = []
    for name, perturb in CHECKS.items():
        originals, degraded = [], []
        for pair in good:
            other = perturb(*pair, topics, generator)
            if other != pair and other[1].strip():
                originals.append(pair)
                degraded.append(other)
        rows.append({"check": name, **_compare(predict, judge, originals, degraded)})
    return rows


def _compare(
    predict: Callable[[list[tuple[Prompt, str]]], np.ndarray],
    judge: Callable[[Any, str], float],
    originals: list[tuple[Prompt, str]],
    degraded: list[tuple[Prompt, str]],
) -> dict:
    row: dict = {
        "n": len(originals),
        "falls": None,
        "change": None,
        "judge_n": 0,
        "judge_falls": None,
        "falls_with_judge": None,
        "low": None,
        "high": None,
    }
    if not originals:
        return row
    change = predict(degraded) - predict(originals)
    judged_lower = np.array(
        [judge(*other) < judge(*pair) for pair, other in zip(originals, degraded, strict=True)]
    )
    row["falls"] = float((change < 0).mean())
    row["change"] = float(change.mean())
    row["judge_n"] = int(judged_lower.sum())
    row["judge_falls"] = float(judged_lower.mean())
    if judged_lower.any():
        share = float((change[judged_lower] < 0).mean())
        row["falls_with_judge"] = share
        row |= wilson(share, row["judge_n"])
    return row
