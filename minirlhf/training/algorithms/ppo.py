"""PPO (proximal policy optimisation, 近端策略优化; section 3.2; Schulman et al. 2017), as used for language models.

reward of token t: -kl_weight * k1_t, and r(x, y) on the last         (E9; Ouyang et al. 2022)
advantages: GAE with the values of a value function (价值函数), whitened
for several epochs, for each minibatch:
    stop if the policy has moved too far from the one that sampled
    clipped surrogate + value loss - entropy bonus (+ pretraining loss: PPO-ptx), one step of Adam
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from minirlhf import equations
from minirlhf.config import FinetuneConfig
from minirlhf.models.policy import Policy, gather_text, log_probs_of
from minirlhf.models.value_model import ValueModel
from minirlhf.system.devices import autocast
from minirlhf.training.optimizers import gradient_step
from minirlhf.training.rollout import Rollout


def text_values(policy: Policy, value: ValueModel, rollout: Rollout) -> tuple[Tensor, Tensor]:
    """Hidden states of the policy (batch, time, width) from which y_t is predicted, and V(s_t) (batch, time)."""

    def hidden(body: nn.Module) -> Tensor:
        return gather_text(
            body(rollout.rows[:, :-1]), rollout.prompt_lengths - 1, rollout.mask.shape[1]
        )

    ours = hidden(policy.body)
    return ours, value.head(ours if value.body is None else hidden(value.body)).squeeze(-1).float()


def ppo(
    policy: Policy,
    value: ValueModel,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    config: FinetuneConfig,
    kl_weight: float,
    generator: torch.Generator,
    pretraining_loss: Callable[[int], Tensor] | None = None,
) -> dict[str, Tensor]:
    """One update of `policy` and `value` in place; returns what to log of it.

    `optimizer` holds the parameters of both; `generator` (CPU) shuffles; `pretraining_loss(n)` is the loss, in nats a token, of
    the unscored texts that go with minibatch n (PPO-ptx).
    """
    settings, mask = config.ppo, rollout.mask
    with torch.no_grad(), autocast(mask.device):
        old_values = text_values(policy, value, rollout)[1]  # (batch, time)
    kl = equations.kl_k1(rollout.log_probs, rollout.reference_log_probs, mask)
    rewards = equations.kl_penalized_rewards(rollout.reward, kl, mask, kl_weight)  # (batch, time)
    advantages = equations.generalized_advantage(
        rewards, old_values, mask, settings.discount, settings.gae_lambda
    )
    returns = advantages + old_values
    if settings.whiten:
        advantages = equations.whiten(advantages, mask)

    order = [
        index.to(mask.device)
        for _ in range(settings.epochs)
        for index in torch.randperm(len(mask), generator=generator).split(settings.minibatch_size)
    ]
    steps: list[dict[str, Tensor]] = []
    for number, index in enumerate(order):
        part = rollout.select(index)
        columns = (index, slice(part.mask.shape[1]))
        with autocast(mask.device):
            hidden, values = text_values(policy, value, part)
            logits = policy.logits_of(hidden[part.mask]).float()  # (tokens, vocab): no padding
        log_probs = log_probs_of(logits, part.tokens, part.mask)  # (minibatch, time)
        step = step_metrics(log_probs.detach(), part, settings.clip_range)
        if steps and step["kl_step_nats"] > settings.kl_stop:
            break
        loss = equations.ppo_policy_loss(
            log_probs, part.log_probs, advantages[columns], part.mask, settings.clip_range
        )
        loss = loss + settings.value_weight * equations.ppo_value_loss(
            values, old_values[columns], returns[columns], part.mask, settings.value_clip
        )
        if settings.entropy_weight != 0:
            loss = loss - settings.entropy_weight * equations.entropy(logits[None]).sum() / len(
                index
            )  # nats a text
        if pretraining_loss is not None:
            loss = loss + settings.pretraining_weight * pretraining_loss(number)
        step["gradient_norm"] = gradient_step(
            loss, optimizer, [policy, value], config.gradient_clip
        )
        step["entropy_nats_per_token"] = (
            -log_probs.detach().sum() / part.mask.sum()
        )  # with the KL from the one that sampled
        steps.append(step)

    metrics = {name: torch.stack([step[name] for step in steps]).mean() for name in steps[0]}
    metrics["ratio_max"] = torch.stack([step["ratio_max"] for step in steps]).max()
    metrics["kl_step_nats"] = step["kl_step_nats"]  # at the last minibatch looked at
    metrics["minibatches"] = torch.tensor(float(len(steps)), device=mask.device)
    metrics["explained_variance"] = equations.explained_variance(old_values, returns, mask)
    return metrics


def step_metrics(log_probs: Tensor, part: Rollout, clip_range: float) -> dict[str, Tensor]:
    """How far the policy has moved from the one that sampled: share of clipped tokens, largest ratio, KL(old || new) a text."""
    ratio = (log_probs - part.log_probs).exp()
    return {
        "clip_fraction": (((ratio - 1).abs() > clip_range) & part.mask).sum() / part.mask.sum(),
        "ratio_max": ratio.max(),
        "kl_step_nats": equations.kl_k3(part.log_probs, log_probs, part.mask).sum(1).mean(),
    }
