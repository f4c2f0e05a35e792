"""RLOO, GRPO, PPO and TRPO as updates of a real policy; the one loop around them; diagnostics;
resuming.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil

import pytest
import torch
from conftest import TINY
from torch.nn.attention import SDPBackend, sdpa_kernel

from minirlhf import equations
from minirlhf.cli.main import main
from minirlhf.config import (
    IN_GROUPS,
    Config,
    FinetuneConfig,
    GroupConfig,
    PPOConfig,
    ReinforceConfig,
    TRPOConfig,
    WarnConfig,
    preset,
)
from minirlhf.config_file import from_json, to_json
from minirlhf.evaluation.judge import best_of_n
from minirlhf.models.policy import Policy
from minirlhf.models.reward_model import RewardModel
from minirlhf.models.transformer import TransformerConfig
from minirlhf.models.value_model import ValueModel
from minirlhf.runs import pipeline
from minirlhf.runs.checkpoints import Checkpoints
from minirlhf.runs.folder import Run
from minirlhf.settings import SettingError
from minirlhf.system.files import load_tensors
from minirlhf.training import finetune as finetune_module
from minirlhf.training.algorithms import ppo as ppo_module
from minirlhf.training.algorithms.advantages import advantages
from minirlhf.training.algorithms.make import make_algorithm
from minirlhf.training.algorithms.ppo import PPO, text_values
from minirlhf.training.algorithms.trpo import conjugate_gradient, fisher_product, flat, trpo
from minirlhf.training.diagnostics import diagnose, low_entropy
from minirlhf.training.optimizers import adamw, gradient_step
from minirlhf.training.rollout import Models, Rollout, collect

WANTED, END = 3, 19  # the token whose share is the reward, and the end of a text


class Words:
    """What `collect` needs of a tokenizer."""

    end_id = END

    def decode_text(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


def world(seed: int = 0, dtype=torch.float32) -> tuple[Policy, RewardModel]:
    torch.manual_seed(seed)
    policy = Policy(TransformerConfig(vocab_size=20, context=16, width=16, layers=1, heads=2)).to(
        dtype
    )
    with torch.no_grad():  # far from uniform, so that nothing is symmetrical by chance
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    reward_model = RewardModel.from_policy(policy).to(dtype)
    torch.nn.init.normal_(reward_model.score.weight)
    return policy, reward_model


def roll(
    policy: Policy,
    reward_model: RewardModel,
    seed: int,
    count: int = 32,
    reference: Policy | None = None,
) -> Rollout:
    """Texts on two prompts, rewarded by the share of one token (a reward that a test can count)."""
    prompts = [[1, 2], [4, 5, 6]] * (count // 2)
    rollout = collect(
        Models(policy, reference or policy.frozen_copy(), reward_model, Words()),
        prompts,
        8,
        torch.Generator().manual_seed(seed),
    )
    rollout.reward = ((rollout.tokens == WANTED) & rollout.mask).sum(1) / rollout.mask.sum(1)
    return rollout


@pytest.fixture
def tiny() -> tuple[Policy, RewardModel, Rollout]:
    policy, reward_model = world()
    reference = world(seed=1)[0]
    return policy, reward_model, roll(policy, reward_model, 0, reference=reference)


def test_select_cuts_to_the_longest_and_keeps_each_text(tiny):
    _, _, rollout = tiny
    lengths = rollout.mask.sum(1)
    index = lengths.argsort()[:5]
    part = rollout.select(index)
    assert part.mask.shape[1] == lengths[index].max() < rollout.mask.shape[1]
    for row, source in enumerate(index.tolist()):
        length = int(lengths[source])
        columns = int(rollout.prompt_lengths[source]) + length
        assert torch.equal(part.rows[row, :columns], rollout.rows[source, :columns])
        for name in ("tokens", "log_probs", "reference_log_probs", "prefix_rewards"):
            assert torch.equal(
                getattr(part, name)[row, :length], getattr(rollout, name)[source, :length]
            )
        assert part.mask[row].sum() == length and part.texts[row] == rollout.texts[source]
        assert (
            part.reward[row] == rollout.reward[source] and part.ended[row] == rollout.ended[source]
        )


# RLOO and GRPO ------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_group_advantages_compare_neighbours_with_the_kl_in_the_reward(tiny, algorithm):
    policy, reward_model, rollout = tiny
    config = Config(finetune=FinetuneConfig(algorithm=algorithm, group=GroupConfig(size=4)))
    models = Models(policy, None, reward_model, None)
    weights = make_algorithm(models, config).weigh(rollout, 0.2)
    for start in range(0, 32, 4):
        total = [
            float(
                rollout.reward[i]
                - 0.2 * (rollout.log_probs - rollout.reference_log_probs)[i][rollout.mask[i]].sum()
            )
            for i in range(start, start + 4)
        ]
        mean, spread = sum(total) / 4, torch.tensor(total).std().item()
        for i, value in enumerate(total):
            others = (sum(total) - value) / 3
            wanted = value - others if algorithm == "rloo" else (value - mean) / spread
            torch.testing.assert_close(
                weights[start + i], torch.full_like(weights[0], wanted), atol=1e-5, rtol=1e-4
            )


# PPO ----------------------------------------------------------------------------------------------


def make_ppo(
    policy: Policy, reward_model: RewardModel, kl_weight=0.0, gradient_clip=1.0, **settings
) -> PPO:
    """Learning rates stay as they are given: the run is so long that its first updates are no
    decay.
    """
    config = FinetuneConfig(
        algorithm="ppo",
        updates=10**6,
        kl_weight=kl_weight,
        gradient_clip=gradient_clip,
        ppo=PPOConfig(**settings),
    )
    algorithm = make_algorithm(
        Models(policy, None, reward_model, None), Config(seed=0, finetune=config)
    )
    assert isinstance(algorithm, PPO)
    return algorithm


AFTER_WARMUP = 10  # an update whose learning rate is full


def test_value_model_starts_as_the_reward_model_of_each_prefix(tiny):
    policy, reward_model, rollout = tiny
    torch.nn.init.normal_(
        reward_model.score.weight, std=0.01
    )  # scores near 1/2, where the tangent is the sigmoid
    values = text_values(policy, ValueModel.from_reward_model(reward_model), rollout)[1]
    initial, prefix = reward_model.prefix_scores(
        rollout.rows, rollout.prompt_lengths, rollout.mask.shape[1]
    )
    wanted = torch.cat([initial[:, None], prefix], 1)[:, :-1]  # V(s_t) is the score of y_<t
    torch.testing.assert_close(values[rollout.mask], wanted[rollout.mask], atol=1e-3, rtol=0)
    assert values[rollout.mask].std() > 1e-3


@pytest.mark.parametrize("value_kind", ["separate", "shared"])
def test_first_step_of_ppo_is_the_policy_gradient_with_gae(tiny, value_kind):
    """One epoch of one minibatch, ratio 1: the policy's gradient is -mean sum A grad log p with A
    written out here.
    """
    policy, reward_model, rollout = tiny
    algorithm = make_ppo(
        policy,
        reward_model,
        kl_weight=0.2,
        value=value_kind,
        epochs=1,
        minibatch_size=32,
        value_weight=0.0,
        gae_lambda=0.9,
        learning_rate=0.0,
    )
    torch.nn.init.normal_(algorithm.value.head.weight)
    values = text_values(policy, algorithm.value, rollout)[1].detach()
    algorithm.update(rollout, AFTER_WARMUP)
    found = policy.head.weight.grad.clone()

    weights = torch.zeros_like(values)
    for row, length in enumerate(rollout.mask.sum(1).tolist()):
        following = 0.0
        for t in reversed(range(length)):
            reward = -0.2 * (rollout.log_probs - rollout.reference_log_probs)[row, t]
            reward = reward + (rollout.reward[row] if t == length - 1 else 0)
            next_value = values[row, t + 1] if t + 1 < length else 0.0
            following = reward + next_value - values[row, t] + 0.9 * following
            weights[row, t] = following
    real = weights[rollout.mask]
    weights = (weights - real.mean()) / real.std(correction=0)
    log_probs = policy.text_log_probs(rollout.rows, rollout.prompt_lengths, rollout.tokens)
    loss = -(weights * log_probs)[rollout.mask].sum() / len(weights)
    wanted = torch.autograd.grad(loss, list(policy.parameters()))
    norm = torch.cat([g.flatten() for g in wanted]).norm()
    first = next(i for i, p in enumerate(policy.parameters()) if p is policy.head.weight)
    torch.testing.assert_close(
        found, wanted[first] * min(1.0, 1.0 / norm), atol=1e-5, rtol=1e-3
    )  # clipped to norm 1


def test_ppo_extra_terms_reach_the_gradient(tiny):
    """Entropy bonus and pretraining mix, each against its own gradient; such gradients add up."""
    policy, reward_model, rollout = tiny

    def gradient(mixed_in=False, **settings):
        algorithm = make_ppo(
            policy,
            reward_model,
            kl_weight=0.2,
            gradient_clip=math.inf,
            epochs=1,
            minibatch_size=32,
            learning_rate=0.0,
            **settings,
        )
        if mixed_in:
            algorithm.mix = FixedMix()
        algorithm.update(rollout, AFTER_WARMUP)
        return flat([p.grad for p in policy.parameters()])

    def pretraining_loss(number):
        return policy(torch.tensor([[1, 2, 3]])).log_softmax(-1)[0, 1, 7].neg() * (number + 1)

    class FixedMix:
        def loss(self, batch_size, step, number):
            return 3.0 * pretraining_loss(number)

    plain = gradient()
    entropy = equations.entropy(text_logits64(policy, rollout), rollout.mask).sum(1).mean()
    wanted = flat(torch.autograd.grad(entropy, list(policy.parameters())))
    torch.testing.assert_close(
        gradient(entropy_weight=0.5), plain - 0.5 * wanted, atol=1e-4, rtol=1e-3
    )
    wanted = flat(torch.autograd.grad(pretraining_loss(0), list(policy.parameters())))
    torch.testing.assert_close(
        gradient(mixed_in=True),
        plain + 3.0 * wanted,
        atol=1e-4,
        rtol=1e-3,
    )


def test_value_loss_reaches_the_body_only_if_it_is_shared(tiny):
    policy, reward_model, rollout = tiny
    rollout.reference_log_probs = (
        rollout.log_probs
    )  # no KL; and equal rewards: whitened advantages are those of the values
    found = {}
    for kind in ("separate", "shared"):
        grads = []
        for weight in (0.0, 5.0):
            algorithm = make_ppo(
                policy,
                reward_model,
                gradient_clip=math.inf,
                value=kind,
                epochs=1,
                minibatch_size=32,
                learning_rate=0.0,
                value_weight=weight,
            )
            torch.manual_seed(0)
            torch.nn.init.normal_(algorithm.value.head.weight)
            algorithm.update(rollout, AFTER_WARMUP)
            value = algorithm.value
            grads.append(flat([p.grad for p in policy.parameters()]))
            assert (weight == 0) == (flat([p.grad for p in value.parameters()]).abs().max() == 0)
        found[kind] = (grads[1] - grads[0]).abs().max()
    assert found["separate"] == 0 and found["shared"] > 1e-3


def test_prefix_scores_as_values_of_ppo(tiny):
    """With lambda 0 an advantage is the change of the value, minus the price of the KL; the value
    is the prefix score, without its mean error at each t.
    """
    policy, reward_model, rollout = tiny
    algorithm = make_ppo(
        policy,
        reward_model,
        value="prefix-score",
        kl_weight=0.2,
        gae_lambda=0.0,
        whiten=False,
        epochs=1,
        minibatch_size=32,
    )
    values, advantages, _ = algorithm.estimate(rollout)
    before = torch.cat([rollout.initial_reward[:, None], rollout.prefix_rewards[:, :-1]], dim=1)
    kl = equations.kl_k1(rollout.log_probs, rollout.reference_log_probs, rollout.mask)
    mask = rollout.mask
    for t in range(mask.shape[1]):
        has = mask[:, t]
        error = rollout.reward[has].mean() - values[has, t].mean()
        assert abs(error) < 1e-6
        correction = values[has, t] - before[has, t]
        torch.testing.assert_close(correction, correction.mean().expand_as(correction))
    after = torch.cat([values[:, 1:], torch.zeros(len(values), 1)], dim=1).scatter(
        1, mask.sum(1, keepdim=True) - 1, rollout.reward[:, None]
    )
    wanted = after - values - 0.2 * kl
    torch.testing.assert_close(advantages[mask], wanted[mask])
    learned = sum(len(group["params"]) for group in algorithm.optimizer.param_groups)
    assert algorithm.modules == {} and learned == len(list(policy.parameters()))
    metrics = algorithm.update(rollout, AFTER_WARMUP)
    assert metrics["gradient_norm"] > 0


def test_ppo_stops_early_when_the_policy_has_moved(tiny):
    policy, reward_model, rollout = tiny
    steps = {}
    for kl_stop in (1e-3, math.inf):
        student = policy.frozen_copy().requires_grad_(True)
        algorithm = make_ppo(
            student, reward_model, epochs=4, minibatch_size=8, kl_stop=kl_stop, learning_rate=3e-3
        )
        metrics = algorithm.update(rollout, AFTER_WARMUP)
        steps[kl_stop] = int(metrics["minibatches"])
        assert metrics["kl_step_nats"] > 1e-3 and metrics["ratio_max"] > 1
    assert 1 <= steps[1e-3] < steps[math.inf] == 16


def test_ppo_value_function_learns_what_it_is_asked(tiny):
    """Explained variance of a value function that starts at 0 rises; the policy stands still
    (learning only the value).
    """
    policy, reward_model, _ = tiny
    algorithm = make_ppo(
        policy,
        reward_model,
        epochs=4,
        minibatch_size=8,
        gae_lambda=1.0,
        value="separate",
        learning_rate=3e-3,
    )
    torch.nn.init.zeros_(algorithm.value.head.weight)
    algorithm.optimizer = adamw(algorithm.value, 3e-3, 0.0)
    explained = []
    for update in range(15):
        rollout = roll(policy, reward_model, update, count=64)
        metrics = algorithm.update(rollout, AFTER_WARMUP + update)
        explained.append(float(metrics["explained_variance"]))
    assert abs(explained[0]) < 1e-5 and sum(explained[-3:]) / 3 > 0.2


def test_a_gradient_that_is_not_finite_is_not_followed():
    policy, _ = world()
    before = flat(policy.parameters()).clone()
    optimizer = adamw(policy, 1e-2, 0.0)
    norm = gradient_step(policy(torch.tensor([[1, 2]])).sum() * math.nan, optimizer, [policy], 1.0)
    assert not norm.isfinite() and torch.equal(flat(policy.parameters()), before)
    norm = gradient_step(policy(torch.tensor([[1, 2]])).square().sum(), optimizer, [policy], 1.0)
    assert norm.isfinite() and not torch.equal(flat(policy.parameters()), before)


# TRPO ---------------------------------------------------------------------------------------------


def test_conjugate_gradient_solves_and_stops():
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    matrix, target = (
        half @ half.T + 0.5 * torch.eye(12, dtype=torch.float64),
        torch.arange(12, dtype=torch.float64),
    )
    found = conjugate_gradient(
        lambda v: matrix @ v, target, 40
    )  # more than it needs: must not divide 0 by 0
    torch.testing.assert_close(found, torch.linalg.solve(matrix, target), rtol=1e-5, atol=1e-6)
    one = conjugate_gradient(
        lambda v: matrix @ v, target, 1
    )  # its first step is steepest descent with the best length
    torch.testing.assert_close(one, target * (target @ target) / (target @ matrix @ target))


def test_fisher_product_is_the_damped_hessian_of_the_kl():
    """Against the Gauss-Newton form, from first derivatives alone: sum over states of J^T (diag p -
    p p^T) J, mean over texts.
    """
    policy, reward_model = world(dtype=torch.float64)
    rollout = roll(policy, reward_model, 0, count=6)
    parameters = list(policy.parameters())
    product = fisher_product(policy, rollout, damping=0.3)
    logits = text_logits64(policy, rollout)[rollout.mask]  # (tokens, vocab)
    probs = logits.detach().softmax(-1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        v = torch.randn(
            sum(p.numel() for p in parameters), generator=generator, dtype=torch.float64
        )
        step = 1e-5
        moved = []
        for sign in (1, -1):  # J v by central differences
            copy = policy.frozen_copy()
            offset = 0
            for p in copy.parameters():
                p.add_(sign * step * v[offset : offset + p.numel()].view_as(p))
                offset += p.numel()
            moved.append(text_logits64(copy, rollout)[rollout.mask])
        jv = (moved[0] - moved[1]) / (2 * step)
        weighted = probs * (jv - (probs * jv).sum(-1, keepdim=True))
        fv = flat(
            torch.autograd.grad(
                (logits * weighted).sum() / len(rollout.mask), parameters, retain_graph=True
            )
        )
        torch.testing.assert_close(
            product(v), fv + 0.3 * v, rtol=1e-3, atol=1e-4
        )  # the KL is taken in float32
        assert fv.norm() > 0.1 * v.norm()


def text_logits64(policy: Policy, rollout: Rollout):
    return policy.text_logits(rollout.rows, rollout.prompt_lengths, rollout.mask.shape[1])


def state_kl(old: Policy, new: Policy, rollout: Rollout) -> float:
    """Mean over texts of the summed exact KL(old || new) of their states, written out."""
    total = 0.0
    log_p, log_q = (
        text_logits64(policy.double(), rollout).log_softmax(-1) for policy in (old, new)
    )
    for row, length in enumerate(rollout.mask.sum(1).tolist()):
        total += float(
            (log_p[row, :length].exp() * (log_p[row, :length] - log_q[row, :length])).sum()
        )
    return total / len(rollout.mask)


@pytest.mark.parametrize("delta, damping", [(0.02, 0.1), (0.2, 0.01)])
def test_every_accepted_step_of_trpo_keeps_the_kl_bound_and_gains(delta, damping):
    policy, reward_model = world()
    settings = TRPOConfig(delta=delta, damping=damping, fisher_texts=16, baseline="batch-mean")
    config = FinetuneConfig(algorithm="trpo", trpo=settings)
    accepted, shares = [], []
    for update in range(12):
        rollout = roll(policy, reward_model, update, count=64)
        old, weights = policy.frozen_copy(), advantages(rollout, config.trpo, 0.0)
        metrics = trpo(policy, rollout, weights, config.trpo)
        shares.append(float(rollout.reward.mean()))
        accepted.append(float(metrics["accepted_step"]))
        kl = state_kl(old, policy.frozen_copy(), rollout)
        assert kl <= delta * (1 + 1e-4)  # float32 against float64
        assert kl == pytest.approx(float(metrics["kl_step_nats"]), rel=1e-3, abs=1e-6)
        if accepted[-1]:
            ratio = (
                policy.text_log_probs(rollout.rows, rollout.prompt_lengths, rollout.tokens)
                - rollout.log_probs
            ).exp()
            gain = float(((ratio.detach() - 1) * weights)[rollout.mask].sum() / len(weights))
            assert gain > 0 and gain == pytest.approx(
                float(metrics["surrogate_gain"]), rel=1e-2, abs=1e-5
            )
            assert kl > 0.05 * delta  # and the step is not a token one
    assert sum(step > 0 for step in accepted) >= 10
    assert shares[-1] > 2 * shares[0]


def test_trpo_that_finds_no_step_moves_nothing(tiny):
    policy, _, rollout = tiny
    before = flat(policy.parameters()).clone()
    weights = torch.zeros_like(rollout.log_probs)  # nothing to gain
    metrics = trpo(policy, rollout, weights, TRPOConfig())
    assert float(metrics["accepted_step"]) == 0 and float(metrics["kl_step_nats"]) == 0
    assert torch.equal(flat(policy.parameters()), before)
    metrics = trpo(policy, rollout, torch.full_like(weights, math.nan), TRPOConfig())
    assert float(metrics["accepted_step"]) == 0 and torch.equal(flat(policy.parameters()), before)


def test_trpo_direction_is_the_natural_gradient():
    """With little damping and all steps of conjugate gradient the step agrees with a dense solve of
    the Fisher matrix.
    """
    torch.manual_seed(0)
    policy = Policy(TransformerConfig(vocab_size=20, context=16, width=4, layers=1, heads=1))
    _, reward_model = world()
    rollout = roll(policy, reward_model, 0, count=16)
    weights = advantages(rollout, TRPOConfig(), 0.0)
    parameters, size = list(policy.parameters()), sum(p.numel() for p in policy.parameters())
    product = fisher_product(policy, rollout, damping=0.1)
    fisher = torch.stack([product(row) for row in torch.eye(size)])
    torch.testing.assert_close(fisher, fisher.T, atol=1e-4, rtol=1e-3)
    with sdpa_kernel(SDPBackend.MATH):
        log_probs = policy.text_log_probs(rollout.rows, rollout.prompt_lengths, rollout.tokens)
    loss = equations.trpo_surrogate(log_probs, log_probs.detach(), weights, rollout.mask)
    gradient = flat(torch.autograd.grad(loss, parameters))
    wanted = torch.linalg.solve(fisher, -gradient)
    before = flat(parameters).detach().clone()
    metrics = trpo(
        policy, rollout, weights, TRPOConfig(delta=1e-3, cg_steps=100, fisher_texts=16, damping=0.1)
    )
    moved = flat(parameters).detach() - before
    assert float(metrics["accepted_step"]) > 0
    assert torch.cosine_similarity(moved, wanted, dim=0) > 0.999
    assert torch.cosine_similarity(moved, -gradient, dim=0) < 0.99


# Every algorithm learns a reward that can be counted ----------------------------------------------


@pytest.mark.parametrize(
    "algorithm",
    ["reinforce", "rloo", "grpo", "ppo-separate", "ppo-shared", "ppo-prefix-score", "trpo"],
)
def test_policy_learns_a_reward_it_can_reach(algorithm):
    policy, reward_model = world()
    name, _, kind = algorithm.partition("-")
    config = FinetuneConfig(
        algorithm=name,
        updates=10**6,
        kl_weight=0.0,
        learning_rate=1e-2,
        reinforce=ReinforceConfig(gae_lambda=1.0),
        ppo=PPOConfig(learning_rate=3e-3, value=kind or "separate"),
        trpo=TRPOConfig(delta=0.3, damping=0.1, gae_lambda=1.0),
    )
    made = make_algorithm(Models(policy, None, reward_model, None), Config(finetune=config))
    shares = []
    for update in range(30):
        rollout = roll(policy, reward_model, update, count=64)
        if name in IN_GROUPS:  # the texts of one prompt in a row
            rollout = rollout.select(rollout.prompt_lengths.argsort(stable=True))
        shares.append(float(rollout.reward.mean()))
        made.update(rollout, AFTER_WARMUP + update)
    assert shares[0] < 0.1 and shares[-1] > 0.5


# The loop -----------------------------------------------------------------------------------------


VARIANTS = {
    "rloo": FinetuneConfig(algorithm="rloo"),
    "rloo-mixed": FinetuneConfig(algorithm="rloo", pretraining_weight=1.0),
    "ppo": FinetuneConfig(algorithm="ppo", ppo=PPOConfig(minibatch_size=8, epochs=2)),
    "ppo-shared-mixed": FinetuneConfig(
        algorithm="ppo",
        pretraining_weight=1.0,
        ppo=PPOConfig(minibatch_size=8, epochs=2, value="shared", entropy_weight=0.01),
    ),
    "trpo": FinetuneConfig(algorithm="trpo", trpo=TRPOConfig(fisher_texts=8, cg_steps=3)),
}
VARIED = ("algorithm", "pretraining_weight", "ppo", "trpo")
FIELDS = {
    "rloo": {"gradient_norm", "ratio_max"},
    "ppo": {
        "gradient_norm",
        "ratio_max",
        "clip_fraction",
        "kl_step_nats",
        "explained_variance",
        "minibatches",
    },
    "trpo": {"gradient_norm", "ratio_max", "accepted_step", "kl_step_nats", "surrogate_gain"},
}


class Stop(BaseException):
    pass


def prepared(path, finished_run: Run, variant: str) -> Run:
    """A run that is pretrained and has a reward model, about to be fine-tuned."""
    shutil.copytree(finished_run.path, path)
    for name in (
        "policy.safetensors",
        "reward_final.safetensors",
        "summary.json",
        "samples.jsonl",
        "collected.jsonl",
    ):
        (path / name).unlink()
    run = Run.open(path)
    run.rewrite(
        "metrics.jsonl",
        [row for row in run.read("metrics.jsonl") if row["stage"] in ("pretrain", "reward")],
    )
    settings = {name: getattr(VARIANTS[variant], name) for name in VARIED}
    run.replace_config(
        dataclasses.replace(TINY, finetune=dataclasses.replace(TINY.finetune, **settings))
    )
    return run


@pytest.mark.parametrize("variant", VARIANTS)
def test_runs_log_their_diagnostics_and_resume_bit_for_bit(
    tmp_path, monkeypatch, small_task, finished_run, variant
):
    """Stop inside update 4 (and, once, right after the refit), resume: the same as the run that was
    left alone.
    """
    monkeypatch.setattr(Checkpoints, "every_seconds", 0.0)
    whole = prepared(tmp_path / "whole", finished_run, variant)
    pipeline.finetune_stage(whole, small_task)
    rows = [row for row in whole.read("metrics.jsonl") if row["stage"] == "finetune"]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6] and all(
        row["samples"] == 16 * row["step"] for row in rows
    )
    always = {"reward", "judge", "kl_nats", "length_tokens", "entropy_nats_per_token", "distinct"}
    for row in rows:
        assert always | FIELDS[variant.partition("-")[0]] <= row.keys()

    collects = [0]
    original = finetune_module.collect

    def stopping(*arguments, **keywords):
        collects[0] += 1
        if collects[0] in (
            4,
            7,
        ):  # 3 updates, then update 4 (just after the refit); then, resumed, update 6
            raise Stop
        return original(*arguments, **keywords)

    monkeypatch.setattr(finetune_module, "collect", stopping)
    run = prepared(tmp_path / "cut", finished_run, variant)
    for _ in range(2):
        with pytest.raises(Stop):
            pipeline.finetune_stage(run, small_task)
    pipeline.finetune_stage(run, small_task)
    for file in ("reward_final", "policy"):
        ours, theirs = (
            load_tensors(path / f"{file}.safetensors")[0] for path in (run.path, whole.path)
        )
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), file
    for file in ("metrics.jsonl", "samples.jsonl", "collected.jsonl"):
        ours, theirs = (
            [{k: v for k, v in row.items() if k != "seconds"} for row in one.read(file)]
            for one in (run, whole)
        )
        assert ours == theirs, file


def test_ppo_stopped_between_minibatches_resumes_bit_for_bit(
    tmp_path, monkeypatch, small_task, finished_run
):
    monkeypatch.setattr(Checkpoints, "every_seconds", 0.0)
    whole, run = (prepared(tmp_path / name, finished_run, "ppo") for name in ("whole", "cut"))
    pipeline.finetune_stage(whole, small_task)
    steps, original = [0], ppo_module.gradient_step

    def stopping(*arguments):
        steps[0] += 1
        if steps[0] == 7:  # 4 minibatches an update: the weights are in the middle of update 2
            raise Stop
        return original(*arguments)

    monkeypatch.setattr(ppo_module, "gradient_step", stopping)
    with pytest.raises(Stop):
        pipeline.finetune_stage(run, small_task)
    assert load_tensors(run.path / "checkpoint.safetensors")[1]["step"] == 1
    pipeline.finetune_stage(run, small_task)
    ours, theirs = (load_tensors(path / "policy.safetensors")[0] for path in (run.path, whole.path))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_groups_of_one_prompt_stand_in_a_row(tmp_path, monkeypatch, small_task, finished_run):
    seen, original = [], finetune_module.collect
    monkeypatch.setattr(
        finetune_module,
        "collect",
        lambda *a: (seen.append([tuple(p) for p in a[1]]), original(*a))[1],
    )
    pipeline.finetune_stage(prepared(tmp_path / "run", finished_run, "rloo"), small_task)
    for prompts in seen[:3]:
        assert len(prompts) == 16 and len(set(prompts)) == 4
        assert all(len(set(prompts[start : start + 4])) == 1 for start in range(0, 16, 4))


# Settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad, words",
    [
        (
            lambda: FinetuneConfig(algorithm="rloo", batch_size=10),
            r"group.size: expected a divisor of --finetune.batch-size \(10\), found 4",
        ),
        (lambda: GroupConfig(size=1), "group.size: expected an integer of at least 2, found 1"),
        (lambda: PPOConfig(epochs=0), "ppo.epochs: expected an integer of at least 1, found 0"),
        (lambda: PPOConfig(clip_range=0.0), "ppo.clip-range: expected a number above 0, found 0.0"),
        (
            lambda: PPOConfig(gae_lambda=1.5),
            "ppo.gae-lambda: expected a number from 0 to 1, found 1.5",
        ),
        (lambda: TRPOConfig(delta=math.nan), "trpo.delta: expected a number above 0, found nan"),
        (lambda: TRPOConfig(cg_steps=0), "trpo.cg-steps: expected an integer of at least 1"),
    ],
)
def test_bad_settings_are_named(bad, words):
    with pytest.raises(SettingError, match=f"^--finetune.{words}"):
        bad()


def test_settings_of_algorithms_are_on_the_command_line_and_in_config_json(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["finetune", "--help"])
    printed = capsys.readouterr().out
    assert all(
        flag in printed
        for flag in ("--algorithm", "--ppo.clip-range", "--trpo.delta", "--warn.kl-ceiling")
    )
    config = dataclasses.replace(TINY, finetune=VARIANTS["ppo-shared-mixed"])
    assert from_json(json.loads(json.dumps(to_json(config))), "config.json") == config
    with pytest.raises(SystemExit) as stopped:
        main(
            [
                "demo",
                "--algorithm",
                "rloo",
                "--finetune.group-size",
                "3",
                "--run",
                "x",
                "--runs",
                str(tmp_path),
            ]
        )
    assert stopped.value.code == 2 and "group.size: expected" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


# Diagnostics --------------------------------------------------------------------------------------


def rows_of(count: int, **series) -> list[dict]:
    """`count` rows of metrics; each series is a function of the row's index."""
    healthy = {
        "reward": lambda i: 0.4,
        "judge": lambda i: 0.4,
        "kl_nats": lambda i: 2.0,
        "entropy_nats_per_token": lambda i: 1.0,
    }
    return [
        {"step": i + 1, **{name: f(i) for name, f in (healthy | series).items()}}
        for i in range(count)
    ]


