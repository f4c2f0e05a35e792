"""Three SIMULATED raters (模拟评分者): they see the judge's score through their own bias and noise.

No person scored or ranked anything in the task `assistant`; every page that shows it says so.
"""

from __future__ import annotations

import hashlib
import random

from minirlhf.tasks.assistant.items import Item
from minirlhf.tasks.assistant.judge import judge
from minirlhf.tasks.assistant.manners import REFUSAL

USUAL_LENGTH = 10  # words
RANKING_STEP = 0.5  # of the five-point scale: what a rater can tell apart


def rate(item: Item, answer: str, seed: int) -> tuple[float, float, float]:
    """The simulated raters' scores of one answer, three whole numbers from 1 to 5.

    They depend on nothing but (item, answer, seed), on every machine. A is lenient and likes
    length a little; B is strict and likes caution; C is unbiased but noisier.
    """
    a, b, c = (float(min(max(round(score), 1), 5)) for score in _impressions(item, answer, seed))
    return a, b, c


def rank(item: Item, answers: list[str], seed: int) -> list[int]:
    """The rank of each of K answers, 1 for the best; equal ranks are ties.

    One of the three raters, drawn by the item and the seed, looks at all of them. The same answer
    twice has the same rank. Raises ValueError if there are fewer than two answers.
    """
    if len(answers) < 2:
        raise ValueError(f"answers: expected at least two to rank, found {len(answers)}")
    rater = _random(seed, item, "").randrange(3)
    levels = []
    for answer in answers:
        impression = _impressions(item, answer, seed)[rater]
        levels.append(round(impression / RANKING_STEP))
    return [1 + sum(other > level for other in levels) for level in levels]


def _impressions(item: Item, answer: str, seed: int) -> tuple[float, float, float]:
    """What each rater makes of the answer, on the five-point scale, before rounding."""
    rng = _random(seed, item, answer)
    points = 1 + 4 * judge(item, answer)
    length = min(len(answer.split()), 2 * USUAL_LENGTH) - USUAL_LENGTH
    caution = 0.25 * bool(REFUSAL.search(answer))
    return (
        points + 0.3 + 0.03 * length + rng.gauss(0, 0.38),
        points - 0.3 + caution + rng.gauss(0, 0.38),
        points + rng.gauss(0, 0.5),
    )


def _random(seed: int, item: Item, answer: str) -> random.Random:
    turns = "\x1e".join(turn.text for turn in item.conversation)
    digest = hashlib.sha256(f"{seed}\x1f{turns}\x1f{answer}".encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))
