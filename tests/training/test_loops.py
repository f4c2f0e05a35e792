"""The loops without a run folder; each algorithm by its name; what turns while training: rates,
prices, rounds.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
from contextlib import nullcontext

import pytest
import torch
from conftest import TINY
from test_training import toy_rollout

from minirlhf.config import (
    IN_GROUPS,
    Config,
    EncoderPretrainConfig,
    FinetuneConfig,
    PPOConfig,
    TRPOConfig,
)
from minirlhf.feedback.records import Triple
from minirlhf.models.policy import Policy
from minirlhf.models.reward_model import RewardModel
from minirlhf.models.transformer import TransformerConfig
from minirlhf.runs import run_feedback, run_models
from minirlhf.runs.checkpoints import Checkpoints
from minirlhf.system import distributed
from minirlhf.system.files import load_tensors, save_tensors
from minirlhf.tokenizer import Tokenizer
from minirlhf.training import ratings as ratings_module
from minirlhf.training.algorithms.kl_weight import KLWeight
from minirlhf.training.algorithms.make import ALGORITHMS, check_processes, make_algorithm
from minirlhf.training.batches import Split, corpus_of
from minirlhf.training.finetune import finetune
from minirlhf.training.log import METRICS, SAMPLES, RowsInMemory, TrainLog
from minirlhf.training.optimizers import finetuning_rate
from minirlhf.training.pretrain import pretrain
from minirlhf.training.pretrain_mlm import pretrain_mlm
from minirlhf.training.ratings import RatingRounds
from minirlhf.training.rollout import Models, collect
from minirlhf.training.train_reward_model import ScoredTexts, train_reward_model

SHORT = dataclasses.replace(
    TINY,
    pretrain=dataclasses.replace(TINY.pretrain, steps=12),
    reward=dataclasses.replace(
        TINY.reward, steps=4, evaluate_every=2, encoder=EncoderPretrainConfig(steps=3)
    ),
    finetune=dataclasses.replace(
        TINY.finetune, updates=3, batch_size=8, ratings_per_round=6, refit_steps=2
    ),
)


@pytest.fixture
def tokenizer(finished_run) -> Tokenizer:
    return Tokenizer.load(finished_run.path / "tokenizer.json")


@pytest.fixture
def models(finished_run, tokenizer) -> Models:
    """The tiny run's pretrained policy with its reward model."""
    policy = run_models.load_policy(finished_run, "pretrained.safetensors", tokenizer)
    reward_model = run_models.load_reward_model(finished_run, "reward.safetensors", tokenizer)
    return Models(policy, policy.frozen_copy(), reward_model, tokenizer)


# Without a folder ---------------------------------------------------------------------------------


def test_every_loop_runs_without_a_folder(tmp_path, monkeypatch, small_task, tokenizer):
    monkeypatch.chdir(tmp_path)
    corpus = corpus_of(small_task)
    logs = {name: TrainLog(name) for name in ("pretrain", "masked-lm", "reward", "finetune")}
    policy = pretrain(tokenizer, corpus, SHORT, logs["pretrain"])
    pretrain_mlm(tokenizer, corpus, SHORT, logs["masked-lm"])
    feedback = Split(small_task.feedback[:60], small_task.feedback[60:80])
    texts = Split(
        *(ScoredTexts(tokenizer, part, 96) for part in (feedback.train, feedback.heldout))
    )
    reward_model = RewardModel.from_policy(policy)
    train_reward_model(reward_model, texts, SHORT.reward, 0, logs["reward"])
    models = Models(policy, policy.frozen_copy(), reward_model, tokenizer)
    collected = finetune(models, small_task, SHORT, feedback, logs["finetune"])

    steps = {name: [row["step"] for row in log.rows] for name, log in logs.items()}
    assert steps == {
        "pretrain": [10, 12],
        "masked-lm": [3],
        "reward": [2, 4],
        "finetune": [1, 2, 3],
    }
    assert all(
        row["seconds"] > 0 and row["stage"] == log.stage
        for log in logs.values()
        for row in log.rows
    )
    tables = logs["finetune"].tables
    assert len(collected) == len(tables.read("collected.jsonl")) == 6
    assert [row["when"] for row in tables.read(SAMPLES)] == ["step 1", "step 2", "step 3"]
    assert not list(tmp_path.iterdir())