def kinds(rows: list[dict], config: FinetuneConfig = FinetuneConfig()) -> dict[int, set[str]]:
    """Which warnings are given after which row, each row keeping its own as the loop does."""
    given = {}
    for end in range(1, len(rows) + 1):
        if warnings := diagnose(rows[:end], config):
            rows[end - 1]["warnings"] = warnings
            given[end] = set(warnings)
    return given


def noise(index: int, size: float = 0.02) -> float:
    return size * math.sin(7.3 * index)


def test_a_healthy_run_is_not_warned_of():
    assert (
        kinds(
            rows_of(
                60,
                reward=lambda i: 0.3 + 0.01 * i + noise(i),
                judge=lambda i: 0.3 + 0.005 * i + noise(i + 2),
            )
        )
        == {}
    )
    assert (
        kinds(
            rows_of(
                60, judge=lambda i: 0.5 - 0.005 * i + noise(i), reward=lambda i: 0.4 + noise(3 * i)
            )
        )
        == {}
    )  # both bad


def test_each_fault_is_told_of_once_and_names_its_knob():
    rows = rows_of(
        30,
        entropy_nats_per_token=lambda i: 0.1 if i > 4 else 1.0,
        kl_nats=lambda i: 99.0 if i > 6 else 1.0,
        gradient_norm=lambda i: math.nan if i in (9, 12) else 1.0,
    )
    assert kinds(rows) == {6: {"entropy"}, 8: {"kl"}, 10: {"not finite"}}
    assert "--finetune.kl-weight" in rows[5]["warnings"]["entropy"]
    assert "--finetune.kl-target" in rows[7]["warnings"]["kl"]
    told = rows[9]["warnings"]["not finite"]
    assert "gradient_norm" in told and "--finetune.learning-rate" in told


