"""Over-optimisation (过度优化): how far can a reward model be climbed before the judge turns?

Source: Gao, Schulman and Hilton (2022).

d is the square root of the KL (nats a text) to the policy one started from, R the judge's score
less its score at the start:

    best-of-n:  R(d) = d (alpha - beta d)              turns at d = alpha / (2 beta)
    RL:         R(d) = d (alpha - beta ln d)           turns at d = exp(alpha / beta - 1)

Both are linear in alpha and beta, so least squares fits them in one step.
"""

from __future__ import annotations

import math

import numpy as np


def best_of_n_scores(proxy: np.ndarray, gold: np.ndarray, n: int) -> tuple[float, float]:
    """Mean (proxy, gold) of the proxy's favourite among n texts, over all choices of n out of m.

    proxy, gold (prompts, m). No sampling: the text of rank i (1 the worst) is the best of
    C(i - 1, n - 1) of the C(m, n) choices (Nakano et al. 2021). Equal
    proxies are ranked as they stand.
    """
    m = proxy.shape[1]
    if not 1 <= n <= m:
        raise ValueError(f"n: expected 1 to {m}, the texts of a prompt, found {n}")
    log_choices = [
        math.lgamma(i) - math.lgamma(n) - math.lgamma(i - n + 1) if i >= n else -math.inf
        for i in range(1, m + 1)
    ]
    weights = np.exp(
        np.array(log_choices) - (math.lgamma(m + 1) - math.lgamma(n + 1) - math.lgamma(m - n + 1))
    )
    order = np.argsort(proxy, axis=1, kind="stable")
    return tuple(
        float((np.take_along_axis(scores, order, axis=1) @ weights).mean())
        for scores in (proxy, gold)
    )


def fit_form(d: np.ndarray, score: np.ndarray, kind: str) -> dict[str, float | None]:
    """alpha, beta, r_squared (share of the variance explained) and turn.

    `turn` is the d of the highest score, None if it never turns.

    d, score (points,); `score` is less the score at d = 0. `kind` is "best-of-n" or "rl". Points at
    d <= 0 say nothing and are left out. Raises ValueError for another kind or fewer than three
    points.
    """
    if kind not in ("best-of-n", "rl"):
        raise ValueError(f'kind: expected "best-of-n" or "rl", found {kind!r}')
    d, score = d[d > 0], score[d > 0]
    if len(d) < 3:
        raise ValueError(f"points: expected at least 3 with KL above 0, found {len(d)}")
    bend = d * d if kind == "best-of-n" else d * np.log(d)
    (alpha, beta), *_ = np.linalg.lstsq(np.stack([d, -bend], axis=1), score, rcond=None)
    rest = score - alpha * d + beta * bend
    spread = ((score - score.mean()) ** 2).sum()
    turn = None
    if beta > 0:
        turn = (
            max(0.0, alpha / (2 * beta))
            if kind == "best-of-n"
            else math.exp(min(alpha / beta - 1, 700))
        )
    return {
        "alpha": float(alpha),
        "beta": float(beta),
        "r_squared": float(1 - (rest**2).sum() / spread) if spread else 1.0,
        "turn": None if turn is None else float(turn),
    }
