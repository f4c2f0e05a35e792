"""Warnings of fine-tuning: samples and rewards of no use, and the true cause of a NaN."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path

import pytest
import torch
from test_algorithms import kinds, roll, rows_of, world
from test_old_log_probs import NoJudge

from minirlhf.config import FinetuneConfig, PPOConfig
from minirlhf.feedback.records import Comparison, Triple
from minirlhf.tokenizer import Tokenizer, train_bpe
from minirlhf.training import diagnostics
from minirlhf.training.algorithms.make import ALGORITHMS
from minirlhf.training.diagnostics import diagnose
from minirlhf.training.log import TrainLog
from minirlhf.training.optimizers import adamw, gradient_step
from minirlhf.training.ranking import warning_of_cut_pairs
from minirlhf.training.reward_objectives import ScoredTexts
from minirlhf.training.rollout import Models, Rollout
from minirlhf.training.rollout_log import RolloutLog

NAN = math.nan


# Samples and rewards of no use --------------------------------------------------------------------


def test_samples_that_are_all_cut_off_are_told_of_with_the_limit():
    """With reward 0 for all of them: that is the consequence, and not told of beside its cause."""
    rows = rows_of(6, ended=lambda i: 0.0, reward=lambda i: 0.0, reward_std=lambda i: 0.0)
    config = FinetuneConfig(max_new_tokens=48)
    assert kinds(rows, config) == {3: {"cut off"}}
    assert "--finetune.max-new-tokens 48" in rows[2]["warnings"]["cut off"]


@pytest.mark.parametrize("shares", [[0, 0, 0.3, 0, 0, 0.2], [0.5] * 6, [0.06] * 6])
def test_a_few_updates_with_cut_samples_are_none(shares):
    assert kinds(rows_of(6, ended=lambda i: shares[i])) == {}


def test_a_run_of_two_updates_is_warned_in_its_second():
    rows = rows_of(2, ended=lambda i: 0.01)
    assert kinds(rows, FinetuneConfig(updates=2)) == {2: {"cut off"}}


@pytest.mark.parametrize("reward", [0.0, 0.3, 1.0])
def test_a_reward_that_is_the_same_for_all_is_told_of(reward):
    rows = rows_of(
        5,
        ended=lambda i: 0.9,
        reward=lambda i: reward,
        reward_std=lambda i: 1e-8 * reward,  # the std of equal numbers is their rounding
        distinct=lambda i: 0.8,
    )
    assert kinds(rows) == {3: {"same reward"}}
    told = rows[2]["warnings"]["same reward"]
    assert "does not tell them apart" in told and "--reward.steps" in told
    for row in rows:
        row.pop("warnings", None)
        row["distinct"] = 1 / 128  # one text, 128 times: of course it has one reward
    told = diagnose(rows, FinetuneConfig())["same reward"]
    assert "all the same text" in told and "--reward.steps" not in told


def test_rewards_that_differ_a_little_are_no_fault():
    spread = {"ended": lambda i: 0.9, "reward": lambda i: 0.9}
    assert kinds(rows_of(5, **spread, reward_std=lambda i: 1e-5)) == {}
    assert kinds(rows_of(5, **spread, reward_std=lambda i: 0.0 if i % 3 else 0.1)) == {}


# The cause of a NaN -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken, cause, words, not_blamed",
    [
        (["reward", "kl_nats", "gradient_norm"], " reward", "--reward.learning-rate", "finetune"),
        (["judge", "reward_judge_mse"], " judge", "the task's judge", "learning-rate"),
        (["kl_nats", "gradient_norm"], " log-probabilities", "--finetune.learning-rate", "reward"),
        (["gradient_norm"], "", "its step is left out; lower --finetune.learning-rate", "reward"),
    ],
)
def test_the_cause_of_a_nan_is_what_comes_first(broken, cause, words, not_blamed):
    rows = rows_of(2, **{name: lambda i: NAN if i else 0.5 for name in broken})
    (kind, told), *others = diagnose(rows, FinetuneConfig()).items()
    assert kind == f"not finite{cause}" and not others and "\n" not in told
    assert words in told and not_blamed not in told.partition(": NaN or inf")[2]
    assert all(name in told for name in broken)


def test_numbers_that_are_undefined_are_no_fault():
    """The share of the variance explained, where all returns are equal."""
    assert kinds(rows_of(3, explained_variance=lambda i: NAN)) == {}


@pytest.mark.parametrize("module", ["policy", "reward model", "reference"])
def test_broken_weights_are_named_before_what_follows_from_them(module):
    policy, reward_model = world()
    modules = {
        "reward model": reward_model,
        "reference": policy.frozen_copy(),
        "policy": policy,
    }
    rows = rows_of(1, reward=lambda i: NAN, kl_nats=lambda i: NAN, gradient_norm=lambda i: NAN)
    assert "not finite reward" in diagnose(rows, FinetuneConfig(), modules)
    with torch.no_grad():
        modules[module].body.final_norm.weight[0] = NAN
    found = diagnose(rows, FinetuneConfig(algorithm="trpo"), modules)
    told = found[f"not finite weights of {module}"]
    assert f"a weight of the {module}: body.final_norm.weight" in told
    advice = {
        "policy": "lower --finetune.trpo.delta",
        "reward model": "--reward.learning-rate",
        "reference": "--pretrain.learning-rate",
    }
    for name, words in advice.items():
        assert (words in told) == (name == module)


def write_row(rollout: Rollout, models: Models, **metrics) -> dict:
    log = RolloutLog(TrainLog("finetune"), NoJudge(), FinetuneConfig(), models)
    log.task.train_prompts = ["tea"]
    metrics = {"entropy_nats_per_token": torch.tensor(1.0), **metrics}
    log.write(0, ["tea"] * len(rollout.texts), rollout, metrics)
    return log.log.rows[0].get("warnings", {})


def test_the_log_of_a_rollout_finds_the_cause(capsys):
    policy, reward_model = world()
    reference = policy.frozen_copy()
    rollout = roll(policy, reward_model, 0, count=4, reference=reference)
    models = Models(policy, reference, reward_model, None)
    assert write_row(rollout, models) == {}
    broken = dataclasses.replace(rollout, reward=rollout.reward * NAN)
    assert list(write_row(broken, models)) == ["not finite reward"]
    overflown = copy.copy(rollout)
    overflown.log_probs = rollout.log_probs - torch.inf
    assert list(write_row(overflown, models)) == ["not finite log-probabilities"]
    with torch.no_grad():
        policy.head.weight[3, 0] = NAN
    assert list(write_row(overflown, models)) == ["not finite weights of policy"]
    assert "a weight of the policy: body.token_embedding.weight" in capsys.readouterr().err


def test_a_gradient_of_the_value_model_that_is_not_finite_is_seen():
    """Its step is left out for the policy, too: the norm that is logged must say so."""
    policy, value = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    optimizer = adamw(torch.nn.ModuleList([policy, value]), 0.1, weight_decay=0.0)
    before = policy.weight.item()
    x = torch.ones(1, 1)
    norm = gradient_step(policy(x).sum() + NAN * value(x).sum(), optimizer, [policy, value], 1.0)
    assert not norm.isfinite() and policy.weight.item() == before
    norm = gradient_step(policy(x).sum() + value(x).sum(), optimizer, [policy, value], 1.0)
    assert norm == pytest.approx(math.sqrt(2)) and policy.weight.item() != before


def test_no_algorithm_is_named_by_the_diagnostics():
    """What belongs to one algorithm stands with its settings (config.py)."""
    source = Path(diagnostics.__file__).read_text(encoding="utf-8")
    assert not [name for name in ALGORITHMS if f'"{name}"' in source or f".{name}" in source]
    assert FinetuneConfig(algorithm="ppo").step_size == "finetune.ppo.learning_rate"
    assert FinetuneConfig(algorithm="trpo").step_size == "finetune.trpo.delta"
    for name in ("reinforce", "rloo", "grpo"):
        assert FinetuneConfig(algorithm=name).step_size == "finetune.learning_rate"
    rows = rows_of(1, entropy_nats_per_token=lambda i: 0.1)
    for name in ALGORITHMS:
        told = diagnose(rows, FinetuneConfig(algorithm=name, ppo=PPOConfig()))["entropy"]
        assert ("--finetune.ppo.entropy-weight" in told) == (name == "ppo")


# Comparisons that truncation made identical -------------------------------------------------------


def test_comparisons_of_texts_that_are_alike_once_cut_are_counted():
    start = "so it goes on and on and on and on and on and on and on and on and on " * 2
    tokenizer = Tokenizer(train_bpe([start], 280))
    triples = [
        Triple("tea", text, score)
        for text, score in [(start + "well", 1.0), (start + "badly", 0.0), ("short", 0.5)]
    ]
    context = 24
    texts = ScoredTexts(tokenizer, triples, context)
    told = warning_of_cut_pairs(texts, texts.pairs(0.1))
    assert told.startswith("1 of 3 comparisons") and "--model.context" in told
    whole = ScoredTexts(tokenizer, triples, 300)
    assert warning_of_cut_pairs(whole, whole.pairs(0.1)) == ""
    compared = [
        Comparison("tea", start + "well", "short"),
        Comparison("tea", "short", start + "badly"),
    ]
    texts = ScoredTexts(tokenizer, triples, context, compared)
    assert warning_of_cut_pairs(texts, texts.pairs(0.1)) == ""  # cut, but not alike
