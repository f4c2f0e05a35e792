"""How training would weigh each token of one text, without the rest of a batch.

reinforce, trpo   credit (E5) minus the cost of the KL, minus the prefix-score baseline if the
                  run has it. The mean over the batch is not subtracted: there is no batch.
rloo, grpo        reward minus kl_weight * KL of the text, the same for each token. The text
                  is not compared with its group: there is no group.
ppo               GAE with PPO's own settings, not whitened. The value model is not kept after
                  training; the prefix scores r_0 .. r_(T-1) take its place.
dpo               beta * log ratio, the token's share of the implicit reward (E12). DPO itself
                  weighs whole texts.
"""

from __future__ import annotations

from torch import Tensor

from minirlhf import equations
from minirlhf.config import IN_GROUPS, FinetuneConfig
from minirlhf.training.algorithms.advantages import scores_before, weights_before_mean
from minirlhf.training.rollout import Rollout


def token_advantages(rollout: Rollout, settings: FinetuneConfig, kl_weight: float) -> Tensor:
    """The weight of each token (batch, time); a text does not depend on the others.

    kl_weight: reward units per nat. Raises ValueError for an unknown algorithm.
    """
    mask, algorithm = rollout.mask, settings.algorithm
    kl = equations.kl_k1(rollout.log_probs, rollout.reference_log_probs, mask)  # (batch, time)
    if algorithm == "reinforce":
        return weights_before_mean(rollout, settings.reinforce, kl_weight)
    if algorithm == "trpo":
        return weights_before_mean(rollout, settings.trpo, kl_weight)
    if algorithm in IN_GROUPS:
        rewards = rollout.reward - kl_weight * kl.sum(1)  # (batch,)
        return rewards[:, None].expand(mask.shape)
    if algorithm == "ppo":
        rewards = equations.kl_penalized_rewards(rollout.reward, kl, mask, kl_weight)
        discount, gae_lambda = settings.ppo.discount, settings.ppo.gae_lambda
        values = scores_before(rollout)
        return equations.generalized_advantage(rewards, values, mask, discount, gae_lambda)
    if algorithm == "dpo":
        return settings.dpo.beta * kl
    raise ValueError(
        f"algorithm: expected one that look_inside/advantage.py knows, found {algorithm!r}"
    )
