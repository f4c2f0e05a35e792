"""The report card: every measure by hand or against a library, the whole card of a run, the
page."""

from __future__ import annotations

import dataclasses
import json
import random

import numpy as np
import pytest
import torch
from conftest import TINY

from minirlhf.cli.main import main
from minirlhf.evaluation import baselines
from minirlhf.evaluation.perturbations import CHECKS, PRAISE, sensitivity
from minirlhf.evaluation.report_card import checks, gain, measures, worst
from minirlhf.feedback.records import Triple
from minirlhf.runs import run_feedback, run_task
from minirlhf.runs.folder import Run
from minirlhf.runs.reward_card import write_report_card
from minirlhf.stats import expected_calibration_error, wilson
from minirlhf.training.ranking import Pairs

# ---- baselines


def test_constant_and_length():
    train = [
        Triple("t", "w " * length, score)
        for length, score in ((1, 0.1), (2, 0.3), (3, 0.5), (4, 0.5), (6, 0.1))
    ]
    assert baselines.constant(train)(train[:2]).tolist() == pytest.approx([0.3, 0.3])
    coefficients = np.polyfit([1, 2, 3, 4, 6], [0.1, 0.3, 0.5, 0.5, 0.1], 2)
    assert baselines.length_only(train)([Triple("t", "a b c", 0)])[0] == pytest.approx(
        np.polyval(coefficients, 3)
    )
    assert baselines.length_only(train)([Triple("t", "w " * 30, 0)])[0] == 0.0  # cut to [0, 1]
    same = [Triple("t", "one two", 0.2), Triple("t", "two one", 0.4)]
    assert baselines.length_only(same)(same).tolist() == pytest.approx([0.3, 0.3])


# ---- measures


def test_measures_by_hand_and_by_scipy():
    from scipy.stats import pearsonr, spearmanr

    generator = np.random.default_rng(0)
    scores = generator.random(50)
    predicted = np.clip(scores + generator.normal(size=50) * 0.2, 0, 1)
    pairs = Pairs(torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([False, False]))
    found = measures(predicted, scores, pairs)
    assert found["mse"] == pytest.approx(sum((a - b) ** 2 for a, b in zip(predicted, scores)) / 50)
    assert found["pearson"] == pytest.approx(pearsonr(predicted, scores).statistic)
    assert found["spearman"] == pytest.approx(spearmanr(predicted, scores).statistic)
    assert found["pairwise"] == ((predicted[0] > predicted[2]) + (predicted[1] > predicted[3])) / 2
    assert measures(predicted, scores, None)["pairwise"] is None


def test_ece_is_0_for_calibrated_predictions_and_the_shift_for_shifted_ones():
    predicted = np.linspace(0.1, 0.8, 1000)
    assert measures(predicted, predicted, None)["ece"] == pytest.approx(0, abs=1e-9)
    assert measures(predicted + 0.15, predicted, None)["ece"] == pytest.approx(0.15)
    # Equal predictions are one group, whatever the order of the texts: 3 * |.2 - .5| and 1 * |.9 -
    # .8|, over 4.
    scores = np.array([0.1, 0.9, 0.5, 0.8])
    assert expected_calibration_error(np.array([0.2, 0.2, 0.2, 0.9]), scores) == pytest.approx(
        (3 * 0.3 + 0.1) / 4
    )
    assert expected_calibration_error(np.full(4, 0.5), scores) == pytest.approx(
        abs(0.5 - scores.mean())
    )


def test_gain_interval_covers_the_truth():
    """Errors of known size, 200 data sets: the 95% interval holds the true gain in 95% of them,
    less 3.5 standard errors."""
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        scores = np.zeros(60)
        triples = [Triple(str(index), "x", 0.0) for index in range(60)]
        found = gain(
            generator.normal(size=60) * 0.1,
            generator.normal(size=60) * 0.2,
            scores,
            triples,
            seed,
            draws=300,
        )
        covered += found["low"] <= 0.03 <= found["high"]
    assert (
        0.95 - 3.5 * (0.95 * 0.05 / 200) ** 0.5 - 0.02 <= covered / 200
    )  # .02: percentile intervals of 60 are a little short


