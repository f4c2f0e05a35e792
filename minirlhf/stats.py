"""TODO"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
from torch import Tensor


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean and its 95% confidence interval (normal approximation): {"mean", "low", "high", "n"}."""
    mean = statistics.fmean(values)
    half = 1.96 * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": len(values)}


def wilson(share: float, n: int) -> dict[str, float]:
    """95% interval of a share (Wilson, 1927): right also near 0 and 1."""
    z = 1.96
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return {"low": max(0.0, centre - half), "high": min(1.0, centre + half)}


def expected_calibration_error(predicted: np.ndarray, scores: np.ndarray, bins: int = 10) -> float:
    """ECE: the distance of mean prediction and mean score, averaged over groups of texts by prediction (weighted by size).

    Ten groups of equal size, but equal predictions stay together. Noise alone makes it a little above 0.
    Source: Naeini et al. 2015, here for scores instead of classes.
    """
    edges = np.unique(np.quantile(predicted, np.arange(1, bins) / bins))
    groups = np.searchsorted(edges, predicted, side="right")
    return sum(
        abs(float((predicted - scores)[groups == group].sum())) for group in np.unique(groups)
    ) / len(scores)


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's r; 0 if one side is constant."""
    if (
        len(a.unique()) < 2 or len(b.unique()) < 2
    ):  # their mean may differ from them by a rounding, and that would count
        return 0.0
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    norm = (a.norm() * b.norm()).item()
    return (a @ b).item() / norm if norm > 0 else 0.0


def ranks(values: Tensor) -> Tensor:
    """Ranks from 0; equal values share their mean rank."""
    _, inverse, counts = values.double().unique(return_inverse=True, return_counts=True)
    first = counts.cumsum(0) - counts
    return (first + (counts - 1) / 2).double()[inverse]


def calibration(predicted: np.ndarray, observed: np.ndarray, bins: int = 10) -> list[dict]:
    """Texts in ten equal groups by predicted score: mean prediction, mean observed score and its 95% interval."""
    rows = []
    for group in np.array_split(np.argsort(predicted), bins):
        if len(group) < 2:
            continue
        mean, half = observed[group].mean(), 1.96 * observed[group].std(ddof=1) / len(group) ** 0.5
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
