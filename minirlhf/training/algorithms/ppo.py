"""PPO (proximal policy optimisation, 近端策略优化; section 3.2; Schulman et al. 2017).

reward of token t: -kl_weight * k1_t, and r(x, y) on the last         (E9; Ouyang et al. 2022)
advantages: GAE with the values of a value function (价值函数), whitened
for several epochs, for each minibatch:
    stop if the policy has moved too far from the one that sampled
    clipped surrogate + value loss - entropy bonus (+ pretraining loss: PPO-ptx), one step of Adam

Several processes share each minibatch. GAE and whitening see all texts, and the KL that stops an
update is that of the whole minibatch, so all of them stop at the same step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minirlhf import equations
from minirlhf.config import Config, PPOConfig
from minirlhf.models.policy import Policy, gather_text, masked_log_probs
from minirlhf.models.transformer import Transformer
from minirlhf.models.value_model import ValueModel
from minirlhf.system import distributed
from minirlhf.system.devices import autocast
from minirlhf.system.seeds import step_generator
from minirlhf.training.algorithms.advantages import corrected_scores_before
from minirlhf.training.algorithms.kl_weight import KLWeight
from minirlhf.training.algorithms.pretraining_mix import make_mix
from minirlhf.training.batches import Corpus
from minirlhf.training.optimizers import adamw, finetuning_rate, gradient_step, set_learning_rate
from minirlhf.training.rollout import Models, Rollout, own_share


class PPO:
    """Several clipped steps per rollout, with a value model that learns beside the policy."""

    group_size = 1  # texts per prompt

    def __init__(self, models: Models, config: Config, corpus: Corpus | None = None):
        self.policy, self.finetune, self.settings = (
            models.policy,
            config.finetune,
            config.finetune.ppo,
        )
        self.seed = config.seed
        self.value = new_value_model(models, self.settings)
        self.learners: list[nn.Module] = [self.policy]
        if self.value is not None:
            self.learners.append(self.value)
        self.kl_weight = KLWeight(config.finetune.kl_weight, config.finetune.kl_target)
        self.optimizer = adamw(
            nn.ModuleList(self.learners),
            self.settings.learning_rate,
            weight_decay=0.0,
            soft_prompt_rate=self.finetune.soft_prompt.learning_rate,
        )
        self.modules = {} if self.value is None else {"value": self.value}
        self.optimizers = [self.optimizer]
        self.states = {"kl_weight": self.kl_weight}
        self.mix = make_mix(models, config, corpus)

    def update(self, rollout: Rollout, step: int) -> dict[str, Tensor | float]:
        """One update of the policy and the value model in place; returns what to log of it."""
        old_values, advantages, returns = self.estimate(rollout)  # (batch, time) each
        rate = finetuning_rate(self.settings.learning_rate, step, self.finetune.updates)
        set_learning_rate(self.optimizer, rate)

        steps: list[dict[str, Tensor]] = []  # what to log of each minibatch
        for number, index in enumerate(self.minibatches(len(rollout.mask), step)):
            mine = distributed.local_rows(len(index))  # all of them, for a single process
            index = index[mine].to(rollout.mask.device)
            part = rollout.select(index)
            columns = (index, slice(part.mask.shape[1]))
            with autocast(part.mask.device):
                hidden, values = text_values(self.policy, self.value, part)
                logits = self.policy.next_token_logits(hidden[part.mask])  # (tokens, vocab)
            log_probs = masked_log_probs(logits, part.tokens, part.mask)  # (minibatch, time)

            moved = step_metrics(log_probs.detach(), part, self.settings.clip_range)
            if steps and moved["kl_step_nats"] > self.settings.kl_stop:
                break
            loss = equations.ppo_policy_loss(
                log_probs, part.log_probs, advantages[columns], part.mask, self.settings.clip_range
            )
            if values is not None:
                value_loss = equations.ppo_value_loss(
                    values,
                    old_values[columns],
                    returns[columns],
                    part.mask,
                    self.settings.value_clip,
                )
                loss = loss + self.settings.value_weight * value_loss
            if self.settings.entropy_weight != 0:
                entropies = equations.entropy(logits.float()[None])  # (1, tokens)
                per_text = entropies.sum() / len(index)  # nats
                loss = loss - self.settings.entropy_weight * per_text
            if self.mix is not None:
                loss = loss + self.mix.loss(self.settings.minibatch_size, step, number)
            moved["gradient_norm"] = gradient_step(
                loss, self.optimizer, self.learners, self.finetune.gradient_clip
            )
            # On average; with the KL from the policy that sampled.
            entropy = distributed.all_reduce_sum(-log_probs.detach().sum())
            moved["entropy_nats_per_token"] = entropy / distributed.all_reduce_sum(part.mask.sum())
            steps.append(moved)

        metrics: dict[str, Tensor | float] = {}
        for name in steps[0]:
            metrics[name] = torch.stack([one[name] for one in steps]).mean()
        metrics["ratio_max"] = torch.stack([one["ratio_max"] for one in steps]).max()
        metrics["kl_step_nats"] = moved["kl_step_nats"]  # at the last minibatch looked at
        metrics["minibatches"] = torch.tensor(float(len(steps)), device=rollout.mask.device)
        metrics["explained_variance"] = equations.explained_variance(
            old_values, returns, rollout.mask
        )
        metrics["kl_weight"] = self.kl_weight.weight
        self.kl_weight.adapt(rollout)
        return metrics

    def estimate(self, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
        """Values before the update, advantages, and returns (what the values ought to have been).

        All are (batch, time).
        """
        mask, values = rollout.mask, self.values(rollout)
        kl = equations.kl_k1(rollout.log_probs, rollout.reference_log_probs, mask)
        rewards = equations.kl_penalized_rewards(rollout.reward, kl, mask, self.kl_weight.weight)
        advantages = equations.generalized_advantage(
            rewards, values, mask, self.settings.discount, self.settings.gae_lambda
        )
        returns = advantages + values
        if self.settings.whiten:
            advantages = equations.whiten(advantages, mask)
        return values, advantages, returns

    def values(self, rollout: Rollout) -> Tensor:
        """V(s_t) before the update, (batch, time)."""
        if self.value is None:
            return corrected_scores_before(rollout)
        part, _ = own_share(rollout, rollout.mask)
        body = self.policy.body if self.value.body is None else self.value.body
        with torch.no_grad(), autocast(rollout.mask.device):
            values = self.value(text_states(body, part))  # (share, time)
        return distributed.gather_rows(values, len(rollout.mask))  # (share, time) to (batch, time)

    def minibatches(self, count: int, step: int) -> list[Tensor]:
        """Positions of the texts in each minibatch; every epoch is shuffled again."""
        generator = step_generator(self.seed, "ppo", step)
        shuffles = [torch.randperm(count, generator=generator) for _ in range(self.settings.epochs)]
        return [part for order in shuffles for part in order.split(self.settings.minibatch_size)]


def new_value_model(models: Models, settings: PPOConfig) -> ValueModel | None:
    """The value function to learn; None where the reward model's score of a prefix serves as V."""
    if settings.value == "prefix-score":
        return None
    if settings.value == "shared":
        return ValueModel(models.policy.config.width).to(models.device)
    return ValueModel.from_reward_model(models.reward_model)