def test_a_loop_needs_not_even_a_log(small_task, models):
    finetune(models, small_task, SHORT, Split(small_task.feedback[:60], small_task.feedback[60:80]))


def test_the_folder_changes_nothing(small_task, finished_run, tokenizer, models):
    """The tiny run's policy and reward model once more, bit for bit, with all rows in memory."""
    feedback = Split(*run_feedback.split_feedback(finished_run, small_task))
    log = TrainLog("finetune")
    finetune(models, small_task, TINY, feedback, log)
    for name, model in (("policy", models.policy), ("reward_final", models.reward_model)):
        theirs = load_tensors(finished_run.path / f"{name}.safetensors")[0]
        assert all(torch.equal(model.state_dict()[key], theirs[key]) for key in theirs)
    theirs = [row for row in finished_run.read(METRICS) if row["stage"] == "finetune"]
    for one, other in zip(log.rows, theirs, strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}


# The log ------------------------------------------------------------------------------------------


def test_a_row_holds_the_mean_of_the_losses_since_the_last_one():
    log = TrainLog("fit")
    for step in log.steps(0, 4):
        log.add(loss=torch.tensor(float(step)))
        if step % 2:
            row = log.write(step + 1, "loss {loss:.1f}", extra=7)
    assert [row["loss"] for row in log.rows] == [0.5, 2.5]
    assert row["extra"] == 7 and row["stage"] == "fit" and log.tables.read(METRICS) == log.rows


def test_rows_of_later_steps_are_dropped_when_a_stage_goes_on():
    tables = RowsInMemory()
    for name in (METRICS, SAMPLES):
        tables.append(name, [{"stage": "fit", "step": step} for step in (1, 2, 3)])
        tables.append(name, [{"stage": "other", "step": 9}, {"when": "before"}])
    log = TrainLog("fit", tables)
    log.load_state_dict({"seconds": 100.0})
    assert list(log.steps(2, 3)) == [2] and [row["step"] for row in log.rows] == [1, 2]
    for name in (METRICS, SAMPLES):
        assert [row.get("step") for row in tables.read(name)] == [1, 2, 9, None]
    assert 100 < log.seconds < 200


def test_a_checkpoint_of_an_older_version_is_refused_in_one_line(tmp_path):
    path, model = tmp_path / "checkpoint.safetensors", torch.nn.Linear(1, 1)
    save_tensors(path, {}, {"stage": "finetune", "step": 3, "seconds": 1.0, "tensors": 0})
    with pytest.raises(ValueError, match="header: expected .* states") as told:
        Checkpoints(path, "finetune").resume({"policy": model}, [], {})
    assert "\n" not in str(told.value) and "delete the file" in str(told.value)


# Each algorithm -----------------------------------------------------------------------------------


