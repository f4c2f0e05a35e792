"""PPO, GAE and TRPO: cases computed by hand, and agreement with torchrl's ClipPPOLoss and GAE."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from minirlhf import equations

NAN = float("nan")


def float64(*rows) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# One token of ratio rho, advantage A and clip range 0.2: the loss, and its derivative in log p (=
# -rho A if not clipped).
PPO_CASES = {
    "inside, A > 0": (1.1, 2.0, -2.2, -2.2),
    "inside, A < 0": (0.9, -2.0, 1.8, 1.8),
    "at 1, A > 0": (1.0, 3.0, -3.0, -3.0),
    "above, A > 0: clipped": (1.5, 2.0, -2.4, 0.0),
    "above, A < 0: not clipped": (1.5, -2.0, 3.0, 3.0),
    "below, A > 0: not clipped": (0.5, 2.0, -1.0, -1.0),
    "below, A < 0: clipped": (0.5, -2.0, 1.6, 0.0),
    "A = 0": (1.5, 0.0, 0.0, 0.0),
}


@pytest.mark.parametrize("ratio, advantage, loss, slope", PPO_CASES.values(), ids=PPO_CASES)
def test_ppo_policy_loss_by_hand(ratio, advantage, loss, slope):
    old = float64([-1.3])
    log_probs = (old + math.log(ratio)).requires_grad_()
    found = equations.ppo_policy_loss(log_probs, old, float64([advantage]), torch.ones(1, 1), 0.2)
    found.backward()
    assert found.item() == pytest.approx(loss, abs=1e-12)
    assert log_probs.grad.item() == pytest.approx(slope, abs=1e-12)


@pytest.mark.parametrize("ratio, advantage", [(1.5, 2.0), (1.5, -2.0), (0.5, 2.0), (0.5, -2.0)])
def test_trpo_surrogate_by_hand_never_clips(ratio, advantage):
    old = float64([-1.3])
    log_probs = (old + math.log(ratio)).requires_grad_()
    found = equations.trpo_surrogate(log_probs, old, float64([advantage]), torch.ones(1, 1))
    found.backward()
    assert found.item() == pytest.approx(-ratio * advantage, abs=1e-12)
    assert log_probs.grad.item() == pytest.approx(-ratio * advantage, abs=1e-12)


def test_policy_losses_sum_over_tokens_and_average_over_texts():
    old = float64([0.0, 0.0, 0.0], [0.0, NAN, NAN])
    log_probs = float64([1.1, 1.2, 1.0], [0.9, NAN, NAN]).log()
    advantages = float64([1.0, 1.0, 1.0], [10.0, NAN, NAN])
    mask = torch.tensor([[1.0, 1, 1], [1, 0, 0]])
    wanted = -((1.1 + 1.2 + 1.0) + 9.0) / 2
    found = equations.ppo_policy_loss(log_probs, old, advantages, mask, 0.3)
    assert found.item() == pytest.approx(wanted, abs=1e-12)
    assert equations.trpo_surrogate(log_probs, old, advantages, mask).item() == pytest.approx(
        wanted, abs=1e-12
    )


def test_policy_losses_send_gradient_into_the_new_log_probs_only():
    for loss in (lambda *x: equations.ppo_policy_loss(*x, 0.2), equations.trpo_surrogate):
        new, old, advantages = (torch.full((2, 2), v).requires_grad_() for v in (-1.0, -1.1, 0.7))
        loss(new, old, advantages, torch.ones(2, 2)).backward()
        assert new.grad.abs().min() > 0
        assert old.grad is None and advantages.grad is None


# value, old value, return, clip range 0.5: loss and slope in the value.
VALUE_CASES = {
    "inside": (1.2, 1.0, 2.0, 0.32, -0.8),
    "moved too far towards the return: clipped error is larger, no slope": (
        1.9,
        1.0,
        2.0,
        0.125,
        0.0,
    ),
    "moved too far away from the return: own error is larger": (0.2, 1.0, 2.0, 1.62, -1.8),
    "down, towards: clipped": (0.1, 1.0, 0.0, 0.125, 0.0),
    "down, inside": (0.7, 1.0, 0.0, 0.245, 0.7),
}


@pytest.mark.parametrize("value, old, target, loss, slope", VALUE_CASES.values(), ids=VALUE_CASES)
def test_ppo_value_loss_by_hand(value, old, target, loss, slope):
    values = float64([value]).requires_grad_()
    found = equations.ppo_value_loss(
        values, float64([old]), float64([target]), torch.ones(1, 1), 0.5
    )
    found.backward()
    assert found.item() == pytest.approx(loss, abs=1e-12)
    assert values.grad.item() == pytest.approx(slope, abs=1e-12)


def test_ppo_value_loss_without_a_clip_is_half_the_squared_error_summed_over_tokens():
    values, old = float64([1.0, 2.0], [3.0, NAN]), float64([50.0, -50.0], [0.0, NAN])
    returns, mask = float64([0.0, 0.0], [0.0, NAN]), torch.tensor([[1.0, 1], [1, 0]])
    found = equations.ppo_value_loss(values, old, returns, mask, math.inf)
    assert found.item() == pytest.approx(0.5 * ((1 + 4) + 9) / 2, abs=1e-12)


def test_ppo_value_loss_sends_gradient_into_the_new_values_only():
    new, old, returns = (torch.full((2, 2), v).requires_grad_() for v in (1.0, 1.1, 0.7))
    equations.ppo_value_loss(new, old, returns, torch.ones(2, 2), 0.5).backward()
    assert new.grad.abs().min() > 0
    assert old.grad is None and returns.grad is None


def test_gae_by_hand():
    rewards, values = (
        float64([1.0, 2.0, 4.0], [1.0, NAN, NAN]),
        float64([0.5, 1.0, 2.0], [3.0, NAN, NAN]),
    )
    mask = torch.tensor([[1.0, 1, 1], [1, 0, 0]])
    # deltas with discount 0.5: 1 + .5*1 - .5 = 1; 2 + .5*2 - 1 = 2; 4 - 2 = 2; and 1 - 3 = -2 for
    # the short text
    found = equations.generalized_advantage(rewards, values, mask, discount=0.5, gae_lambda=0.5)
    wanted = float64([1 + 0.25 * (2 + 0.25 * 2), 2 + 0.25 * 2, 2.0], [-2.0, 0.0, 0.0])
    torch.testing.assert_close(found, wanted)


def test_gae_ends_of_the_range_of_lambda():
    generator = torch.Generator().manual_seed(0)
    rewards, values = (
        torch.randn(3, 4, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    mask = torch.arange(4) < torch.tensor([4, 2, 1])[:, None]
    by_one = equations.generalized_advantage(rewards, values, mask, 0.9, 1.0)
    returns = equations.reward_to_go(rewards, mask, 0.9)
    torch.testing.assert_close(by_one, (returns - values) * mask)
    by_zero = equations.generalized_advantage(rewards, values, mask, 0.9, 0.0)
    following = torch.cat([values[:, 1:] * mask[:, 1:], torch.zeros(3, 1)], dim=1)
    torch.testing.assert_close(by_zero, (rewards + 0.9 * following - values) * mask)


# Agreement with torchrl ---------------------------------------------------------------------------

# Imported where it is used: loading it takes seconds, which the other workers need not spend.


def ragged(seed: int) -> tuple[Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 8, (6,), generator=generator)
    return torch.arange(7) < lengths[:, None], generator


@pytest.mark.parametrize(
    "seed, discount, gae_lambda", [(0, 1.0, 0.95), (1, 0.9, 0.5), (2, 0.99, 1.0), (3, 0.7, 0.0)]
)
def test_gae_agrees_with_torchrl(seed, discount, gae_lambda):
    from torchrl.objectives.value.functional import generalized_advantage_estimate

    mask, generator = ragged(seed)
    rewards, values = (
        torch.randn(6, 7, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    found = equations.generalized_advantage(rewards, values, mask, discount, gae_lambda)
    done = ~mask | (
        mask.cumsum(dim=1) == mask.sum(dim=1, keepdim=True)
    )  # at the last token, and behind it
    following = torch.cat(
        [values[:, 1:], torch.full((6, 1), 99.0, dtype=torch.float64)], dim=1
    )  # unread where done
    gamma, lmbda = (
        torch.tensor(v, dtype=torch.float64) for v in (discount, gae_lambda)
    )  # as numbers: float32 inside
    theirs, returns = generalized_advantage_estimate(
        gamma, lmbda, values[..., None], following[..., None], rewards[..., None], done[..., None]
    )
    torch.testing.assert_close(found[mask], theirs.squeeze(-1)[mask], rtol=0, atol=1e-10)
    torch.testing.assert_close(
        (found + values)[mask], returns.squeeze(-1)[mask], rtol=0, atol=1e-10
    )


def torchrl_loss(logits: Tensor, values: Tensor, clip_range: float, value_clip: float) -> nn.Module:
    """torchrl's loss for a policy and a value that are tables: position i has row i of each."""
    from tensordict.nn import (
        ProbabilisticTensorDictModule,
        ProbabilisticTensorDictSequential,
        TensorDictModule,
    )
    from torchrl.objectives import ClipPPOLoss

    policy = nn.Embedding.from_pretrained(logits, freeze=False)
    critic = nn.Embedding.from_pretrained(values[:, None], freeze=False)
    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(policy, in_keys=["position"], out_keys=["logits"]),
        ProbabilisticTensorDictModule(
            in_keys=["logits"],
            out_keys=["action"],
            distribution_class=torch.distributions.Categorical,
            return_log_prob=True,
        ),
    )
    critic = TensorDictModule(critic, in_keys=["position"], out_keys=["state_value"])
    loss = ClipPPOLoss(
        actor,
        critic,
        clip_epsilon=clip_range,
        entropy_bonus=False,
        critic_coeff=1.0,
        loss_critic_type="l2",
        clip_value=value_clip,
        normalize_advantage=False,
        functional=False,
        reduction="sum",
    )
    loss.clip_epsilon = torch.tensor(clip_range, dtype=torch.float64)  # it was rounded to float32
    loss.clip_value = torch.tensor(value_clip, dtype=torch.float64)
    return loss


