r"""TRPO (trust region policy optimisation, 信赖域策略优化; section 3.2; Schulman et al. 2015).

    maximise the surrogate  E[ratio * advantage]  under  KL(old || new) <= delta  nats per text

    g = gradient of the surrogate, F = Fisher matrix = Hessian of the KL at the old policy
    direction F^-1 g by conjugate gradient (共轭梯度), which needs only products F v
    step length sqrt(2 delta / (s^T F s)): what the bound allows were the KL quadratic
    halve the step until the true KL keeps the bound and the surrogate has improved, or do not move

There is no learning rate and no optimizer state: delta sets the size of every step.

Several processes share the texts. Gradient, Fisher products, surrogate and KL are averaged as soon
as they are computed, so that all of them take the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from minirlhf import equations
from minirlhf.config import Config, TRPOConfig
from minirlhf.linear_algebra import conjugate_gradient
from minirlhf.models.policy import Policy, masked_log_probs
from minirlhf.system import distributed
from minirlhf.training.algorithms.advantages import advantages
from minirlhf.training.algorithms.kl_weight import KLWeight
from minirlhf.training.batches import Corpus
from minirlhf.training.rollout import Models, Rollout, own_share


class TRPO:
    """One natural-gradient step per rollout."""

    group_size = 1  # texts per prompt

    def __init__(self, models: Models, config: Config, corpus: Corpus | None = None):
        self.policy, self.settings = models.policy, config.finetune.trpo
        self.kl_weight = KLWeight(config.finetune.kl_weight, config.finetune.kl_target)
        self.modules: dict[str, nn.Module] = {}
        self.optimizers: list[torch.optim.Optimizer] = []
        self.states = {"kl_weight": self.kl_weight}

    def update(self, rollout: Rollout, step: int) -> dict[str, Tensor | float]:
        """One update of the policy in place; returns what to log of it."""
        weights = advantages(rollout, self.settings, self.kl_weight.weight)  # (batch, time)
        metrics = trpo(self.policy, rollout, weights, self.settings)
        metrics["kl_weight"] = self.kl_weight.weight
        self.kl_weight.adapt(rollout)
        return metrics


def trpo(
    policy: Policy, rollout: Rollout, advantages: Tensor, config: TRPOConfig
) -> dict[str, Tensor | float]:
    """One update of `policy` in place; returns what to log of it. advantages: (batch, time).

    The bound holds for the mean KL on the states of this rollout, exact over the vocabulary. All in
    float32 (no autocast): the KL of one step is small beside bf16's rounding.
    """
    few = torch.arange(min(config.fisher_texts, len(advantages)), device=advantages.device)
    few_texts, _ = own_share(rollout.select(few), advantages[few])
    rollout, advantages = own_share(rollout, advantages)
    mask, parameters = rollout.mask, list(policy.parameters())
    logits = rollout_logits(policy, rollout)  # (tokens, vocab): no padding
    log_probs = masked_log_probs(logits, rollout.tokens, mask)  # (batch, time)
    old_logits, old_log_probs = logits.detach(), log_probs.detach()
    loss = equations.trpo_surrogate(log_probs, old_log_probs, advantages, mask)
    gradient = distributed.average(flat(torch.autograd.grad(loss, parameters)))
    loss = distributed.average(loss.detach())
    del logits, log_probs

    product = fisher_product(policy, few_texts, config.damping)
    direction = conjugate_gradient(product, -gradient, config.cg_steps)
    step = (2 * config.delta / (direction @ product(direction))).sqrt() * direction

    start, accepted, moved = flat(parameters).detach(), 0.0, torch.zeros((), device=mask.device)
    for halvings in range(config.backtracks):
        set_parameters(parameters, start + 0.5**halvings * step)
        with torch.no_grad():
            new_logits = rollout_logits(policy, rollout)
            new_log_probs = masked_log_probs(new_logits, rollout.tokens, mask)
            new_loss = equations.trpo_surrogate(new_log_probs, old_log_probs, advantages, mask)
            new_loss = distributed.average(new_loss)
            kl = distributed.average(mean_kl(old_logits, new_logits, len(mask)))
        if kl <= config.delta and new_loss < loss:  # false for NaN
            accepted, moved = 0.5**halvings, kl
            break
    else:
        set_parameters(parameters, start)
        new_loss, new_log_probs = loss, old_log_probs
    entropy = distributed.all_reduce_sum(-old_log_probs.sum())
    ratio_max = equations.largest_ratio(new_log_probs, old_log_probs, mask)
    return {
        "entropy_nats_per_token": entropy / distributed.all_reduce_sum(mask.sum()),
        "gradient_norm": gradient.norm(),
        "accepted_step": torch.tensor(accepted, device=mask.device),
        "kl_step_nats": moved,
        "surrogate_gain": loss - new_loss,
        "ratio_max": distributed.all_reduce_max(ratio_max),
    }


def rollout_logits(policy: Policy, rollout: Rollout) -> Tensor:
    return policy.unpadded_logits(rollout.rows, rollout.prompt_lengths, rollout.mask).float()


def mean_kl(old_logits: Tensor, new_logits: Tensor, texts: int) -> Tensor:
    """`equations.mean_sequence_kl` of `texts` texts, from unpadded logits (tokens, vocab)."""
    return equations.exact_token_kl(old_logits[None], new_logits[None]).sum() / texts


def fisher_product(policy: Policy, rollout: Rollout, damping: float) -> Callable[[Tensor], Tensor]:
    """The function v -> (F + damping) v, with F the Hessian of the mean KL(old || new) on these
    texts at new = old.

    F v is the gradient of (gradient of the KL) . v, so F is never written down. The texts go
    forward once; each product goes backward once.
    """
    parameters = list(policy.parameters())
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        logits = rollout_logits(policy, rollout)
    kl = mean_kl(logits.detach(), logits, len(rollout.mask))
    slope = flat(torch.autograd.grad(kl, parameters, create_graph=True))

    def product(vector: Tensor) -> Tensor:
        image = flat(torch.autograd.grad(slope @ vector, parameters, retain_graph=True))
        return distributed.average(image) + damping * vector

    return product


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """All numbers in one row."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


@torch.no_grad()
def set_parameters(parameters: Sequence[Tensor], values: Tensor) -> None:
    for parameter, part in zip(
        parameters, values.split([p.numel() for p in parameters]), strict=True
    ):
        parameter.copy_(part.view_as(parameter))
