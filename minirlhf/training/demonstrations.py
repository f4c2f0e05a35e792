"""Supervised fine-tuning (SFT, 监督微调): the policy imitates good answers (E10).

for each step:
    draw a batch of demonstrations           (prompt and answer back to back in one row)
    minus the log-probability of each answer (the prompt is read, not learned)
    one step of Muon and AdamW
    now and then: the loss of held-out prompts

That loss soon rises again, as the policy becomes too sure of the wordings that it was shown. Its
samples get better all the same (Ouyang et al. 2022 saw this, too), so training goes on to the last
step, unless the settings say that the weights with the least loss are to be kept.

This is the first stage of InstructGPT: it turns a model that continues texts into one that answers.
"""

from __future__ import annotations

import math

from torch import Tensor

from minirlhf import equations
from minirlhf.config import SFTConfig
from minirlhf.models.policy import Policy
from minirlhf.system.devices import autocast
from minirlhf.system.weights import load_weights, weights
from minirlhf.training.batches import Batch, EncodedTexts, Split
from minirlhf.training.early_stopping import BestModel
from minirlhf.training.log import CheckpointKeeper, NoCheckpoints, TrainLog
from minirlhf.training.optimizers import (
    backward,
    linear_schedule,
    muon_and_adamw,
    scale_learning_rates,
    step_all,
)
from minirlhf.training.pretrain import heldout_loss


def answer_loss(policy: Policy, batch: Batch) -> Tensor:
    """E10 over a batch of demonstrations, in nats per answer."""
    log_probs = policy.text_log_probs(
        batch.rows, batch.prompt_lengths, batch.tokens, batch.mask
    )  # (batch, time), of the answers alone
    return equations.demonstration_loss(log_probs, batch.mask)


def train_on_demonstrations(
    policy: Policy,
    texts: Split[EncodedTexts],
    settings: SFTConfig,
    seed: int,
    log: TrainLog | None = None,
    checkpoints: CheckpointKeeper | None = None,
) -> Policy:
    """Train `policy` in place; keep its last weights, or the best on held-out prompts.

    The batches are a function of `seed` and of the log's stage. Without `log` the rows stay in
    memory, without `checkpoints` an interruption loses the work. Raises ValueError if the held-out
    loss was never a finite number.
    """
    log, checkpoints = log or TrainLog("sft"), checkpoints or NoCheckpoints()
    optimizers = muon_and_adamw(policy, settings)
    learned = policy.learned  # the policy, or its soft prompt alone
    best = BestModel(learned, settings.patience)
    policy.zero_grad()

    start = checkpoints.resume(
        {"policy": learned, "best": best.model}, optimizers, {"log": log, "best": best}
    )
    for step in log.steps(start, settings.steps):
        if settings.keep == "best" and best.out_of_patience:
            break
        batch = texts.train.random_batch(settings.batch_size, seed, log.stage, step, policy.device)
        scale_learning_rates(optimizers, linear_schedule(step, settings.steps, settings.warmup))
        with autocast(policy.device):
            loss = answer_loss(policy, batch)
        backward(loss, policy)
        step_all(optimizers, policy)
        per_token = loss * len(batch.mask) / batch.mask.sum()
        log.add(loss_nats_per_answer=loss, loss_nats_per_token=per_token)

        done = step + 1
        if done % settings.evaluate_every == 0 or done == settings.steps:
            heldout = heldout_loss(policy, texts.heldout)
            best.offer(learned, heldout)
            meaning = "held-out loss {heldout_loss_nats_per_token:.3f} nats per token"
            log.write(done, meaning, heldout_loss_nats_per_token=heldout)
            checkpoints.maybe_save(done)

    if not math.isfinite(best.loss):
        rates = "--sft.learning-rate or --sft.muon-learning-rate"
        if settings.tune == "soft-prompt":
            rates = "--sft.soft-prompt.learning-rate"
        raise ValueError(f"{log.stage}: the held-out loss was never a finite number; lower {rates}")
    if settings.keep == "best":
        load_weights(learned, weights(best.model), "best")
    return policy
