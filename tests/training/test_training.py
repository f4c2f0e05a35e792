"""The training loops: batches, losses, credit, the whole run, resuming."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from conftest import TINY, run_all

from minirlhf.config import Config, ReinforceConfig
from minirlhf.config_file import from_json, to_json
from minirlhf.models.policy import Policy
from minirlhf.models.reward_model import RewardModel
from minirlhf.models.transformer import TransformerConfig
from minirlhf.runs import pipeline, products
from minirlhf.runs.checkpoints import Checkpoints
from minirlhf.runs.folder import Run
from minirlhf.stats import correlation, ranks
from minirlhf.system.files import load_tensors
from minirlhf.tokenizer import Tokenizer, train_bpe
from minirlhf.training import pretrain as pretrain_module
from minirlhf.training.algorithms import policy_gradient as gradient_module
from minirlhf.training.algorithms.advantages import (
    advantages,
    column_mean,
    minus_column_mean,
    token_credit,
)
from minirlhf.training.algorithms.policy_gradient import policy_gradient_loss
from minirlhf.training.batches import EncodedTexts
from minirlhf.training.pretrain import language_model_loss
from minirlhf.training.reward_objectives import reward_loss
from minirlhf.training.rollout import Models, Rollout, collect, join_rows
from minirlhf.training.train_reward_model import ScoredTexts, predict

CPU = torch.device("cpu")
PAIRS = [
    ("tea", "Tea wakes people up."),
    ("the long topic of sleep", "Sleep helps."),
    ("tea", "Tea."),
    ("sun", "It is so."),
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_bpe([f"{topic} {text}" for topic, text in PAIRS], 270))


@pytest.fixture
def policy(tokenizer) -> Policy:
    torch.manual_seed(0)
    return Policy(
        TransformerConfig(tokenizer.vocab_size, context=64, width=16, layers=2, heads=2)
    ).double()


def test_batch_holds_each_text_and_its_prompt(tokenizer):
    texts = EncodedTexts(tokenizer, PAIRS, context=64)
    batch = texts.batch(torch.tensor([1, 2]), CPU)
    for row, (topic, text) in enumerate([PAIRS[1], PAIRS[2]]):
        length = int(batch.mask[row].sum())
        prompt = int(batch.prompt_lengths[row])
        assert batch.tokens[row, :length].tolist() == tokenizer.encode_text(text)
        assert batch.rows[row, :prompt].tolist() == tokenizer.encode_prompt(topic)
        assert batch.rows[row, prompt : prompt + length].tolist() == tokenizer.encode_text(text)
        assert (
            batch.tokens[row, length:].eq(0).all()
            and batch.rows[row, prompt + length :].eq(0).all()
        )
    assert batch.rows.shape[1] == texts.lengths[torch.tensor([1, 2])].max()


def test_in_order_gives_every_row_once(tokenizer):
    texts = EncodedTexts(tokenizer, PAIRS, context=64)
    seen = torch.cat([batch.index for batch in texts.in_order(3, CPU)])
    assert sorted(seen.tolist()) == [0, 1, 2, 3]


def test_random_batch_depends_on_seed_stage_and_step_only(tokenizer):
    texts = EncodedTexts(tokenizer, PAIRS * 10, context=64)
    first = [texts.random_batch(4, 1, "a", step, CPU).index.tolist() for step in range(20)]
    assert [
        texts.random_batch(4, 1, "a", step, CPU).index.tolist() for step in reversed(range(20))
    ] == first[::-1]
    assert first != [texts.random_batch(4, 2, "a", step, CPU).index.tolist() for step in range(20)]
    assert first != [texts.random_batch(4, 1, "b", step, CPU).index.tolist() for step in range(20)]


def test_language_model_loss_equals_loop_over_texts(tokenizer, policy):
    texts = EncodedTexts(tokenizer, PAIRS, context=64)
    total, count = 0.0, 0
    for topic, text in PAIRS:
        ids = tokenizer.encode_text(text)
        row = tokenizer.encode_prompt(topic) + ids
        log_probs = policy(torch.tensor([row])).log_softmax(-1)[0]
        for t, token in enumerate(ids):
            total -= float(log_probs[len(row) - len(ids) + t - 1, token].detach())
            count += 1
    loss = language_model_loss(policy, texts.batch(torch.arange(4), CPU))
    assert abs(float(loss.detach()) - total / count) < 1e-5  # the loss is taken in float32


@torch.no_grad()
def test_reward_loss_targets(tokenizer, policy):
    model = RewardModel.from_policy(policy).double()
    torch.nn.init.normal_(model.score.weight)
    texts = EncodedTexts(tokenizer, PAIRS, context=64)
    batch, scores = texts.batch(torch.arange(4), CPU), torch.tensor([0.1, 0.9, 0.4, 0.6])
    every, final, count = 0.0, 0.0, 0
    for index, (topic, text) in enumerate(PAIRS):
        prompt, ids = tokenizer.encode_prompt(topic), tokenizer.encode_text(text)
        for t in range(1, len(ids) + 1):
            error = float(model(torch.tensor([prompt + ids[:t]]))[0, -1]) - float(scores[index])
            every += error**2
            count += 1
        final += error**2
    assert (
        abs(float(reward_loss(model, batch, scores, "every-prefix")) - (every / count + final / 4))
        < 1e-5
    )
    assert abs(float(reward_loss(model, batch, scores, "final")) - final / 4) < 1e-5


def test_predict_keeps_the_order_of_the_data(tokenizer, policy):
    from minirlhf.feedback.records import Triple

    model = RewardModel.from_policy(policy.float())
    torch.nn.init.normal_(model.score.weight)
    texts = ScoredTexts(tokenizer, [Triple(topic, text, 0.5) for topic, text in PAIRS], 64)
    for value, (topic, text) in zip(predict(model, texts), PAIRS):
        row = torch.tensor([tokenizer.encode_prompt(topic) + tokenizer.encode_text(text)])
        assert abs(float(value) - float(model(row)[0, -1].detach())) < 1e-5


def test_correlations_agree_with_scipy():
    from scipy.stats import pearsonr, spearmanr

    a, b = torch.tensor([1.0, 2, 2, 5, 3, 2]), torch.tensor([0.5, 0.1, 0.4, 0.9, 0.9, 0.2])
    assert abs(correlation(a, b) - pearsonr(a, b).statistic) < 1e-6
    assert abs(correlation(ranks(a), ranks(b)) - spearmanr(a, b).statistic) < 1e-6
    assert correlation(a, torch.ones(6)) == 0.0
    for count in range(100):  # the mean of a constant may be off by a rounding
        constant = torch.full((count,), 0.1)
        assert (
            correlation(torch.randn(count), constant)
            == correlation(constant, torch.randn(count))
            == 0.0
        )
    assert correlation(a, a * float("nan")) == 0.0


def toy_rollout() -> Rollout:
    """Two texts, of three tokens and of one, with round numbers."""
    mask = torch.tensor([[True, True, True], [True, False, False]])
    prefix = torch.tensor([[0.2, 0.5, 0.9], [0.4, 0.0, 0.0]])
    return Rollout(
        rows=torch.zeros(2, 5, dtype=torch.long),
        prompt_lengths=torch.tensor([2, 2]),
        tokens=torch.tensor([[1, 2, 3], [1, 0, 0]]),
        mask=mask,
        ended=torch.tensor([True, True]),
        log_probs=torch.tensor([[-1.0, -2.0, -1.0], [-0.5, 0, 0]]),
        reference_log_probs=torch.tensor([[-1.5, -1.0, -1.0], [-1.5, 0, 0]]),
        prefix_rewards=prefix,
        initial_reward=torch.tensor([0.1, 0.3]),
        reward=torch.tensor([0.9, 0.4]),
        texts=["a", "b"],
    )


@pytest.mark.parametrize(
    "credit, first, second",
    [
        ("sequence", [0.9, 0.9, 0.9], 0.4),
        ("per-token", [0.2, 0.5, 0.9], 0.4),
        ("reward-to-go", [1.6, 1.4, 0.9], 0.4),
        ("prefix-difference", [0.1, 0.3, 0.4], 0.1),
    ],
)
def test_token_credit_by_hand(credit, first, second):
    weights = token_credit(toy_rollout(), credit)
    torch.testing.assert_close(weights[0], torch.tensor(first))
    torch.testing.assert_close(weights[1, 0], torch.tensor(second))


def test_token_credit_refuses_unknown():
    with pytest.raises(ValueError, match="credit: expected"):
        token_credit(toy_rollout(), "magic")


def test_column_mean_counts_only_texts_that_have_the_token():
    mean = column_mean(torch.tensor([[1.0, 2.0, 7.0], [3.0, 99.0, 99.0]]), toy_rollout().mask)
    torch.testing.assert_close(mean, torch.tensor([[2.0, 2.0, 7.0]]))
    broken = torch.tensor([[1.0, 2.0, 7.0], [3.0, math.nan, math.inf]])  # behind the mask
    assert torch.equal(column_mean(broken, toy_rollout().mask), mean)


def test_weights_that_are_equal_but_for_rounding_push_nothing():
    """The mean of seven .1 is not .1; TRPO would make a whole step of what is left."""
    mask = torch.ones(7, 5, dtype=torch.bool)
    mask[3:, 4] = False
    for constant in (0.1, 0.7, 123.456, -1 / 3):
        weights = torch.full((7, 5), constant)
        weights[~mask] = float("nan")
        assert (minus_column_mean(weights, mask) == 0).all()
    weights = torch.rand(7, 5)
    assert torch.equal(minus_column_mean(weights, mask), weights - column_mean(weights, mask))


def test_reinforce_gradient_by_hand(policy):
    """Loss gradient = - mean over texts of sum_t (credit - kl_weight * KL to go - column mean) grad
    log p.
    """
    # Two prompts and first tokens: those of equal rows would cancel.
    rollout = dataclasses.replace(
        toy_rollout(),
        rows=torch.tensor([[5, 6, 1, 2, 3], [7, 8, 4, 0, 0]]),
        tokens=torch.tensor([[1, 2, 3], [4, 0, 0]]),
    )
    config, kl_weight = ReinforceConfig(credit="per-token", baseline="batch-mean"), 0.1
    weights = advantages(rollout, config, kl_weight)
    loss, metrics = policy_gradient_loss(policy, rollout, weights)
    gradient = torch.autograd.grad(loss, policy.head.weight)[0]
    # k1 = [.5, -1, 0] and [1]; to go: [-.5, -1, 0] and [1]
    weights = torch.tensor([[0.2 + 0.05, 0.5 + 0.1, 0.9], [0.4 - 0.1, 0, 0]])
    weights[:, 0] -= (0.25 + 0.3) / 2
    weights[0, 1:] = 0.0  # alone in its column: it is its own mean
    log_probs = policy.text_log_probs(rollout.rows, rollout.prompt_lengths, rollout.tokens)
    expected = torch.autograd.grad(
        -(weights * log_probs)[rollout.mask].sum() / 2, policy.head.weight
    )[0]
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-5)
    surprise = -log_probs[
        rollout.mask
    ].mean()  # of the sampled tokens; its mean over samples is the entropy
    assert abs(float(metrics["entropy_nats_per_token"]) - float(surprise)) < 1e-5


def test_prefix_score_baseline_by_hand():
    """r(x, y) - kl_weight * KL to go - r_(t-1), minus the mean of each column."""
    config = ReinforceConfig(credit="sequence", baseline="prefix-score", gae_lambda=1.0)
    # 0.9 + [.05, .1, 0] - [.1, .2, .5] and 0.4 - 0.1 - 0.3; only column 0 has two texts, the others
    # are their own mean
    expected = torch.tensor([[0.85 - 0.425, 0.0, 0.0], [0.0 - 0.425, 0.0, 0.0]])
    found = advantages(toy_rollout(), config, 0.1)
    torch.testing.assert_close(found * toy_rollout().mask, expected)


def test_the_score_before_is_subtracted_from_a_token_s_own_score():
    """r_t - r_(t-1) is [.1, .3, .4] and [.1]; each column minus its mean is 0."""
    config = ReinforceConfig(credit="per-token", baseline="prefix-score")
    found = advantages(toy_rollout(), config, 0.0)
    torch.testing.assert_close(found * toy_rollout().mask, torch.zeros(2, 3))


def test_prefix_difference_is_a_difference_already():
    """r_t - r_(t-1), minus the mean of each column: the baseline "prefix-score" would subtract
    r_(t-1) once more.
    """
    config = ReinforceConfig(credit="prefix-difference", baseline="prefix-score")
    expected = torch.tensor([[0.1 - 0.1, 0.0, 0.0], [0.1 - 0.1, 0.0, 0.0]])
    torch.testing.assert_close(
        advantages(toy_rollout(), config, 0.0) * toy_rollout().mask, expected
    )
    alone = advantages(
        toy_rollout().select(torch.tensor([0])), dataclasses.replace(config, baseline="none"), 0.0
    )
    torch.testing.assert_close(alone, torch.tensor([[0.1, 0.3, 0.4]]))


def test_gae_lambda_by_hand():
    """Steps d_t = r_t - r_(t-1) - kl_weight * KL_t are [.05, .4, .4] and [0]; with lambda 1/2 token
    0 has .05 + .4/2 + .4/4.
    """
    config = ReinforceConfig(credit="sequence", baseline="prefix-score", gae_lambda=0.5)
    expected = torch.tensor([[0.35 - 0.175, 0.0, 0.0], [0.0 - 0.175, 0.0, 0.0]])
    found = advantages(toy_rollout(), config, 0.1)
    torch.testing.assert_close(found * toy_rollout().mask, expected)


def test_rollout_rewards_are_those_of_the_reward_model(tokenizer, policy):
    policy = policy.float()
    reward_model = RewardModel.from_policy(policy)
    torch.nn.init.normal_(reward_model.score.weight)
    prompts = [tokenizer.encode_prompt(topic) for topic, _ in PAIRS] * 3
    rollout = collect(
        Models(policy, policy.frozen_copy(), reward_model, tokenizer),
        prompts,
        12,
        torch.Generator().manual_seed(0),
    )
    lengths = rollout.mask.sum(1).tolist()
    for index, prompt in enumerate(prompts):
        row = torch.tensor([prompt + rollout.tokens[index, : lengths[index]].tolist()])
        scores = reward_model(row)[0, len(prompt) - 1 :].detach()
        wanted = float(scores[-1]) if rollout.ended[index] else 0.0
        assert abs(float(rollout.reward[index]) - wanted) < 1e-5
        assert abs(float(rollout.initial_reward[index]) - float(scores[0])) < 1e-5
        torch.testing.assert_close(
            rollout.prefix_rewards[index, : lengths[index] - 1], scores[1:-1], atol=1e-5, rtol=0
        )
    # The policy is its own reference here.
    torch.testing.assert_close(rollout.log_probs, rollout.reference_log_probs, atol=1e-4, rtol=0)
    assert rollout.texts[0] == tokenizer.decode_text(rollout.tokens[0, : lengths[0]].tolist())


def test_join_rows():
    rows, lengths = join_rows([[1, 2], [3]], [[4], [5, 6, 7]], CPU)
    assert rows.tolist() == [[1, 2, 4, 0], [3, 5, 6, 7]] and lengths.tolist() == [2, 1]


def test_policy_learns_a_reward_it_can_reach(tokenizer):
    """60 updates of the very loss on a reward that we can count: the share of one token.

    It must rise.
    """
    torch.manual_seed(0)
    policy = Policy(
        TransformerConfig(tokenizer.vocab_size, context=32, width=16, layers=1, heads=2)
    )
    reference, wanted = policy.frozen_copy(), tokenizer.encode(" a")[0]
    reward_model = RewardModel(policy.config)
    optimizer = torch.optim.Adam(policy.parameters(), 1e-2)
    prompts, shares = [tokenizer.encode_prompt("tea")] * 64, []
    for update in range(60):
        rollout = collect(
            Models(policy, reference, reward_model, tokenizer),
            prompts,
            6,
            torch.Generator().manual_seed(update),
        )
        hits = ((rollout.tokens == wanted) & rollout.mask).float()
        rollout.reward = hits.sum(1) / rollout.mask.sum(1)
        shares.append(float(rollout.reward.mean()))
        weights = advantages(rollout, ReinforceConfig(credit="sequence"), kl_weight=0.0)
        loss, _ = policy_gradient_loss(policy, rollout, weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert shares[0] < 0.05 and shares[-1] > 0.5


# Whole runs ---------------------------------------------------------------------------------------


def test_run_folder_keeps_the_contract(finished_run):
    summary = json.loads((finished_run.path / "summary.json").read_text())
    assert (
        summary["task"] == "openings"
        and summary["seed"] == 0
        and summary["reward_hacking"] in (True, False)
    )
    assert set(summary["seconds"]) == {"pretrain", "reward", "finetune", "evaluate", "total"}
    assert {"mse", "mse_constant", "pearson", "spearman", "handwritten_spearman"} <= set(
        summary["reward_model"]
    )
    for split in ("train", "heldout"):
        part = summary[split]
        for name in ("judge_before", "judge_after", "reward_before", "reward_after"):
            assert set(part[name]) == {"mean", "low", "high", "n"} and part[name]["n"] == 32
            assert part[name]["low"] < part[name]["mean"] < part[name]["high"]
        assert (
            part["kl_after"] > 0 and part["length_before"] > 0 and 0 < part["distinct_after"] <= 1
        )
        assert part["win_rate"]["n"] == 32 and not {"judge_base", "kinds"} & set(part)
    assert list(summary["corpus_loss"]) == ["base", "tuned"] and "refusals" not in summary
    metrics = finished_run.read("metrics.jsonl")
    assert [row["step"] for row in metrics if row["stage"] == "finetune"] == [1, 2, 3, 4, 5, 6]
    pretraining = [row["loss_nats_per_token"] for row in metrics if row["stage"] == "pretrain"]
    assert pretraining[-1] < pretraining[0]
    samples = finished_run.read("samples.jsonl")
    assert {row["when"] for row in samples} >= {"before", "after", "step 1"}
    assert "openings" in (finished_run.path / "report.html").read_text(encoding="utf-8")
    collected = finished_run.read("collected.jsonl")
    assert len(collected) == 20 and all(
        row["provenance"] == "simulated" and len(row["ratings"]) == 3 for row in collected
    )


class Stop(BaseException):
    pass


@pytest.mark.parametrize(
    "stage, module, function, calls",
    [
        ("pretrain", pretrain_module, "language_model_loss", 17),
        ("reward", None, "reward_loss", 14),
        # in the second round, right after the refit
        ("finetune", gradient_module, "policy_gradient_loss", 4),
        ("finetune", gradient_module, "policy_gradient_loss", 5),
    ],
)
def test_interrupted_run_resumes_bit_for_bit(
    tmp_path, monkeypatch, small_task, finished_run, stage, module, function, calls
):
    """Stop in the middle of a stage, resume: the same weights, metrics and samples as the run that
    was left alone.
    """
    from minirlhf.training import reward_objectives as reward_module

    module = module or reward_module
    monkeypatch.setattr(Checkpoints, "every_seconds", 0.0)
    original, count = getattr(module, function), [0]

    def stopping(*arguments, **keywords):
        count[0] += 1
        if count[0] == calls:
            raise Stop
        return original(*arguments, **keywords)

    run = Run.create(tmp_path / "tiny", TINY)
    for name in products.STAGES[: products.STAGES.index(stage)]:
        pipeline.STAGE_FUNCTIONS[name](run, small_task)
    monkeypatch.setattr(module, function, stopping)
    with pytest.raises(Stop):
        pipeline.STAGE_FUNCTIONS[stage](run, small_task)
    monkeypatch.setattr(module, function, original)
    assert (run.path / "checkpoint.safetensors").exists()

    again = Run.create(tmp_path / "tiny", Config(), resume=True)
    assert again.config == TINY
    for name in products.STAGES:
        if not again.is_done(name):
            pipeline.STAGE_FUNCTIONS[name](again, small_task)
    for file in ("pretrained", "reward", "reward_final", "policy"):
        ours, theirs = (
            load_tensors(path / f"{file}.safetensors")[0]
            for path in (again.path, finished_run.path)
        )
        assert ours.keys() == theirs.keys() and all(
            torch.equal(ours[key], theirs[key]) for key in ours
        ), file
    for file in ("metrics.jsonl", "samples.jsonl"):
        ours, theirs = (
            [{k: v for k, v in row.items() if k != "seconds"} for row in path.read(file)]
            for path in (again, finished_run)
        )
        assert ours == theirs, file


def test_seed_changes_the_run(tmp_path, small_task, finished_run):
    run = Run.create(tmp_path / "other", dataclasses.replace(TINY, seed=1))
    pipeline.pretrain_stage(run, small_task)
    ours, theirs = (
        load_tensors(path / "pretrained.safetensors")[0] for path in (run.path, finished_run.path)
    )
    assert any(not torch.equal(ours[key], theirs[key]) for key in ours)


def test_config_round_trips_and_names_what_is_wrong():
    assert from_json(json.loads(json.dumps(to_json(TINY))), "config.json") == TINY
    with pytest.raises(ValueError, match="config.json: pretrain: unknown field 'spteps'"):
        from_json({"pretrain": {"spteps": 3}}, "config.json")
    with pytest.raises(
        ValueError,
        match="config.json: --seed: expected an integer from 0 to 9223372036854775807, found 'x'",
    ):
        from_json({"seed": "x"}, "config.json")


@pytest.mark.gpu
def test_a_run_on_cuda(tmp_path, small_task):
    run = run_all(tmp_path / "gpu", small_task, dataclasses.replace(TINY, device="cuda"))
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["device"].startswith("cuda") and summary["train"]["judge_after"]["n"] == 32