def text_values(
    policy: Policy, value: ValueModel | None, rollout: Rollout
) -> tuple[Tensor, Tensor | None]:
    """The states from which y_t is predicted (batch, time, width) and, if V is learned, V(s_t)
    (batch, time).
    """
    ours = text_states(policy.body, rollout)
    if value is None:
        return ours, None
    states = ours if value.body is None else text_states(value.body, rollout)
    return ours, value(states)


def text_states(body: Transformer, rollout: Rollout) -> Tensor:
    """The states of this body from which y_t is predicted, (batch, time, width)."""
    lengths = rollout.prompt_lengths + rollout.mask.sum(1) - 1  # of what predicts the last token
    states = body.by_length(rollout.rows[:, :-1], lengths)  # (batch, columns - 1, width)
    return gather_text(states, rollout.prompt_lengths - 1, rollout.mask.shape[1])


def step_metrics(log_probs: Tensor, part: Rollout, clip_range: float) -> dict[str, Tensor]:
    """How far the policy has moved from the one that sampled; the KL is that of a whole text.

    Of all processes' parts together.
    """
    ratio = (log_probs - part.log_probs).exp()
    clipped = ((ratio - 1).abs() > clip_range) & part.mask
    tokens = distributed.all_reduce_sum(part.mask.sum())
    ratio_max = equations.largest_ratio(log_probs, part.log_probs, part.mask)
    kl = equations.kl_k3(part.log_probs, log_probs, part.mask).sum(1).mean()  # nats per text
    return {
        "clip_fraction": distributed.all_reduce_sum(clipped.sum()) / tokens,
        "ratio_max": distributed.all_reduce_max(ratio_max),
        "kl_step_nats": distributed.average(kl),
    }
