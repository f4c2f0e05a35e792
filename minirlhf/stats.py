"""Statistics used by training, evaluation and reports: intervals, correlation, calibration.

Nothing here samples a model or reads a file. torch is needed for type hints only, so that a report
can be made without loading it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

LEAST_FOR_CORRELATION = 4  # r of two points is always 1 or -1, and that of three says hardly more
Z_95 = 1.96  # a normal variable lies within this many standard deviations in 95% of cases


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean and its 95% confidence interval (normal approximation): {"mean", "low", "high", "n"}.

    The interval of a single value is infinite.
    """
    mean = statistics.fmean(values)
    half = math.inf
    if len(values) > 1:
        half = Z_95 * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": len(values)}


def wilson(share: float, n: int) -> dict[str, float]:
    """95% interval {"low", "high"} of a share of n cases; valid near 0 and 1 too (Wilson, 1927)."""
    spread = Z_95 * Z_95
    centre = (share + spread / (2 * n)) / (1 + spread / n)
    error = math.sqrt(share * (1 - share) / n + spread / (4 * n * n))
    half = Z_95 / (1 + spread / n) * error
    return {"low": max(0.0, centre - half), "high": min(1.0, centre + half)}


def share(flags: Sequence[bool]) -> dict[str, float]:
    """How many of the cases are true, with Wilson's 95% interval: as `interval`, of a share."""
    found = sum(flags) / len(flags)
    return {"mean": found, **wilson(found, len(flags)), "n": len(flags)}


def ratio_interval(totals: Sequence[float], counts: Sequence[float]) -> dict[str, float]:
    """The mean of a whole, sum of `totals` over sum of `counts`, with its 95% interval.

    An entry of both is one text: its nats and its tokens, for example. Not the tokens but the texts
    are independent, so the interval is that of a ratio of two means over the texts (the delta
    method). The interval of a single text is infinite.
    """
    n, mean, half = len(totals), sum(totals) / sum(counts), math.inf
    if n > 1:
        pairs = zip(totals, counts, strict=True)
        surplus = [total - mean * count for total, count in pairs]
        half = Z_95 * statistics.stdev(surplus) * math.sqrt(n) / sum(counts)
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def change(before: dict[str, float], after: dict[str, float]) -> str:
    """Whether the mean of two `interval`s changed by more than chance.

    "rose" or "fell" if the 95% interval of the difference excludes 0, else "did not clearly
    change".
    """
    difference = after["mean"] - before["mean"]
    # Variances of independent means add up, and so do the squares of half the intervals' widths.
    half = math.hypot(before["mean"] - before["low"], after["mean"] - after["low"])
    if difference > half:
        return "rose"
    if difference < -half:
        return "fell"
    return "did not clearly change"


def pairs_words(right: dict) -> str:
    """The share of pairs in the right order: 0.812 [0.790, 0.834], n = 1,234 pairs of 300 prompts.

    `right` is `pairs_right` of evaluation/reward_quality.py.
    """
    share = f"{right['mean']:.3f} [{right['low']:.3f}, {right['high']:.3f}]"
    return f"{share}, n = {right['pairs']:,} pairs of {right['n']:,} prompts"


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's r of two vectors (n,); 0 if one of them is constant but for rounding."""
    if _is_constant(a) or _is_constant(b):
        return 0.0
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    norm = (a.norm() * b.norm()).item()
    return (a @ b).item() / norm if norm > 0 else 0.0


def _is_constant(values: Tensor) -> bool:
    """Whether the values (n,) differ by no more than two units in their last digit.

    Asked of the values themselves: the mean of a constant vector may be off by a rounding error.
    """
    import torch

    if not values.is_floating_point():
        return len(values.unique()) < 2
    if not len(values):
        return True
    spread = values.max().double() - values.min().double()
    return bool(spread <= 2 * torch.finfo(values.dtype).eps * values.abs().max().double())


def correlation_interval(r: float, n: int, of_ranks: bool = False) -> tuple[float, float]:
    """95% interval (low, high) of a correlation r of n points, n at least 4, by Fisher's z (1921).

    atanh(r) is nearly normal with variance 1 / (n - 3), or (1 + r^2 / 2) / (n - 3) if r is of ranks
    (Bonett and Wright, 2000). It takes the points for independent: texts on one topic are less so.
    """
    if abs(r) >= 1:
        return r, r
    variance = (1 + r * r / 2 if of_ranks else 1.0) / (n - 3)
    half = Z_95 * math.sqrt(variance)
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)


def correlation_facts(name: str, r: float, n: int, of_ranks: bool = False) -> dict:
    """{name: r, name_low, name_high}, as reports hold it; all None if n is too few to say."""
    values: tuple[float | None, ...] = (None, None, None)
    if n >= LEAST_FOR_CORRELATION:
        values = (r, *correlation_interval(r, n, of_ranks))
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def correlation_words(facts: dict, name: str, n: int | None = None) -> str:
    """What `correlation_facts` gave, in words: 0.947 [0.938, 0.955], n = 600; or r alone."""
    count = "" if n is None else f"n = {n:,}"
    if facts[name] is None:
        return f"too few to say ({count})" if count else "too few to say"
    low, high = facts.get(f"{name}_low"), facts.get(f"{name}_high")
    bounds = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    return f"{facts[name]:.3f}{bounds}" + (f", {count}" if count else "")


def ranks(values: Tensor) -> Tensor:
    """Ranks (n,) from 0; equal values share their mean rank."""
    _, inverse, counts = values.double().unique(return_inverse=True, return_counts=True)
    first = counts.cumsum(0) - counts
    return (first + (counts - 1) / 2).double()[inverse]


def calibration(predicted: np.ndarray, observed: np.ndarray, bins: int = 10) -> list[dict]:
    """Texts in ten groups of equal size by predicted score; both arguments are (n,).

    One row per group: mean prediction, mean observed score with its 95% interval, number of texts.
    """
    rows = []
    for group in np.array_split(np.argsort(predicted), bins):
        if len(group) < 2:
            continue
        score = interval(observed[group].tolist())
        rows.append(
            {
                "predicted": float(predicted[group].mean()),
                "observed": score["mean"],
                "low": score["low"],
                "high": score["high"],
                "n": len(group),
            }
        )
    return rows


def expected_calibration_error(predicted: np.ndarray, scores: np.ndarray, bins: int = 10) -> float:
    """ECE: distance between mean prediction and mean score, averaged over groups of texts.

    Ten groups of equal size by prediction, but equal predictions stay together; a group counts by
    its size. Noise alone makes it a little above 0. Both arguments are (n,). Source: Naeini et al.
    2015, here for scores instead of classes.
    """
    edges = np.unique(np.quantile(predicted, np.arange(1, bins) / bins))
    groups = np.searchsorted(edges, predicted, side="right")
    errors = predicted - scores
    distances = [abs(float(errors[groups == group].sum())) for group in np.unique(groups)]
    return sum(distances) / len(scores)
