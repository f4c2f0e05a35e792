"""Agreement between raters, against published examples and scikit-learn; the noise ceiling, against
simulated truth."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from minirlhf.feedback.agreement import cohens_kappa, krippendorff_alpha, noise_ceiling
from minirlhf.feedback.records import Comparison, Triple, read_triples
from minirlhf.feedback.summary import (
    histogram,
    in_words,
    summarise_comparisons,
    summarise_scores,
)
from minirlhf.tasks.openings.task import DATA


def units_of(rows: list[str]) -> list[list[float]]:
    """One row per rater, one column per text; a dot is a missing rating."""
    return [[float(value) for value in column if value != "."] for column in zip(*rows)]


@pytest.mark.parametrize(
    "level, published", [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_alpha_of_krippendorffs_example(level, published):
    """Krippendorff (2011), section C: four observers, twelve units."""
    rows = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    assert krippendorff_alpha(units_of(rows), level) == pytest.approx(published, abs=5e-4)


@pytest.mark.parametrize("level, published", [("nominal", 0.691), ("interval", 0.811)])
def test_alpha_of_the_encyclopedias_example(level, published):
    """Three coders and fifteen units, the worked example of Wikipedia's article on the measure."""
    rows = [".....34121133.3", "1.213343.......", "..21344.21133.4"]
    assert krippendorff_alpha(units_of(rows), level) == pytest.approx(published, abs=5e-4)


def test_alpha_is_1_for_full_agreement_0_for_chance_and_none_without_data():
    assert krippendorff_alpha([[1, 1], [3, 3, 3], [5, 5]]) == 1.0
    generator = np.random.default_rng(0)
    assert (
        abs(krippendorff_alpha(generator.integers(1, 6, (4000, 3)).tolist())) < 0.04
    )  # 0 +- 2.5 standard errors of 1/4000^.5
    assert krippendorff_alpha([[1], [2], [3]]) is None
    assert krippendorff_alpha([[2, 2], [2, 2]]) is None
    with pytest.raises(ValueError, match="level: expected"):
        krippendorff_alpha([[1, 2]], "ratio")


def test_kappa_agrees_with_scikit_learn():
    from sklearn.metrics import cohen_kappa_score  # slow to load: only where it is used

    generator = random.Random(0)
    for _ in range(20):
        first = [generator.choice("abt") for _ in range(30)]
        second = [
            answer if generator.random() < 0.6 else generator.choice("abt") for answer in first
        ]
        assert cohens_kappa(first, second) == pytest.approx(
            cohen_kappa_score(first, second), abs=1e-12
        )
    # Cohen's own kind of table: 20 and 15 of 50 agreed, chance .5, so kappa is (.7 - .5) / .5.
    first, second = ["y"] * 25 + ["n"] * 25, ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    assert cohens_kappa(first, second) == pytest.approx(0.4)
    assert cohens_kappa(["y"], ["y"]) is None
    with pytest.raises(ValueError, match="as many answers"):
        cohens_kappa(["y"], [])


def test_noise_ceiling_of_shrout_and_fleiss():
    """Their table 2: six targets, four judges; ICC(1,1) is .17 and ICC(1,4) is .44 (table 4)."""
    targets = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    ceiling = noise_ceiling(targets)
    assert ceiling["one_rater"] ** 2 == pytest.approx(0.17, abs=5e-3)
    assert ceiling["mean"] ** 2 == pytest.approx(0.44, abs=5e-3) and ceiling[
        "reliability"
    ] == pytest.approx(0.44, abs=5e-3)


@pytest.mark.parametrize("raters", [(3, 3), (2, 6)])
def test_noise_ceiling_is_what_the_true_score_reaches(raters):
    """Simulated texts whose true score is known: nobody can correlate better than it does (4,000
    texts, standard error .01)."""
    generator = np.random.default_rng(1)
    true = generator.normal(size=4000)
    units = [
        list(score + 0.8 * generator.normal(size=generator.integers(raters[0], raters[1] + 1)))
        for score in true
    ]
    ceiling = noise_ceiling(units)
    assert ceiling["mean"] == pytest.approx(
        np.corrcoef(true, [np.mean(unit) for unit in units])[0, 1], abs=0.02
    )
    assert ceiling["one_rater"] == pytest.approx(
        np.corrcoef(true, [unit[0] for unit in units])[0, 1], abs=0.03
    )
    assert ceiling["one_rater"] == pytest.approx(1 / math.sqrt(1.64), abs=0.02)


def test_noise_ceiling_without_signal_or_data():
    assert (
        noise_ceiling([[1.0, 5.0], [5.0, 1.0], [1.0, 5.0]]) is None
    )  # all means alike: nothing to correlate with
    assert noise_ceiling([[1, 5], [2, 5], [3, 1]])["mean"] == 0.0
    assert noise_ceiling([[1, 2], [3], [4]]) is None


