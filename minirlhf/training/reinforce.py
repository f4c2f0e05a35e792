"""REINFORCE (sections 4.1 and 4.2): push up the log-probability of each token by the weight that it earned."""
from __future__ import annotations

import torch
from torch import Tensor

from minirlhf import equations
from minirlhf.config import FinetuneConfig
from minirlhf.policy import Policy
from minirlhf.run import autocast
from minirlhf.training.rollout import Rollout


def token_credit(rollout: Rollout, credit: str) -> Tensor:
    """The weight of each token (batch, time) before KL and baseline: one reading of E5 each.

    sequence           r(x, y) on every token                      gradient of E[r(x, y)] (E2)
    per-token          r_t = r(x, y_1:t)                            E5 as written
    reward-to-go       r_t + ... + r_T                              gradient of E[R], R the sum of all r_t (E4)
    prefix-difference  r_t - r_(t-1)                                advantage, if r_t is the expected final score
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
    raise ValueError(f"credit: expected sequence, per-token, reward-to-go or prefix-difference, found {credit!r}")


def column_mean(weights: Tensor, mask: Tensor) -> Tensor:
    """Mean over the texts that have a token t, for each t: (batch, time) to (1, time)."""
    return (weights * mask).sum(0, keepdim=True) / mask.sum(0, keepdim=True).clamp(min=1)


def reinforce(policy: Policy, rollout: Rollout, config: FinetuneConfig, kl_weight: float) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of one update and what to log of it.

    The objective is E[reward] - kl_weight * KL(policy || reference). The KL of the tokens still to come is a cost of the token
    that led there, so it enters as a reward-to-go of the estimator k1 (unbiased; tests/test_exact_kl.py).
    """
    mask = rollout.mask
    weights = token_credit(rollout, config.credit)
    kl = equations.kl_k1(rollout.log_probs, rollout.reference_log_probs, mask)  # (batch, time)
    weights = weights - kl_weight * equations.reward_to_go(kl, mask)
    if config.baseline == "batch-mean":
        weights = weights - column_mean(weights, mask)

    with autocast(mask.device):
        logits = policy.text_logits(rollout.rows, rollout.prompt_lengths, mask.shape[1])  # (batch, time, vocab)
    logits = logits.float()
    log_probs = equations.token_log_probs(logits, rollout.tokens)
    loss = equations.per_token_reinforce_loss(log_probs, weights, mask)
    with torch.no_grad():
        entropy = equations.entropy(logits, mask).sum() / mask.sum()
    return loss, {"entropy_nats_per_token": entropy}