@pytest.mark.parametrize("seed, clip_range", [(0, 0.2), (1, 0.1), (2, 0.5)])
def test_ppo_losses_and_gradients_agree_with_torchrl(seed, clip_range):
    from tensordict import TensorDict

    mask, generator = ragged(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    old_logits, advantages, old_values = normal(6, 7, 4), normal(6, 7), normal(6, 7)
    returns = advantages + old_values
    logits = (old_logits + 0.5 * normal(6, 7, 4)).requires_grad_()
    values = (old_values + 0.5 * normal(6, 7)).requires_grad_()
    tokens = torch.randint(0, 4, (6, 7), generator=generator)
    old_log_probs = equations.token_log_probs(old_logits, tokens)
    log_probs = equations.token_log_probs(logits, tokens)
    policy_loss = equations.ppo_policy_loss(log_probs, old_log_probs, advantages, mask, clip_range)
    value_loss = equations.ppo_value_loss(values, old_values, returns, mask, clip_range)
    (policy_loss + value_loss).backward()
    ratio = (log_probs - old_log_probs).exp()[mask]
    assert ((ratio - 1).abs() > clip_range).any() and (
        (ratio - 1).abs() < clip_range
    ).any()  # both branches are met

    theirs = torchrl_loss(logits.detach()[mask], values.detach()[mask], clip_range, clip_range)
    batch = TensorDict(
        {
            "position": torch.arange(int(mask.sum())),
            "action": tokens[mask],
            "action_log_prob": old_log_probs[mask],
            "advantage": advantages[mask][:, None],
            "value_target": returns[mask][:, None],
            "state_value": old_values[mask][:, None],
        },
        batch_size=int(mask.sum()),
    )
    out = theirs(batch)
    (out["loss_objective"] + out["loss_critic"]).backward()
    # Theirs is the sum over tokens; ours its mean over 6 texts, and half of it for the value.
    assert policy_loss.item() == pytest.approx(out["loss_objective"].item() / 6, rel=1e-12)
    assert value_loss.item() == pytest.approx(0.5 * out["loss_critic"].item() / 6, rel=1e-12)
    gradients = {p.shape[-1]: p.grad for p in theirs.parameters()}
    torch.testing.assert_close(logits.grad[mask], gradients[4] / 6, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        values.grad[mask], 0.5 * gradients[1].squeeze(-1) / 6, rtol=1e-9, atol=1e-12
    )
    assert logits.grad[~mask].abs().sum() == 0 and values.grad[~mask].abs().sum() == 0
