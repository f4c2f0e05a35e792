"""How much to push each token of a sample: credit (E5), the cost of the KL, a baseline."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minirlhf import equations
from minirlhf.config import CreditConfig
from minirlhf.training.rollout import Rollout


def token_credit(rollout: Rollout, credit: str) -> Tensor:
    """The weight of each token (batch, time) before KL and baseline: one reading of E5 each.

    sequence           r(x, y) on every token       gradient of E[r(x, y)] (E2)
    per-token          r_t = r(x, y_1:t)            E5 as written
    reward-to-go       r_t + ... + r_T              gradient of E[R], R the sum of all r_t (E4)
    prefix-difference  r_t - r_(t-1)                advantage, if r_t is the expected final score
    """
    rewards, mask = rollout.prefix_rewards, rollout.mask
    if credit == "sequence":
        return rollout.reward[:, None].expand_as(rewards)
    if credit == "per-token":
        return rewards
    if credit == "reward-to-go":
        return equations.reward_to_go(rewards, mask)
    if credit == "prefix-difference":
        return equations.prefix_difference(rewards, mask, rollout.initial_reward)
    raise ValueError(
        f"credit: expected sequence, per-token, reward-to-go or prefix-difference, found {credit!r}"
    )


def column_mean(weights: Tensor, mask: Tensor) -> Tensor:
    """Mean over the texts that have a token t, for each t: (batch, time) to (1, time).

    What stands at padded positions does not count, even if it is NaN.
    """
    real = weights.masked_fill(~mask, 0)
    return real.sum(0, keepdim=True) / mask.sum(0, keepdim=True).clamp(min=1)


def minus_column_mean(weights: Tensor, mask: Tensor) -> Tensor:
    """The weights (batch, time) minus the mean of their column; all 0 if only rounding is left.

    TRPO's step has the same length however small the gradient is: it must not follow rounding.
    """
    centred = weights - column_mean(weights, mask)
    is_rounding = centred.abs() <= 4 * torch.finfo(weights.dtype).eps * weights.abs()
    return centred.masked_fill((is_rounding | ~mask).all(), 0)


def scores_before(rollout: Rollout) -> Tensor:
    """r_0 .. r_(T-1) (batch, time): what the text was worth before each token, as a baseline.

    It needs no second network and does not depend on the token. Subtracted from r(x, y)
    (gae_lambda 1) it leaves the mean gradient as it is, however wrong it may be (proof:
    tests/equations/test_exact_policy_gradient.py). With a smaller lambda its errors count.
    """
    return torch.cat([rollout.initial_reward[:, None], rollout.prefix_rewards[:, :-1]], dim=1)


def corrected_scores_before(rollout: Rollout) -> Tensor:
    """`scores_before` (batch, time) plus their mean error at each t.

    The score of a beginning need not be what the whole text is worth on average.
    """
    before = scores_before(rollout)
    return before + column_mean(rollout.reward[:, None] - before, rollout.mask)


def advantages(rollout: Rollout, settings: CreditConfig, kl_weight: float) -> Tensor:
    """The weight of each token (batch, time): credit minus the cost of the KL, minus a baseline.

    The objective is E[reward] - kl_weight * KL(policy || reference). The KL of the tokens still to
    come is a cost of the token that led there, so it enters as a reward-to-go of the estimator k1
    (unbiased; tests/equations/test_exact_kl.py). With the baseline "prefix-score" it is part of the
    GAE's rewards, so that with gae_lambda below 1 later KL counts less and less.
    """
    weights = weights_before_mean(rollout, settings, kl_weight)
    if settings.baseline == "none":
        return weights
    return minus_column_mean(weights, rollout.mask)


def weights_before_mean(rollout: Rollout, settings: CreditConfig, kl_weight: float) -> Tensor:
    """As `advantages` (batch, time), but the mean over the batch is not subtracted."""
    mask, credit, baseline = rollout.mask, settings.credit, settings.baseline
    kl = equations.kl_k1(rollout.log_probs, rollout.reference_log_probs, mask)  # (batch, time)
    if credit == "sequence" and baseline == "prefix-score":
        # r_(t-1) + (r_t - r_(t-1)) + ... + (r_T - r_(T-1)) = r(x, y): GAE lets the later ones of
        # these steps count less and less.
        rewards = equations.kl_penalized_rewards(rollout.reward, kl, mask, kl_weight)
        return equations.generalized_advantage(
            rewards, scores_before(rollout), mask, 1.0, settings.gae_lambda
        )
    weights = token_credit(rollout, credit) - kl_weight * equations.reward_to_go(kl, mask)
    # The prefix difference has subtracted r_(t-1) already.
    if baseline == "prefix-score" and credit != "prefix-difference":
        weights = weights - scores_before(rollout)
    return weights


def group_advantages(
    rollout: Rollout, compare: Callable[[Tensor], Tensor], group_size: int, kl_weight: float
) -> Tensor:
    """The weight of each token (batch, time): how much better its text is than its group.

    A group is `group_size` texts on one prompt, which stand in a row. `compare` turns their rewards
    (prompts, samples) into advantages; the KL of a whole text is part of its reward.
    (GRPO's paper instead adds the estimator k3 as a loss, whose mean gradient is that of another
    KL, and averages over the tokens of each text, which is another objective: test_exact_kl.py and
    test_exact_policy_gradient.py in tests/equations show both.)
    """
    kl = equations.kl_k1(rollout.log_probs, rollout.reference_log_probs, rollout.mask)
    rewards = rollout.reward - kl_weight * kl.sum(1)  # (batch,)
    by_text = compare(rewards.view(-1, group_size)).view(-1, 1)  # (batch, 1)
    return by_text.expand(rollout.mask.shape)