SETTINGS = FinetuneConfig(
    updates=10,
    batch_size=16,
    kl_target=1.0,
    ppo=PPOConfig(minibatch_size=8),
    trpo=TRPOConfig(fisher_texts=8, cg_steps=3, damping=0.1),
)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_one_update_of_each_algorithm(name, models, small_task):
    config = Config(finetune=dataclasses.replace(SETTINGS, algorithm=name))
    algorithm = make_algorithm(models, config, corpus_of(small_task))
    assert algorithm.group_size == (4 if name in IN_GROUPS else 1)
    topics = [topic for topic in small_task.train_prompts[:4] for _ in range(4)]
    prompts = [models.prompt(topic) for topic in topics]
    rollout = collect(models, prompts, 24, torch.Generator().manual_seed(0))
    # The tiny policy ends few texts, and others are worth 0: give them something to differ by.
    rollout.reward = rollout.mask.float().mean(1) + 0.1 * torch.arange(16) % 0.7
    rollout.prefix_rewards = rollout.prefix_rewards + 0.1 * rollout.mask.cumsum(1)
    rollout.reference_log_probs = rollout.log_probs - 1.0 * rollout.mask  # KL far above 1 nat
    before = copy.deepcopy(models.policy.state_dict())
    metrics = algorithm.update(rollout, 4)
    after = models.policy.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    assert {"entropy_nats_per_token", "ratio_max", "kl_weight"} <= metrics.keys()
    assert all(math.isfinite(float(value)) for value in metrics.values())
    assert metrics["kl_weight"] == SETTINGS.kl_weight  # what this update was made with

    again = make_algorithm(models, config, corpus_of(small_task))
    assert algorithm.states.keys() == again.states.keys() == {"kl_weight"}
    for state, other in zip(algorithm.states.values(), again.states.values()):
        other.load_state_dict(json.loads(json.dumps(state.state_dict())))
        assert other.weight == state.weight > SETTINGS.kl_weight
    assert again.modules.keys() == algorithm.modules.keys()
    for optimizer in algorithm.optimizers:
        assert optimizer.param_groups[0]["lr"] > 0


@pytest.mark.parametrize(
    "changed, told",
    [
        ({"batch_size": 7}, "--finetune.batch-size: expected a multiple of the 3 processes"),
        ({"algorithm": "ppo"}, "--finetune.ppo.minibatch-size: expected a multiple"),
        ({"algorithm": "trpo"}, "--finetune.trpo.fisher-texts: expected a multiple .* found 8"),
        ({"algorithm": "dpo", "kl_target": None}, "--finetune.algorithm: expected one of reinf"),
        ({"algorithm": "reinforce"}, None),  # takes no part of a batch
    ],
)
def test_processes_share_whole_batches_and_their_parts(changed, told, monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    settings = dataclasses.replace(SETTINGS, **{"batch_size": 18} | changed)
    with pytest.raises(ValueError, match=told) if told else nullcontext():
        check_processes(settings)


def test_an_update_takes_the_learning_rate_of_its_step():
    torch.manual_seed(0)
    policy = Policy(TransformerConfig(vocab_size=8, context=8, width=8, layers=1, heads=2))
    models = Models(policy, None, RewardModel.from_policy(policy), None)
    for name in ("reinforce", "ppo"):
        settings = FinetuneConfig(
            algorithm=name, updates=20, learning_rate=0.01, ppo=PPOConfig(learning_rate=0.01)
        )
        algorithm = make_algorithm(models, Config(finetune=settings))
        for step in (0, 4, 19):
            algorithm.update(toy_rollout(), step)
            rates = {group["lr"] for group in algorithm.optimizers[0].param_groups}
            assert rates == {finetuning_rate(0.01, step, 20)}


def test_the_learning_rate_warms_up_then_decays_to_a_tenth():
    """Over 5 updates up, then down along a straight line; each number by hand."""
    rates = [finetuning_rate(2.0, update, 100) for update in range(100)]
    assert rates[0] == pytest.approx(2.0 / 5) and rates[3] == pytest.approx(2.0 * 0.8 * 0.973)
    assert all(a < b for a, b in itertools.pairwise(rates[:5]))
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))
    assert rates[50] == pytest.approx(2.0 * 0.55) and rates[99] == pytest.approx(2.0 * 0.109)
    falls = [a - b for a, b in itertools.pairwise(rates[4:])]
    assert max(falls) - min(falls) < 1e-9


@pytest.mark.parametrize("target, share", [(0.2, 0.25), (0.25, 0.0), (0.5, -0.5)])
def test_the_price_of_kl_rises_where_the_kl_is_above_its_target(target, share):
    """The toy rollout's texts have k1 of .5 - 1 + 0 and of 1: a KL of 0.25 nats per text."""
    price = KLWeight(0.1, target)
    price.adapt(toy_rollout())
    assert price.weight == pytest.approx(0.1 * (1 + 0.04 * share), rel=1e-6)


