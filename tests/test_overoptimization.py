"""Best-of-n by enumeration, the functional forms on points that lie on them."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from benchmarks.forms import best_of_n_scores, fit_form


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_best_of_n_equals_all_choices(n):
    generator = np.random.default_rng(0)
    proxy, gold = generator.random((4, 6)), generator.random((4, 6))
    best = [
        [max(choice, key=lambda i: proxy[row, i]) for choice in combinations(range(6), n)]
        for row in range(4)
    ]
    expected = [
        np.mean([[scores[row, i] for i in best[row]] for row in range(4)])
        for scores in (proxy, gold)
    ]
    assert best_of_n_scores(proxy, gold, n) == pytest.approx(expected)
    with pytest.raises(ValueError, match="expected 1 to 6"):
        best_of_n_scores(proxy, gold, 7)


def test_best_of_n_of_many_texts_stays_finite():
    scores = np.linspace(0, 1, 4096)[None]
    assert best_of_n_scores(scores, scores, 2048)[0] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("kind", ["best-of-n", "rl"])
def test_forms_are_found_again(kind):
    d = np.linspace(0, 5, 40)
    bend = d * d if kind == "best-of-n" else d * np.log(np.maximum(d, 1e-300))
    score = 0.4 * d - 0.15 * bend
    found = fit_form(d, score, kind)
    assert (found["alpha"], found["beta"], found["r_squared"]) == pytest.approx((0.4, 0.15, 1.0))
    fine = np.linspace(1e-6, 30, 300_001)
    curve = fine * (0.4 - 0.15 * (fine if kind == "best-of-n" else np.log(fine)))
    assert found["turn"] == pytest.approx(fine[curve.argmax()], abs=1e-3)


def test_a_score_that_only_rises_never_turns():
    d = np.linspace(0.1, 3, 20)
    assert fit_form(d, d + 0.1 * d * d, "best-of-n")["turn"] is None
    noise = np.random.default_rng(0).normal(size=500)
    assert (
        abs(fit_form(np.linspace(0.1, 3, 500), noise, "rl")["r_squared"]) < 0.05
    )  # two numbers cannot fit 500
    with pytest.raises(ValueError, match="at least 3"):
        fit_form(np.array([0.0, 1.0, 2.0]), np.zeros(3), "rl")
    with pytest.raises(ValueError, match="kind: expected"):
        fit_form(d, d, "ppo")
    assert math.isfinite(fit_form(d, d - 1e-12 * d * np.log(d), "rl")["turn"] or 0)
