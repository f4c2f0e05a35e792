"""Ensembles: the careful score by hand, each member as a model alone would be, a whole run."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from conftest import TINY, run_all
from test_reward import PROMPTS, TEXTS, config_of, randomise, rows_of

from minirlhf.cli.main import main
from minirlhf.models.reward_model import RewardEnsemble, RewardModel
from minirlhf.models.value_model import ValueModel
from minirlhf.runs import run_models
from minirlhf.system.files import load_tensors
from minirlhf.training.batches import Split
from minirlhf.training.rollout import Models, collect
from minirlhf.training.train_reward_model import ScoredTexts, predict, train_reward_model


def members(count: int = 3) -> list[RewardModel]:
    return [randomise(RewardModel(config_of()), seed) for seed in range(count)]


@pytest.mark.parametrize("conservatism", [0.0, 0.7, 50.0])
def test_score_is_mean_minus_c_deviations(conservatism):
    models = members()
    rows, lengths = rows_of(PROMPTS, TEXTS)
    bare, scores = RewardEnsemble(models, conservatism).prefix_scores(rows, lengths, 7)
    each = [model.prefix_scores(rows, lengths, 7) for model in models]
    for found, parts in ((bare, [part[0] for part in each]), (scores, [part[1] for part in each])):
        mean = sum(parts) / 3
        deviation = (sum((part - mean) ** 2 for part in parts) / 2).sqrt()
        torch.testing.assert_close(found, (mean - conservatism * deviation).clamp(min=0))
    assert scores.min() >= 0 and scores.max() <= 1
    if conservatism == 50:
        assert (scores == 0).any()


def test_members_that_agree_cost_nothing():
    model = members(1)[0]
    rows, lengths = rows_of(PROMPTS, TEXTS)
    torch.testing.assert_close(
        RewardEnsemble([model, model], 3.0).prefix_scores(rows, lengths, 7),
        model.prefix_scores(rows, lengths, 7),
    )


def test_a_value_function_can_start_from_an_ensemble():
    models = members(2)
    value = ValueModel.from_reward_model(RewardEnsemble(models))
    ours, theirs = value.body.state_dict(), models[0].body.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert torch.equal(value.head.weight, models[0].score.weight / 4)


def test_bad_ensembles_are_refused():
    with pytest.raises(ValueError, match="at least 2 reward models, found 1"):
        RewardEnsemble(members(1))
    with pytest.raises(ValueError, match="conservatism: expected 0 or more"):
        RewardEnsemble(members(2), -1.0)


def test_each_member_learns_as_it_would_alone(small_task, finished_run):
    """The first member sees the batches of a single model; the second sees others, so that the two
    differ.
    """
    tokenizer = run_models.tokenizer_of(finished_run, small_task)
    train, heldout = (
        ScoredTexts(tokenizer, part, 96)
        for part in (small_task.feedback[:200], small_task.feedback[200:260])
    )
    policy = run_models.load_policy(finished_run, "pretrained.safetensors", tokenizer)
    config = dataclasses.replace(TINY.reward, steps=6, evaluate_every=6)
    texts = Split(train, heldout)
    alone = train_reward_model(RewardModel.from_policy(policy), texts, config, TINY.seed)
    both = RewardEnsemble([RewardModel.from_policy(policy) for _ in range(2)], conservatism=2.0)
    first, second = train_reward_model(both, texts, config, TINY.seed).members
    assert all(
        torch.equal(a, b) for a, b in zip(alone.state_dict().values(), first.state_dict().values())
    )
    assert not torch.equal(predict(first, heldout), predict(second, heldout))
    # What is measured of an ensemble is its mean; carefulness is for the policy.
    torch.testing.assert_close(
        predict(both, heldout), (predict(first, heldout) + predict(second, heldout)) / 2
    )


def test_a_run_with_an_ensemble(tmp_path, small_task):
    config = dataclasses.replace(
        TINY,
        reward=dataclasses.replace(TINY.reward, ensemble=2, steps=4),
        finetune=dataclasses.replace(TINY.finetune, conservatism=1.0, updates=2, refit_steps=2),
    )
    run = run_all(tmp_path / "e", small_task, config)
    names = load_tensors(run.path / "reward_final.safetensors")[0]
    assert any(name.startswith("members.0.") for name in names) and any(
        name.startswith("members.1.") for name in names
    )
    tokenizer = run_models.tokenizer_of(run, small_task)
    policy = run_models.load_policy(run, "policy.safetensors", tokenizer)
    prompts = [tokenizer.encode_prompt(topic) for topic in small_task.train_prompts[:4]] * 4
    models = [
        run_models.load_reward_model(run, "reward_final.safetensors", tokenizer, c)
        for c in (0.0, 1.0)
    ]
    rewards = [
        collect(
            Models(policy, policy, model, tokenizer), prompts, 40, torch.Generator().manual_seed(0)
        ).prefix_rewards
        for model in models
    ]
    assert (rewards[1] <= rewards[0]).all() and (rewards[1] < rewards[0]).any()
    assert (
        json.loads((run.path / "summary.json").read_text())["config"]["finetune"]["conservatism"]
        == 1.0
    )


def test_carefulness_without_an_ensemble_is_refused_before_anything_is_made(tmp_path, capsys):
    for extra, words in (
        (["--finetune.conservatism", "1"], "--reward.ensemble 2 or more"),
        (["--ensemble", "0"], "at least 1"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["demo", "--run", "r", "--runs", str(tmp_path), *extra])
        assert (
            stopped.value.code == 2
            and words in capsys.readouterr().err
            and not (tmp_path / "r").exists()
        )