@pytest.mark.parametrize(
    "algorithm, knob", [("ppo", "--finetune.ppo.learning-rate"), ("trpo", "--finetune.trpo.delta")]
)
def test_the_knob_is_that_of_the_algorithm(algorithm, knob):
    rows = rows_of(1, loss=lambda i: math.inf)
    assert knob in diagnose(rows, FinetuneConfig(algorithm=algorithm))["not finite"]


def test_reward_up_and_judge_down_is_noticed_after_a_good_start():
    """The judge rises for 20 updates, then falls while the reward goes on rising: warned of at the
    end of a window.
    """
    rows = rows_of(
        50,
        reward=lambda i: 0.3 + 0.01 * i + noise(i),
        judge=lambda i: 0.3 + 0.01 * min(i, 36 - i) + noise(i + 1),
    )
    given = kinds(rows, FinetuneConfig(warn=WarnConfig(window=10)))
    assert given == {40: {"hacking"}}
    told = rows[39]["warnings"]["hacking"]
    assert "since update 20 the reward rose" in told and "--finetune.kl-weight" in told


def test_short_answers_to_many_questions_are_no_collapse():
    """Policies of the task assistant end at .14 nats per token, and nearly all answers differ."""
    row = {"entropy_nats_per_token": 0.14}
    assert low_entropy(row, preset("small", "openings").finetune) is not None
    assert low_entropy(row, preset("small", "assistant").finetune) is None


