"""Statistics of scores: confidence intervals, correlation, ranks, calibration.

The intervals are approximate 95% intervals.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
from torch import Tensor

Z = 1.96  # standard normal quantile of a two-sided 95% interval


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean and its 95% confidence interval (normal approximation): {"mean", "low", "high", "n"}."""
    mean = statistics.fmean(values)
    half = math.inf
    if len(values) > 1:
        half = Z * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": len(values)}


def wilson(share: float, n: int) -> dict[str, float]:
    """95% interval of a share of n (Wilson, 1927), valid near 0 and 1 too: {"low", "high"}."""
    z = Z
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return {"low": max(0.0, centre - half), "high": min(1.0, centre + half)}


def expected_calibration_error(predicted: np.ndarray, scores: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error (ECE): |mean prediction - mean score|, averaged over groups.

    predicted, scores: (texts,). The groups are `bins` of equal size by prediction, weighted by
    size; equal predictions stay together. Noise alone makes it a little above 0. Source: Naeini et
    al. 2015, here for scores instead of classes.
    """
    edges = np.unique(np.quantile(predicted, np.arange(1, bins) / bins))
    groups = np.searchsorted(edges, predicted, side="right")
    total = 0
    for group in np.unique(groups):
        errors = (predicted - scores)[groups == group]
        total += abs(float(errors.sum()))  # group size times the distance of its two means
    return total / len(scores)


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's r of a and b (n,); 0 if one of them is constant."""
    # Asked of the values themselves: the mean of equal values may differ from them by rounding.
    if len(a.unique()) < 2 or len(b.unique()) < 2:
        return 0.0
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    norm = (a.norm() * b.norm()).item()
    return (a @ b).item() / norm if norm > 0 else 0.0


def ranks(values: Tensor) -> Tensor:
    """Ranks from 0 of values (n,); equal values share their mean rank."""
    _, inverse, counts = values.double().unique(return_inverse=True, return_counts=True)
    first = counts.cumsum(0) - counts
    return (first + (counts - 1) / 2).double()[inverse]


def calibration(predicted: np.ndarray, observed: np.ndarray, bins: int = 10) -> list[dict]:
    """A calibration curve: texts in `bins` equal groups by predicted score.

    predicted, observed: (texts,). Each group has its mean prediction, its mean observed score and
    that mean's 95% interval: {"predicted", "observed", "low", "high", "n"}. Groups of fewer than 2
    texts are left out.
    """
    rows = []
    for group in np.array_split(np.argsort(predicted), bins):
        if len(group) < 2:
            continue
        mean = observed[group].mean()
        half = Z * observed[group].std(ddof=1) / len(group) ** 0.5
        rows.append(
            {
                "predicted": float(predicted[group].mean()),
                "observed": float(mean),
                "low": float(mean - half),
                "high": float(mean + half),
                "n": len(group),
            }
        )
    return rows