def test_gain_resamples_whole_topics():
    """Ten topics whose texts all err alike: resampling single texts would make the interval far too
    narrow."""
    triples = [Triple(str(index // 50), "x", 0.0) for index in range(500)]
    predicted = np.repeat(np.random.default_rng(0).normal(size=10) * 0.3, 50)
    whole = gain(predicted, np.full(500, 0.4), np.zeros(500), triples, 0)
    single = gain(predicted, np.full(500, 0.4), np.zeros(500), [Triple("t", "x", 0.0)] * 500, 0)
    assert whole["mse"] == single["mse"] and whole["high"] - whole["low"] > 4 * (
        single["high"] - single["low"]
    )


def test_worst_are_the_largest_errors():
    triples = [
        Triple("t", str(index), score, (3.0,)) for index, score in enumerate((0.1, 0.5, 0.9))
    ]
    found = worst(np.array([0.2, 0.5, 0.3]), triples, 2)
    assert [(row["text"], row["score"], row["predicted"]) for row in found] == [
        ("2", 0.9, 0.3),
        ("0", 0.1, 0.2),
    ]


# ---- sensitivity


@pytest.mark.parametrize(
    "name, expected",
    [
        ("first sentence repeated", ("tea", "Tea helps. It does so well! Tea helps.")),
        ("cut in half", ("tea", "Tea helps. It")),
        ("praise added", ("tea", f"Tea helps. It does so well! {PRAISE}")),
        ("put under another topic", ("sun", "Tea helps. It does so well!")),
    ],
)
def test_degraded_texts(name, expected):
    assert (
        CHECKS[name]("tea", "Tea helps. It does so well!", ["tea", "sun"], random.Random(0))
        == expected
    )


def test_shuffled_words_are_the_same_words():
    text = "one two three four five six"
    _topic, spoiled = CHECKS["words shuffled"]("tea", text, [], random.Random(0))
    assert spoiled != text and sorted(spoiled.split()) == sorted(text.split())


def test_sensitivity_counts_where_the_judge_falls():
    """A model that likes length, a judge that hates it: never do both fall."""
    triples = [
        Triple(f"t{index % 3}", f"one two three four {index} {index}x.", index / 30)
        for index in range(30)
    ]
    rows = {
        row["check"]: row
        for row in sensitivity(
            lambda pairs: np.array([float(len(text)) for _, text in pairs]),
            lambda topic, text: -float(len(text)),
            triples,
            ["t0", "t1", "t2"],
            seed=0,
        )
    }
    assert all(row["n"] == 15 for row in rows.values())  # the better half
    half, again, other = (
        rows[name] for name in ("cut in half", "first sentence repeated", "put under another topic")
    )
    assert (half["falls"], half["judge_falls"], half["judge_n"], half["falls_with_judge"]) == (
        1.0,
        0.0,
        0,
        None,
    )
    assert (again["falls"], again["judge_falls"], again["falls_with_judge"]) == (
        0.0,
        1.0,
        0.0,
    ) and again["change"] > 0
    assert (other["falls"], other["judge_falls"], other["change"]) == (0.0, 0.0, 0.0)
    assert again["low"] == 0.0 and 0.15 < again["high"] < 0.25


def test_wilson_interval_by_its_published_form():
    """Brown, Cai and DasGupta (2001): bounds are the p at which |share - p| is 1.96 standard errors
    of p."""
    for share, n in ((0.0, 20), (0.3, 50), (1.0, 5)):
        for bound in wilson(share, n).values():
            if 1e-9 < bound < 1 - 1e-9:
                assert abs(share - bound) == pytest.approx(1.96 * (bound * (1 - bound) / n) ** 0.5)


def test_checks_pass_and_fail():
    card = {
        "predictors": {"reward model": {"pearson": 0.7}},
        "ceiling": {"mean": 0.9},
        "gain": {"mse": 0.01, "low": -0.001, "high": 0.02},
        "sensitivity": [
            {"check": "a", "falls_with_judge": 0.8, "low": 0.7, "high": 0.9, "judge_n": 50},
            {"check": "b", "falls_with_judge": None},
            {"check": "c", "falls_with_judge": 0.79, "low": 0.7, "high": 0.9, "judge_n": 50},
        ],
    }
    assert [check["passed"] for check in checks(card)] == [False, False, True, False]
    card["predictors"]["reward model"]["pearson"], card["gain"]["low"] = 0.73, 0.001
    assert [check["passed"] for check in checks(card)] == [True, True, True, False]
    card["ceiling"] = None
    assert len(checks(card)) == 3


# ---- the whole


@pytest.fixture
def fitted_run(tmp_path, finished_run) -> Run:
    """A run folder that has just been pretrained and has its reward model."""
    run = Run.create(tmp_path / "card", TINY)
    for name in ("tokenizer.json", "pretrained.safetensors", "reward.safetensors"):
        (run.path / name).write_bytes((finished_run.path / name).read_bytes())
    return run


@pytest.mark.parametrize("loss", ["mse", "ranking"])
def test_report_card_of_a_run(fitted_run, small_task, loss):
    run = fitted_run
    run.replace_config(
        dataclasses.replace(run.config, reward=dataclasses.replace(run.config.reward, loss=loss))
    )
    card = write_report_card(run, small_task)
    assert json.loads((run.path / "reward_card.json").read_text(encoding="utf-8")) == card
    train, _heldout = run_feedback.split_feedback(run, small_task)
    assert (
        card["n_train"] == len(train) > 360 + len(small_task.authors_feedback)
        and card["n_heldout"] == 40
    )
    assert [row["triples"] for row in card["curve"]] == [
        round(len(train) * share) for share in (1 / 8, 1 / 4, 1 / 2, 1)
    ]
    assert set(card["predictors"]) == {"constant", "length only", "tf-idf ridge", "reward model"}
    assert (
        card["predictors"]["constant"]["pearson"] == 0
        and card["predictors"]["constant"]["pairwise"] == 0.5
    )
    assert (
        card["predictors"]["tf-idf ridge"]["pearson"] > 0.3
    )  # the texts differ in their words, and it knows the words
    assert 0.9 < card["ceiling"]["mean"] < 1 and card["ceiling"]["n"] == 40
    assert (
        len(card["worst"]) == 10
        and card["curve"][-1]["mse"] == card["predictors"]["reward model"]["mse"]
    )
    assert {row["check"] for row in card["sensitivity"]} == set(CHECKS)
    page = (run.path / "reward_card.html").read_text(encoding="utf-8")
    assert (
        "simulated" in page
        and page.count("<svg") == 3
        and "http://" not in page
        and "https://" not in page
    )
    assert all(
        row["text"][:20] in page
        for row in card["worst"]
        if "'" not in row["text"] and '"' not in row["text"]
    )


def test_the_card_measures_what_the_stage_measured(finished_run, fitted_run, small_task):
    stage = finished_run.progress()["reward_model"]
    card = write_report_card(fitted_run, small_task, curve=False)
    for key in ("mse", "pearson", "spearman"):
        assert card["predictors"]["reward model"][key] == pytest.approx(stage[key], abs=1e-5)
    assert card["predictors"]["constant"]["mse"] == pytest.approx(stage["mse_constant"], abs=1e-5)
    assert len(card["curve"]) == 1


def test_report_leaves_a_fitted_model_as_it_is(fitted_run, small_task, capsys, monkeypatch):
    monkeypatch.setattr(run_task, "task_of", lambda run: small_task)
    before = (fitted_run.path / "reward.safetensors").read_bytes()
    main(
        ["reward", "--run", "card", "--runs", str(fitted_run.path.parent), "--report", "--no-curve"]
    )
    printed = capsys.readouterr().out
    assert "Is it better than tf-idf ridge?" in printed and "reward_card.html" in printed
    assert (fitted_run.path / "reward.safetensors").read_bytes() == before