def test_the_loop_warns_once_on_standard_error_and_in_the_log(
    tmp_path, capsys, small_task, finished_run
):
    run = prepared(tmp_path / "run", finished_run, "rloo")
    strict = dataclasses.replace(run.config.finetune, warn=WarnConfig(entropy_floor=99.0))
    run.replace_config(dataclasses.replace(run.config, finetune=strict))
    pipeline.finetune_stage(run, small_task)
    assert capsys.readouterr().err.count("warning at update") == 1
    warned = [row["step"] for row in run.read("metrics.jsonl") if "warnings" in row]
    assert warned == [1]


# Best of n ----------------------------------------------------------------------------------------


def test_best_of_n_takes_the_reward_models_choice_of_each_group():
    rows = [
        {"reward": reward, "judge": index}
        for index, reward in enumerate([0.1, 0.9, 0.5, 0.3, 0.2, 0.4, 0.8])
    ]
    assert [row["judge"] for row in best_of_n(rows, 3)] == [1, 5]  # the last row makes no group
    assert best_of_n(rows, 1) == rows


def test_sampled_best_of_n_agrees_with_its_exact_distribution(tiny):
    """Share of texts whose chosen reward is above a level: 1 - F^n, F the share of single texts
    below it (4 standard errors).
    """
    policy, reward_model, _ = tiny
    single = roll(policy, reward_model, 0, count=4000).reward
    n, groups = 4, 1000
    rows = [
        {"reward": reward}
        for reward in roll(policy, reward_model, 1, count=n * groups).reward.tolist()
    ]
    chosen = torch.tensor([row["reward"] for row in best_of_n(rows, n)])
    below = (single <= 0.125).float().mean()
    wanted = 1 - below**n
    error = (
        wanted * (1 - wanted) / groups + (n * below ** (n - 1)) ** 2 * below * (1 - below) / 4000
    ).sqrt()
    assert 0.05 < wanted < 0.95 and abs((chosen > 0.125).float().mean() - wanted) < 4 * error
