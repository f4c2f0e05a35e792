"""Step 2 of section 3.2: train the reward model (奖励模型训练) on human scores or comparisons.

for each step:
    for each member of the ensemble:
        draw a batch, take its loss    (reward_objectives.py: regression E7, or ranking E8;
                                        ranked_answers.py: E8 of K answers)
    one step of Muon and AdamW
    now and then: predict the held-out texts, remember the best weights, stop if they stay the best
    for long
"""

from __future__ import annotations

import dataclasses
import math

from minirlhf.config import RewardConfig
from minirlhf.models.encoder import EncoderReward
from minirlhf.models.reward_model import RewardModel
from minirlhf.system.devices import autocast
from minirlhf.system.seeds import step_generator
from minirlhf.system.weights import load_weights, weights
from minirlhf.training.batches import Batch, Split
from minirlhf.training.early_stopping import BestModel
from minirlhf.training.log import CheckpointKeeper, NoCheckpoints, TrainLog
from minirlhf.training.optimizers import (
    backward,
    linear_schedule,
    muon_and_adamw,
    scale_learning_rates,
    step_all,
)
from minirlhf.training.ranked_answers import RankedAnswers, RankedTexts
from minirlhf.training.reward_objectives import (
    Ranking,
    Regression,
    ScoredTexts,
    cut_at_random,
    hide_tokens,
    predict,
)
from minirlhf.training.rollout import AnyReward

__all__ = ["AnyReward", "ScoredTexts", "predict", "refit_config", "train_reward_model"]

AnyTexts = Split[ScoredTexts] | Split[RankedTexts]
OBJECTIVES: dict[str, type[Regression] | type[Ranking]] = {"mse": Regression, "ranking": Ranking}


def train_reward_model(
    model: AnyReward,
    texts: AnyTexts,
    settings: RewardConfig,
    seed: int,
    log: TrainLog | None = None,
    checkpoints: CheckpointKeeper | None = None,
) -> AnyReward:
    """Train `model` in place; keep the weights that were best on held-out texts.

    The members of an ensemble learn side by side. The batches are a function of `seed` and of the
    log's stage. Raises ValueError if the held-out loss was never a finite number.
    """
    log, checkpoints = log or TrainLog("reward"), checkpoints or NoCheckpoints()
    objective = objective_of(texts, settings)
    members = list(model.members)
    device = model.device
    optimizers = muon_and_adamw(model, settings)
    best = BestModel(model, settings.patience)
    model.zero_grad()

    start = checkpoints.resume(
        {"model": model, "best": best.model}, optimizers, {"log": log, "best": best}
    )
    for step in log.steps(start, settings.steps):
        if best.out_of_patience:
            break
        scale_learning_rates(optimizers, linear_schedule(step, settings.steps, settings.warmup))
        for number, member in enumerate(members):
            name = log.stage if number == 0 else f"{log.stage} member {number}"  # own batches
            batch, targets = objective.draw(seed, name, step, device)
            batch = augmented(batch, member, settings, (seed, name, step))
            with autocast(device):
                loss = objective.loss(member, batch, targets)
            backward(loss, member)
            log.add(**{objective.loss_name: loss})
        step_all(optimizers, model)

        done = step + 1
        if done % settings.evaluate_every == 0 or done == settings.steps:
            heldout = objective.heldout(predict(model, texts.heldout))
            best.offer(model, heldout[objective.stops_on])
            log.write(done, objective.meaning, **heldout)
            checkpoints.maybe_save(done)

    if not math.isfinite(best.loss):
        raise ValueError(
            f"{log.stage}: the held-out loss was never a finite number; lower "
            "--reward.learning-rate or --reward.muon-learning-rate"
        )
    load_weights(model, weights(best.model), "best")
    for member in members:
        objective.finish(member)
    return model


def objective_of(texts: AnyTexts, settings: RewardConfig) -> Regression | Ranking | RankedAnswers:
    """What is learned: rankings where answers are ranked, else what the settings say of scores."""
    if isinstance(texts.train, RankedTexts):
        return RankedAnswers(texts, settings)
    return OBJECTIVES[settings.loss](texts, settings)


def augmented(
    batch: Batch,
    member: RewardModel | EncoderReward,
    settings: RewardConfig,
    place: tuple[int, str, int],
) -> Batch:
    """The batch with prefixes or tokens left out at random; `place` is (seed, name, step)."""
    seed, name, step = place
    if settings.target == "every-prefix" and not member.config.causal:
        batch = cut_at_random(batch, step_generator(seed, f"{name} prefixes", step))
    if settings.dropout:
        generator = step_generator(seed, f"{name} dropout", step)
        batch = dataclasses.replace(batch, rows=hide_tokens(batch, settings.dropout, generator))
    return batch


def refit_config(config: RewardConfig, steps: int) -> RewardConfig:
    """A short run from the current weights: half the batch and learning rate, one evaluation."""
    return dataclasses.replace(
        config,
        steps=steps,
        batch_size=max(2, config.batch_size // 2),
        warmup=min(10, steps),
        learning_rate=config.learning_rate / 2,
        muon_learning_rate=config.muon_learning_rate / 2,
        evaluate_every=steps,
    )