def test_the_price_of_kl_moves_by_a_step_at_most_and_not_without_a_target():
    rollout = toy_rollout()
    rollout.reference_log_probs = rollout.log_probs - 50.0 * rollout.mask
    price, constant = KLWeight(0.1, 1.0), KLWeight(0.1, None)
    for one in (price, constant):
        one.adapt(rollout)
    assert price.weight == pytest.approx(0.104) and constant.weight == 0.1


# Ratings between rounds ---------------------------------------------------------------------------


def rounds_of(models: Models, task, feedback: Split, **settings) -> RatingRounds:
    config = dataclasses.replace(SHORT, finetune=dataclasses.replace(SHORT.finetune, **settings))
    return RatingRounds(models, task, config, feedback, TrainLog("finetune"))


@pytest.fixture
def refits(monkeypatch) -> list[Split]:
    """The texts of each refit, which is not done."""
    seen: list[Split] = []
    monkeypatch.setattr(
        ratings_module, "train_reward_model", lambda model, texts, *_: seen.append(texts)
    )
    return seen


def test_held_out_texts_that_are_written_again_are_not_refitted_to(
    models, small_task, monkeypatch, refits
):
    feedback = Split(small_task.feedback[:50], small_task.feedback[50:60])
    new = [Triple("tea", f"New text {index}.", 0.5, (3.0,), "simulated") for index in range(3)]
    monkeypatch.setattr(ratings_module, "ask_raters", lambda *_: [*new, *feedback.heldout[:4]])
    ratings = rounds_of(models, small_task, feedback, updates=4, rounds=2)
    assert ratings.rate_and_refit_if_due(2)
    trained = [(triple.topic, triple.text) for triple in refits[0].train.triples]
    assert not set(trained) & {(triple.topic, triple.text) for triple in feedback.heldout}
    assert trained[-3:] == [(triple.topic, triple.text) for triple in new]
    assert len(trained) == 3 + 7  # as many old texts as were collected
    assert refits[0].heldout.triples == feedback.heldout and len(ratings.collected) == 7


def test_raters_are_asked_before_each_round_but_the_first(models, small_task, refits):
    feedback = Split(small_task.feedback[:50], small_task.feedback[50:60])
    ratings = rounds_of(models, small_task, feedback, updates=6, rounds=3)
    due = [update for update in range(6) if ratings.rate_and_refit_if_due(update)]
    assert due == [2, 4] and [ratings.round_of(update) for update in range(6)] == [1, 1, 2, 2, 3, 3]
    assert len(refits) == 2 and len(ratings.collected) == 12
    state = json.loads(json.dumps(ratings.state_dict()))
    again = rounds_of(models, small_task, feedback, updates=6, rounds=3)
    again.load_state_dict(state)
    assert again.collected == ratings.collected
    assert not again.rate_and_refit_if_due(4)  # resumed right after it


def test_nobody_is_asked_where_nobody_can_be(models, small_task, refits):
    task = dataclasses.replace(small_task, raters=None)
    ratings = rounds_of(models, task, Split(small_task.feedback[:50], []), updates=6, rounds=3)
    assert not any(ratings.rate_and_refit_if_due(update) for update in range(6))
    assert {ratings.round_of(update) for update in range(6)} == {1} and not refits


def test_the_bar_says_how_long_the_whole_job_will_take(capsys):
    log = TrainLog("reward", later_seconds=100.0)
    for step in log.steps(0, 4):
        if step == 1:
            log.loop_started -= 20  # as if two steps had taken 20 s
            row = log.write(2, "loss {loss:.1f}", loss=1.5)
    assert row["loss"] == 1.5
    # 2 of 4 steps in 20 s: 20 s more, and 100 s for the stages after this one.
    assert "loss 1.5, whole job: 02:00 left" in capsys.readouterr().err


def test_a_stage_on_its_own_says_nothing_of_a_whole_job(capsys):
    log = TrainLog("reward")
    for step in log.steps(0, 2):
        log.write(step + 1)
    assert "whole job" not in capsys.readouterr().err
