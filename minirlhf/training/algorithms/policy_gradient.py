"""REINFORCE (sections 4.1 and 4.2): push each token's log-probability by the weight it earned.

weights: credit minus the cost of the KL, minus a baseline       (advantages.py)
loss:    -mean over texts of sum_t weight_t log p(y_t | x, y_<t) (E5)
one step of Adam

RLOO and GRPO are the same update with another weight: they compare the texts of one prompt.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from minirlhf import equations
from minirlhf.config import Config, FinetuneConfig
from minirlhf.models.policy import Policy
from minirlhf.system import distributed
from minirlhf.system.devices import autocast
from minirlhf.training.algorithms.advantages import advantages, group_advantages
from minirlhf.training.algorithms.kl_weight import KLWeight
from minirlhf.training.algorithms.pretraining_mix import PretrainingMix, make_mix
from minirlhf.training.batches import Corpus
from minirlhf.training.optimizers import adamw, finetuning_rate, gradient_step, set_learning_rate
from minirlhf.training.rollout import Models, Rollout, own_share


class PolicyGradient:
    """One step of Adam per rollout. `weigh(rollout, kl_weight)` gives the weight of each token."""

    def __init__(
        self,
        policy: Policy,
        settings: FinetuneConfig,
        weigh: Callable[[Rollout, float], Tensor],
        group_size: int = 1,
        mix: PretrainingMix | None = None,
    ):
        self.policy, self.settings, self.weigh = policy, settings, weigh
        self.group_size = group_size  # texts per prompt, in a row
        self.mix = mix
        self.kl_weight = KLWeight(settings.kl_weight, settings.kl_target)
        self.optimizer = adamw(
            policy,
            settings.learning_rate,
            weight_decay=0.0,
            soft_prompt_rate=settings.soft_prompt.learning_rate,
        )
        self.modules: dict[str, nn.Module] = {}
        self.optimizers = [self.optimizer]
        self.states = {"kl_weight": self.kl_weight}

    def update(self, rollout: Rollout, step: int) -> dict[str, Tensor | float]:
        """One update of the policy in place; returns what to log of it."""
        weights = self.weigh(rollout, self.kl_weight.weight)  # (batch, time)
        loss, metrics = policy_gradient_loss(self.policy, rollout, weights)
        if self.mix is not None:
            loss = loss + self.mix.loss(len(rollout.mask), step)
        rate = finetuning_rate(self.settings.learning_rate, step, self.settings.updates)
        set_learning_rate(self.optimizer, rate)
        metrics["gradient_norm"] = gradient_step(
            loss, self.optimizer, [self.policy], self.settings.gradient_clip
        )
        metrics["kl_weight"] = self.kl_weight.weight
        self.kl_weight.adapt(rollout)
        return metrics


def reinforce(models: Models, config: Config, corpus: Corpus | None) -> PolicyGradient:
    settings = config.finetune
    return PolicyGradient(
        models.policy,
        settings,
        lambda rollout, kl_weight: advantages(rollout, settings.reinforce, kl_weight),
        mix=make_mix(models, config, corpus),
    )


def rloo(models: Models, config: Config, corpus: Corpus | None) -> PolicyGradient:
    """The baseline is the mean of the prompt's other texts (Ahmadian et al. 2024)."""
    return in_groups(models, config, corpus, equations.leave_one_out_advantage)


def grpo(models: Models, config: Config, corpus: Corpus | None) -> PolicyGradient:
    """A prompt's rewards are given mean 0 and standard deviation 1 (Shao et al. 2024)."""
    return in_groups(models, config, corpus, equations.group_normalized_advantage)


def in_groups(
    models: Models,
    config: Config,
    corpus: Corpus | None,
    compare: Callable[[Tensor], Tensor],
) -> PolicyGradient:
    settings, size = config.finetune, config.finetune.group.size
    return PolicyGradient(
        models.policy,
        settings,
        lambda rollout, kl_weight: group_advantages(rollout, compare, size, kl_weight),
        size,
        make_mix(models, config, corpus),
    )


def policy_gradient_loss(
    policy: Policy, rollout: Rollout, weights: Tensor
) -> tuple[Tensor, dict[str, Tensor | float]]:
    """The loss for these weights (batch, time), and what to log of it.

    One of several processes takes its share of the texts.
    """
    rollout, weights = own_share(rollout, weights)
    mask = rollout.mask
    with autocast(mask.device):
        log_probs = policy.text_log_probs(
            rollout.rows, rollout.prompt_lengths, rollout.tokens, mask
        )  # (batch, time)
    loss = equations.per_token_reinforce_loss(log_probs, weights, mask)
    with torch.no_grad():
        # On average; the exact sum over the vocabulary costs a third of an update.
        entropy = distributed.all_reduce_sum(-log_probs.sum())
        entropy = entropy / distributed.all_reduce_sum(mask.sum())
        # 1 but for rounding: the policy that learns is the one that sampled.
        ratio_max = equations.largest_ratio(log_probs, rollout.log_probs, mask)
        ratio_max = distributed.all_reduce_max(ratio_max)
    return loss, {"entropy_nats_per_token": entropy, "ratio_max": ratio_max}
