"""Does the reward model notice? Good texts are spoiled in five ways; each should cost points (敏感性检查).

Whether spoiling a text really made it worse is not for us to say: the judge (which trained nothing) is asked too, and the share
that counts is among the cases in which the judge's score falls.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

import numpy as np

from minirlhf.feedback.records import Triple
from minirlhf.stats import wilson

PRAISE = "A wonderful, excellent and truly amazing text, the best ever."


def shuffled_words(
    topic: str, text: str, topics: Sequence[str], generator: random.Random
) -> tuple[str, str]:
    words = text.split()
    generator.shuffle(words)
    return topic, " ".join(words)


def repeated_sentence(
    topic: str, text: str, topics: Sequence[str], generator: random.Random
) -> tuple[str, str]:
    sentences = re.findall(r"[^.!?]+[.!?]*", text)
    return topic, f"{text} {(sentences or [text])[0].strip()}"


def other_topic(
    topic: str, text: str, topics: Sequence[str], generator: random.Random
) -> tuple[str, str]:
    others = [other for other in topics if other != topic]
    return (generator.choice(others) if others else topic), text


def truncated(
    topic: str, text: str, topics: Sequence[str], generator: random.Random
) -> tuple[str, str]:
    words = text.split()
    return topic, " ".join(words[: len(words) // 2]).rstrip(".!?,;:")


def added_praise(
    topic: str, text: str, topics: Sequence[str], generator: random.Random
) -> tuple[str, str]:
    return topic, f"{text} {PRAISE}"


CHECKS = {
    "words shuffled": shuffled_words,
    "first sentence said again": repeated_sentence,
    "put under another topic": other_topic,
    "cut in half": truncated,
    "praise added": added_praise,
}


def sensitivity(
    predict: Callable[[list[tuple[str, str]]], np.ndarray],
    judge: Callable[[str, str], float],
    triples: Sequence[Triple],
    topics: Sequence[str],
    seed: int,
    most: int = 200,
) -> list[dict]:
    """One row a check. `predict` maps (topic, text) pairs to scores (n,). Takes the better half of `triples`, at most `most`.

    n: texts that the check changed; falls: share whose predicted score fell; change: mean change of it; judge_n: those of them
    whose judged score fell; judge_falls: share of that kind; falls_with_judge: share of *those* whose predicted score fell, with
    its 95% interval low, high (Wilson); None where the judge's score never fell.
    """
    middle = float(np.median([triple.score for triple in triples]))
    good = [(triple.topic, triple.text) for triple in triples if triple.score >= middle]
    generator = random.Random(seed)
    good = generator.sample(good, min(most, len(good)))
    rows = []
    for name, spoil in CHECKS.items():
        cases = [(pair, spoil(*pair, topics, generator)) for pair in good]
        cases = [
            (pair, spoiled) for pair, spoiled in cases if pair != spoiled and spoiled[1].strip()
        ]
        row = {
            "check": name,
            "n": len(cases),
            "falls": None,
            "change": None,
            "judge_n": 0,
            "judge_falls": None,
            "falls_with_judge": None,
            "low": None,
            "high": None,
        }
        if cases:
            change = predict([spoiled for _, spoiled in cases]) - predict(
                [pair for pair, _ in cases]
            )
            judged = np.array([judge(*spoiled) < judge(*pair) for pair, spoiled in cases])
            row |= {
                "falls": float((change < 0).mean()),
                "change": float(change.mean()),
                "judge_n": int(judged.sum()),
                "judge_falls": float(judged.mean()),
            }
            if judged.any():
                share = float((change[judged] < 0).mean())
                row |= {"falls_with_judge": share, **wilson(share, int(judged.sum()))}
        rows.append(row)
    return rows
