"""Direct preference optimisation (DPO, 直接偏好优化): comparisons teach the policy directly (E12).

once: the log-probability of each answer under the reference
for each step:
    the next comparisons: a better and a worse answer to one prompt
    implicit reward of an answer: beta log(p_theta / p_ref)
    the ranking loss E8 of these rewards, one step of AdamW
    now and then: held-out comparisons, and samples for the judge

RLHF fits a reward to the comparisons and then samples to find the policy that balances it with the
KL. DPO writes that policy's reward as a function of the policy, and fits this instead. The reward
model only scores the samples of the log: nothing is learned from them.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from minirlhf import equations
from minirlhf.config import Config
from minirlhf.models.policy import Policy
from minirlhf.system.devices import autocast
from minirlhf.system.seeds import step_generator
from minirlhf.tasks.task import Task
from minirlhf.training.algorithms.make import check_processes
from minirlhf.training.algorithms.pretraining_mix import make_mix
from minirlhf.training.batches import EncodedTexts, Split, corpus_of
from minirlhf.training.log import CheckpointKeeper, NoCheckpoints, TrainLog
from minirlhf.training.optimizers import adamw, finetuning_rate, gradient_step, set_learning_rate
from minirlhf.training.prompts import Prompts
from minirlhf.training.ranking import Pairs, pair_batch, pairwise_accuracy
from minirlhf.training.reward_objectives import ScoredTexts
from minirlhf.training.rollout import Models, Rollout, collect, log_probs_as_learned
from minirlhf.training.rollout_log import SAMPLES, RolloutLog

MOST_HELDOUT = 1000  # comparisons that the loss is measured on
SCORED_AT_ONCE = 64  # answers


def train_on_comparisons(
    models: Models,
    task: Task,
    config: Config,
    texts: Split[ScoredTexts],
    log: TrainLog | None = None,
    checkpoints: CheckpointKeeper | None = None,
) -> None:
    """Train the policy in place on the comparisons of `texts`; `models.reference` is p_ref.

    Everything random is a function of the seed and the step. Without `log` the rows stay in memory,
    without `checkpoints` an interruption loses the work. Raises ValueError if no two training texts
    can be compared, with more than one process, or if unscored texts are to be mixed in and the
    task has none.
    """
    check_processes(config.finetune)
    settings, policy = config.finetune.dpo, models.policy
    log, checkpoints = log or TrainLog("finetune"), checkpoints or NoCheckpoints()
    optimizer = adamw(policy, settings.learning_rate, weight_decay=0.0)
    train, heldout = comparisons_to_use(texts, config)
    train_reference = text_log_probs(models.reference, texts.train, train)
    heldout_reference = text_log_probs(models.reference, texts.heldout, heldout)
    mix = make_mix(models, config, corpus_of(task))
    samples = SamplesForTheJudge(models, task, config, log)
    start = checkpoints.resume({"policy": policy}, [optimizer], {"log": log})

    for step in log.steps(start, settings.steps):
        pairs = comparisons_of_step(train, settings.batch_size, step)
        loss, margins = preference_loss(policy, texts.train, pairs, train_reference, settings.beta)
        log.add(
            loss_nats_per_comparison=loss,
            pair_accuracy=(margins > 0).float().mean(),
            margin=margins.mean(),
        )
        if mix is not None:  # pretraining goes on, as in PPO-ptx
            loss = loss + mix.loss(2 * settings.batch_size, step)
        rate = finetuning_rate(settings.learning_rate, step, settings.steps)
        set_learning_rate(optimizer, rate)
        norm = gradient_step(loss, optimizer, [policy], config.finetune.gradient_clip)
        log.add(gradient_norm=norm)

        if samples.are_due(step):
            measured = heldout_numbers(
                policy, texts.heldout, heldout, heldout_reference, settings.beta
            )
            samples.write(step, measured)
        else:
            log.write(step + 1, "loss {loss_nats_per_comparison:.3f} nats per comparison")
        checkpoints.maybe_save(step + 1)


def preference_loss(
    policy: Policy, texts: EncodedTexts, pairs: Pairs, reference: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    """E12, nats per comparison; and each better answer's lead in implicit reward, (n,).

    reference: (n_texts,), log-probabilities of the texts under the reference, nats.
    """
    batch = pair_batch(texts, pairs, policy.device)  # the better answers, then the worse ones
    with autocast(policy.device):
        log_probs = policy.text_log_probs(
            batch.rows, batch.prompt_lengths, batch.tokens, batch.mask
        )  # (2n, time)
    better, worse = equations.sequence_log_prob(log_probs, batch.mask).chunk(2)  # (n,) each
    reference_better, reference_worse = reference[batch.index].chunk(2)
    loss = equations.dpo_loss(better, worse, reference_better, reference_worse, beta)
    margins = beta * ((better - reference_better) - (worse - reference_worse)).detach()
    return loss, margins


def heldout_numbers(
    policy: Policy, texts: EncodedTexts, pairs: Pairs, reference: Tensor, beta: float
) -> dict[str, float]:
    """The loss and the share of pairs in the right order; nothing if there are no pairs."""
    if not len(pairs):
        return {}
    log_probs = text_log_probs(policy, texts, pairs)
    ours = log_probs[pairs.better], log_probs[pairs.worse]
    at_reference = reference[pairs.better], reference[pairs.worse]
    return {
        "heldout_loss_nats_per_comparison": equations.dpo_loss(*ours, *at_reference, beta).item(),
        "heldout_pair_accuracy": pairwise_accuracy(log_probs - reference, pairs),
    }


def text_log_probs(policy: Policy, texts: EncodedTexts, pairs: Pairs) -> Tensor:
    """log p(y | x), nats, of the texts that occur in `pairs`; 0 for the others. (n_texts,)

    Rounded as in the pass that learns, so that before the first step no answer has become likelier.
    """
    result = torch.zeros(len(texts), device=policy.device)
    used = torch.cat([pairs.better, pairs.worse]).unique()
    if not len(used):
        return result
    for index in used[texts.lengths[used].argsort(stable=True)].split(SCORED_AT_ONCE):
        batch = texts.batch(index, policy.device)
        with autocast(policy.device):
            log_probs = log_probs_as_learned(
                policy, batch.rows, batch.prompt_lengths, batch.tokens, batch.mask
            )
        result[batch.index] = equations.sequence_log_prob(log_probs, batch.mask)
    return result


# Which comparisons -------------------------------------------------------------------------------


def comparisons_to_use(texts: Split[ScoredTexts], config: Config) -> tuple[Pairs, Pairs]:
    """The comparisons of all steps, one after the other, and the held-out ones. No ties.

    Each comes as often as any other, but for the remainder. There may be no held-out ones. Raises
    ValueError if there are none to train on.
    """
    settings, min_gap = config.finetune.dpo, config.reward.min_gap
    train = without_ties(texts.train.pairs(min_gap))
    if not len(train):
        raise ValueError("feedback: expected comparisons with a better text, found only ties")
    try:
        heldout = without_ties(texts.heldout.pairs(min_gap))
    except ValueError:  # few texts are held out, and no two of them can be compared
        heldout = select(train, torch.zeros(0, dtype=torch.int64))
    drawn = draw_order(len(train), settings.steps * settings.batch_size, config.seed, "train")
    measured = draw_order(len(heldout), min(len(heldout), MOST_HELDOUT), config.seed, "held-out")
    return select(train, drawn), select(heldout, measured)


def comparisons_of_step(pairs: Pairs, batch_size: int, step: int) -> Pairs:
    return select(pairs, torch.arange(step * batch_size, (step + 1) * batch_size))


def without_ties(pairs: Pairs) -> Pairs:
    return select(pairs, (~pairs.tie).nonzero().squeeze(1))


def select(pairs: Pairs, index: Tensor) -> Pairs:
    return Pairs(pairs.better[index], pairs.worse[index], pairs.tie[index])


def draw_order(size: int, count: int, seed: int, name: str) -> Tensor:
    """`count` of `size` indices: all of them in random order, again and again."""
    generator = step_generator(seed, f"dpo {name} comparisons", 0)
    rounds = -(-count // max(1, size))
    orders = [torch.randperm(size, generator=generator) for _ in range(rounds)]
    return torch.cat([*orders, torch.zeros(0, dtype=torch.int64)])[:count]


# Samples for the judge ---------------------------------------------------------------------------


class SamplesForTheJudge:
    """A few times in a run: samples of the policy, in the log's rows as in those of RLHF."""

    def __init__(self, models: Models, task: Task, config: Config, log: TrainLog):
        self.models, self.settings, self.seed = models, config.finetune, config.seed
        self.steps = config.finetune.dpo.steps
        self.prompts = Prompts(models, task.train_prompts, self.settings, 1, self.seed)
        self.log = RolloutLog(
            log, task, dataclasses.replace(self.settings, updates=self.steps), models
        )

    def are_due(self, step: int) -> bool:
        return step % max(1, self.steps // SAMPLES) == 0 or step == self.steps - 1

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """A row of metrics, after this step."""
        topics, batch = self.prompts.draw(step)
        generator = step_generator(self.seed, "rollout", step, self.models.device)
        rollout = collect(self.models, batch, self.settings.max_new_tokens, generator)
        answers = 2 * self.settings.dpo.batch_size * (step + 1)
        numbers = {"entropy_nats_per_token": entropy(rollout), "round": 1, "samples": answers}
        self.log.write(step, topics, rollout, metrics | numbers)


def entropy(rollout: Rollout) -> Tensor:
    """Of the next token, estimated from the sampled ones; nats per token."""
    return -(rollout.log_probs * rollout.mask).sum() / rollout.mask.sum()
