"""REINFORCE (sections 4.1 and 4.2): push up the log-probability of each token by the weight that it earned.

RLOO and GRPO are the same update with another weight: they compare the texts of one prompt with each other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minirlhf import equations
from minirlhf.config import FinetuneConfig
from minirlhf.models.policy import Policy
from minirlhf.system import distributed
from minirlhf.system.devices import autocast
from minirlhf.training.algorithms.advantages import advantages
from minirlhf.training.rollout import Rollout


def reinforce(
    policy: Policy, rollout: Rollout, config: FinetuneConfig, kl_weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of one update of REINFORCE, RLOO or GRPO, and what to log of it. One of several processes takes its share."""
    weights = advantages(
        rollout, config, kl_weight
    )  # of the whole batch: a baseline compares with all
    if distributed.world_size() > 1:
        mine = torch.tensor(distributed.local_rows(len(weights)), device=weights.device)
        rollout = rollout.select(mine)
        weights = weights[mine, : rollout.mask.shape[1]]
    mask = rollout.mask
    with autocast(mask.device):
        log_probs = policy.text_log_probs(
            rollout.rows, rollout.prompt_lengths, rollout.tokens, mask
        )  # (batch, time)
    loss = equations.per_token_reinforce_loss(log_probs, weights, mask)
    with torch.no_grad():
        # On average; the exact sum over the vocabulary costs a third of an update.
        entropy = distributed.all_reduce_sum(-log_probs.sum()) / distributed.all_reduce_sum(
            mask.sum()
        )
        # 1 but for rounding: the policy that learns is the one that sampled.
        ratio_max = distributed.all_reduce_max((log_probs - rollout.log_probs).max().exp())
    return loss, {"entropy_nats_per_token": entropy, "ratio_max": ratio_max}
