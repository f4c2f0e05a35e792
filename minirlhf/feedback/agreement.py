"""How far can feedback be trusted? Agreement between raters (评分者一致性) and the noise ceiling.

A unit is one text with its ratings; the measures take a list of units. What a whole file of
feedback comes to is in summary.py.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from minirlhf.feedback.conversation import Prompt
from minirlhf.feedback.records import Triple

LEVELS = ("nominal", "ordinal", "interval")


def krippendorff_alpha(units: Sequence[Sequence[float]], level: str = "interval") -> float | None:
    """Krippendorff's alpha: 1 is full agreement, 0 is what chance would give.

    `units` holds the ratings of each text, in any number and order; `level` is "nominal", "ordinal"
    or "interval". Ratings that differ by no more than rounding are one. None if no unit has two
    ratings or all ratings are equal. Raises ValueError for an unknown level. Source: Krippendorff,
    "Computing Krippendorff's Alpha-Reliability" (2011).
    """
    if level not in LEVELS:
        raise ValueError(f'level: expected "nominal", "ordinal" or "interval", found {level!r}')
    pairable = _without_rounding([unit for unit in units if len(unit) > 1])
    values = np.unique([value for unit in pairable for value in unit])
    if len(values) < 2:
        return None
    counts = np.zeros((len(pairable), len(values)))  # (units, values)
    for row, unit in enumerate(pairable):
        np.add.at(counts[row], np.searchsorted(values, unit), 1)
    # Coincidences: how often two values occur in one unit, each unit weighted by 1 / (ratings - 1).
    weighted = counts / (counts.sum(1, keepdims=True) - 1)
    coincidences = weighted.T @ counts - np.diag(weighted.sum(0))  # (values, values)
    totals = counts.sum(0)
    distance = _distances(values, totals, level)
    expected = (np.outer(totals, totals) * distance).sum() / (totals.sum() - 1)
    return float(1 - (coincidences * distance).sum() / expected)


def _without_rounding(units: Sequence[Sequence[float]]) -> list[list[float]]:
    """The same ratings, those that differ in the last digits replaced by the smallest of them.

    A score in [0, 1] that goes back to the file's scale comes out as 3.0000000000000004.
    """
    ratings = np.unique([value for unit in units for value in unit])
    if not len(ratings):
        return []
    first = np.diff(ratings, prepend=-np.inf) > _rounding(ratings)
    one = dict(zip(ratings.tolist(), ratings[first][first.cumsum() - 1].tolist(), strict=True))
    return [[one[float(value)] for value in unit] for unit in units]


def _rounding(values: np.ndarray) -> float:
    """How far equal numbers of this size (in float64) may be apart after a few operations."""
    return float(16 * np.finfo(float).eps * np.abs(values).max())


def _distances(values: np.ndarray, totals: np.ndarray, level: str) -> np.ndarray:
    """How far two values are apart (values, values); `totals` counts how often each occurs."""
    if level == "nominal":
        return 1 - np.eye(len(values))
    if level == "interval":
        return (values[:, None] - values) ** 2
    # Ordinal: the number of ratings between two values, half of those at the values included.
    middle = totals.cumsum() - totals / 2
    return (middle[:, None] - middle) ** 2


def cohens_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Cohen's kappa (1960) of two raters' answers to the same questions.

    None if chance alone would give full agreement. Raises ValueError unless both raters gave the
    same number of answers, at least one.
    """
    if len(first) != len(second) or not first:
        raise ValueError(
            "kappa: expected as many answers from both raters, "
            f"found {len(first)} and {len(second)}"
        )
    n = len(first)
    chance = sum(first.count(answer) * second.count(answer) for answer in set(first)) / n**2
    agreed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    return (agreed - chance) / (1 - chance) if chance < 1 else None


def noise_ceiling(units: Sequence[Sequence[float]]) -> dict[str, float] | None:
    """The best Pearson r that any reward model can expect.

    Returns {"one_rater", "mean", "reliability", "n"}.

    A rating is the text's true score plus noise, its raters drawn at random (so a rater's lenience
    counts as noise). With true variance t and noise variance e, estimated from the spread within
    texts, the mean of k ratings has variance t + e / k. A model that knows the true score has r =
    sqrt(t / (t + e)) with one rating and sqrt(t / (t + e/k)) with the mean. With the same k for all
    texts these are the roots of ICC(1,1) and ICC(1,k) of Shrout and Fleiss (1979).

    Uses the texts with at least two ratings; None if there are fewer than two of them, or if their
    means are all equal, but for rounding.
    """
    rated = [np.asarray(unit, dtype=float) for unit in units if len(unit) > 1]
    if len(rated) < 2:
        return None
    squares = sum(((unit - unit.mean()) ** 2).sum() for unit in rated)
    within = squares / sum(len(unit) - 1 for unit in rated)  # e
    means = np.array([unit.mean() for unit in rated])
    of_means = float(np.var(means, ddof=1))  # t + e / k
    noise = within * np.mean([1 / len(unit) for unit in rated])  # e / k
    if math.sqrt(of_means) <= _rounding(means):
        return None
    true = max(0.0, of_means - noise)  # t
    return {
        "one_rater": math.sqrt(true / (true + within)) if true else 0.0,
        "mean": math.sqrt(true / of_means),
        "reliability": true / of_means,
        "n": len(rated),
    }


def by_rater(
    triples: Sequence[Triple], score_range: tuple[float, float]
) -> dict[tuple[Prompt, str], dict[str, list[float]]]:
    """For each (topic, text), each rater's ratings on the file's scale, in the order given.

    A triple without `rater` counts as one new rater for each of its ratings; a triple without
    `ratings` counts as one rating, its score.
    """
    low, high = score_range
    texts: dict[tuple[Prompt, str], dict[str, list[float]]] = {}
    for number, triple in enumerate(triples):
        raters = texts.setdefault((triple.topic, triple.text), {})
        ratings = triple.ratings or (low + triple.score * (high - low),)
        for index, rating in enumerate(ratings):
            name = triple.rater or f"line {number} rater {index}"
            raters.setdefault(name, []).append(rating)
    return texts


def first_ratings(texts: dict[tuple[Prompt, str], dict[str, list[float]]]) -> list[list[float]]:
    """One unit per text of `by_rater`: each rater's first rating (a repeat is no new opinion)."""
    return [[ratings[0] for ratings in raters.values()] for raters in texts.values()]
