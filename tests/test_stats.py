"""A correlation is never shown without saying how far it can be trusted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from minirlhf.reports.html import reward_model_table
from minirlhf.stats import (
    correlation,
    correlation_facts,
    correlation_interval,
    correlation_words,
    ranks,
)


def test_the_interval_is_scipys():
    from scipy.stats import pearsonr

    generator = np.random.default_rng(0)
    for n in (4, 12, 300):
        a = generator.normal(size=n)
        b = a + generator.normal(size=n)
        expected = pearsonr(a, b).confidence_interval(0.95)
        found = correlation_interval(pearsonr(a, b).statistic, n)
        assert found == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_the_interval_covers_the_truth_in_95_of_100_cases():
    """True r .6 of normal values; of their ranks it is 6 / pi * asin(.3)."""
    truth = {False: 0.6, True: 6 / np.pi * np.arcsin(0.3)}
    generator = np.random.default_rng(0)
    first = torch.from_numpy(generator.normal(size=(1000, 30)))
    second = 0.6 * first + 0.8 * torch.from_numpy(generator.normal(size=(1000, 30)))
    for of_ranks, wanted in truth.items():
        covered = 0
        for a, b in zip(first, second):
            r = correlation(ranks(a), ranks(b)) if of_ranks else correlation(a, b)
            low, high = correlation_interval(r, 30, of_ranks)
            covered += low <= wanted <= high
        assert covered / 1000 == pytest.approx(0.95, abs=0.025)  # 3.6 standard errors


@pytest.mark.parametrize("n", [1, 2, 3])
def test_too_few_texts_are_no_perfect_correlation(n):
    facts = correlation_facts("pearson", 1.0, n)
    assert facts == {"pearson": None, "pearson_low": None, "pearson_high": None}
    assert correlation_words(facts, "pearson", n) == f"too few to say (n = {n})"
    assert f"too few to say (n = {n})" in reward_model_table({"mse": 0.1, "n": n} | facts)


def test_a_correlation_is_shown_with_its_interval_and_n():
    facts = correlation_facts("pearson", 0.5, 30)
    assert correlation_words(facts, "pearson", 30) == "0.500 [0.170, 0.729], n = 30"
    assert "0.500 [0.170, 0.729], n = 30" in reward_model_table({"n": 30} | facts)
    assert correlation_words(correlation_facts("r", 1.0, 9), "r") == "1.000 [1.000, 1.000]"
    assert correlation_words({"pearson": 0.5}, "pearson") == "0.500"  # of an earlier run


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("constant", [1e-6, 0.1, 1 / 3, 0.999999, 12345.6])
def test_a_constant_but_for_rounding_is_correlated_with_nothing(constant, dtype):
    one = torch.tensor(constant, dtype=dtype)
    above = torch.nextafter(one, torch.tensor(torch.inf, dtype=dtype))
    noise = torch.stack([one, above] * 20)
    assert correlation(noise, torch.arange(40.0)) == correlation(torch.arange(40.0), noise) == 0
    slope = one * (1 + 1e-4 * torch.arange(40, dtype=dtype))
    assert correlation(slope, torch.arange(40.0)) > 0.999