def test_summary_of_scores_keeps_repeats_apart_from_raters():
    def rated(text: str, rating: float, rater: str) -> Triple:
        return Triple("tea", text, (rating - 1) / 4, (rating,), "people", rater)

    triples = [
        rated("a", 1, "x"),
        rated("b", 4, "x"),
        rated("a", 2, "x"),
        rated("b", 4, "x"),
        rated("a", 1, "y"),
        rated("b", 5, "y"),
        rated("c", 3, "y"),
    ]
    summary = summarise_scores(triples)
    assert summary["lines"] == 7 and summary["texts"] == 3 and summary["raters"] == {"x": 4, "y": 3}
    assert summary["histogram"] == {"1": 2, "2": 1, "3": 1, "4": 2, "5": 1}
    assert summary["repeats"] == {"n": 2, "same": 0.5, "mean_difference": 0.5}
    assert summary["alpha_interval"] == pytest.approx(krippendorff_alpha([[1, 1], [4, 5], [3]]))
    assert summary["ceiling_from"] == "raters" and summary["ceiling"]["n"] == 2
    alone = summarise_scores(triples[:4])
    assert (
        alone["alpha_interval"] is None
        and alone["ceiling_from"] == "repeats"
        and alone["ceiling"]["n"] == 2
    )
    assert "not known" in in_words(summarise_scores(triples[:1])) and "not defined" in in_words(
        summarise_scores(triples[:1])
    )


def test_lines_without_a_name_are_different_raters():
    triples = [
        Triple("tea", "a", 0.5, (2, 4)),
        Triple("tea", "a", 0.75),
        Triple("tea", "b", 1.0, (5, 5)),
    ]
    summary = summarise_scores(triples)
    assert summary["ratings"] == 5 and summary["alpha_interval"] == pytest.approx(
        krippendorff_alpha([[2, 4, 4], [5, 5]])
    )


def test_histogram_of_many_values_has_ten_bins():
    bins = histogram(np.linspace(0, 1, 101).tolist(), (0, 1))
    assert list(bins) == [f"{0.05 + i / 10:.3g}" for i in range(10)] and sum(bins.values()) == 101


def test_summary_of_comparisons():
    from sklearn.metrics import cohen_kappa_score

    def says(rater: str, better: str, worse: str, tie: bool = False) -> Comparison:
        return Comparison("tea", better, worse, tie, "people", rater)

    comparisons = [
        says("x", "a", "b"),
        says("y", "b", "a"),
        says("x", "c", "d"),
        says("y", "c", "d"),
        says("x", "e", "f", True),
        says("y", "f", "e", True),
        says("x", "b", "a"),
        says("z", "g", "h"),
    ]
    summary = summarise_comparisons(comparisons)
    assert summary["questions"] == 4 and summary["texts"] == 8 and summary["ties"] == 2
    assert list(summary["kappa"]) == ["x, y"]  # z has no question in common with them
    pair = summary["kappa"]["x, y"]
    assert pair["n"] == 3 and pair["agreed"] == pytest.approx(2 / 3)
    assert pair["kappa"] == pytest.approx(
        cohen_kappa_score(["first", "first", "tie"], ["second", "first", "tie"])
    )
    assert summary["repeats"] == {"n": 1, "same": 0.0}
    assert "Cohen's kappa of x, y" in in_words(summary)


def test_the_shipped_feedback_has_the_ceiling_that_its_page_states():
    """data/README.md says that the mean of three correlates with the rubric at .98; the ceiling is
    estimated without it."""
    summary = summarise_scores(read_triples(DATA / "openings.jsonl"))
    assert summary["provenance"] == {"simulated": 12_000} and summary["ratings"] == 36_000
    assert 0.95 < summary["ceiling"]["mean"] < 0.99 and 0.8 < summary["alpha_interval"] < 0.9


@pytest.mark.parametrize("rating", [0.1, 1 / 3, 3.3, 12345.6])
def test_equal_ratings_that_rounding_tells_apart_are_equal(rating):
    """0.1 + 0.1 + 0.1 is no more than three times 0.1: nothing varies, so nothing is measured."""
    above = float(np.nextafter(rating, np.inf))
    units = [[rating, rating], [rating, above, rating], [above, above], [rating] * 3]
    assert noise_ceiling(units) is None
    for level in ("nominal", "ordinal", "interval"):
        assert krippendorff_alpha(units, level) is None
        mixed = [[rating, above], [2 * rating, 2 * rating], [rating, 3 * rating]]
        same = [[rating, rating], *mixed[1:]]
        assert krippendorff_alpha(mixed, level) == krippendorff_alpha(same, level)
