"""Masked-LM pretraining (掩码语言模型预训练, section 2): an encoder learns to fill in hidden
tokens.

Of the real tokens 15% are chosen. Of these 80% become the mask token, 10% some other token, and 10%
stay as they are, so that the model must also predict visible tokens. The loss is on the chosen ones
alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from minirlhf.config import Config
from minirlhf.models.build import class_id, mask_id, new_masked_language_model
from minirlhf.models.encoder import MaskedLanguageModel
from minirlhf.system.devices import autocast, pick_device
from minirlhf.system.seeds import step_generator
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.batches import Batch, Corpus, EncodedTexts
from minirlhf.training.log import CheckpointKeeper, NoCheckpoints, TrainLog
from minirlhf.training.optimizers import (
    backward,
    linear_schedule,
    muon_and_adamw,
    scale_learning_rates,
    step_all,
)

CHOSEN, MASKED, REPLACED = 0.15, 0.8, 0.1
COPIES = 10  # different masks of each text under static masking, as BERT's data had
BATCH_SIZE = 32  # texts
LOG_EVERY, EVALUATE_EVERY = 10, 200  # steps


class Masks:
    """What to hide of each text.

    Dynamic (RoBERTa): a new mask each time. Static (BERT): ten masks per text, drawn in advance.
    """

    def __init__(
        self,
        texts: EncodedTexts,
        vocab_size: int,
        generator_of: Callable[[str, int], torch.Generator],
        static: bool,
    ):
        """`generator_of(name, step)` gives the random numbers."""
        self.vocab_size, self.generator_of, self.static = vocab_size, generator_of, static
        if static:
            self.tables = self._draw((COPIES, *texts.rows.shape), generator_of("static masks", 0))

    def _draw(self, shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(action, other token). 0: not in the loss, 1: mask, 2: replace by other, 3: keep."""
        chance = torch.rand(shape, generator=generator) / CHOSEN
        action = torch.where(
            chance >= 1,
            0,
            torch.where(chance < MASKED, 1, torch.where(chance < MASKED + REPLACED, 2, 3)),
        )
        return action.to(torch.uint8), torch.randint(
            self.vocab_size, shape, generator=generator, dtype=torch.int32
        )

    def apply(self, batch: Batch, step: int, hidden_by: int) -> tuple[Tensor, Tensor, Tensor]:
        """(rows with tokens hidden by `hidden_by`, where to guess, real): (batch, columns) each."""
        device, columns = batch.rows.device, batch.rows.shape[1]
        if self.static:
            copy = torch.randint(
                COPIES, (len(batch.rows),), generator=self.generator_of("mask copies", step)
            )
            action, other = (table[copy, batch.index.cpu(), :columns] for table in self.tables)
        else:
            action, other = self._draw(tuple(batch.rows.shape), self.generator_of("masks", step))
        action, other = action.to(device), other.to(device, batch.rows.dtype)
        valid = (
            torch.arange(columns, device=device)
            < (batch.prompt_lengths + batch.mask.sum(1))[:, None]
        )
        rows = torch.where(action == 1, hidden_by, torch.where(action == 2, other, batch.rows))
        return torch.where(valid, rows, batch.rows), (action > 0) & valid, valid


def masked_lm_loss(
    model: MaskedLanguageModel, batch: Batch, masks: Masks, step: int, tokenizer: Tokenizer
) -> Tensor:
    """Mean of -log p(hidden token | what is left), over the chosen tokens, in nats per token."""
    hidden_rows, chosen, valid = masks.apply(batch, step, mask_id(tokenizer.vocab_size))
    hidden = model.body(
        F.pad(hidden_rows, (1, 0), value=class_id(tokenizer.vocab_size)),
        F.pad(valid, (1, 0), value=True),
    )[:, 1:]
    # Only chosen columns go through the output layer. A batch may have none: then the loss is 0.
    return F.cross_entropy(
        model.output(hidden[chosen]).float(), batch.rows[chosen], reduction="sum"
    ) / chosen.sum().clamp(min=1)


def pretrain_mlm(
    tokenizer: Tokenizer,
    corpus: Corpus,
    config: Config,
    log: TrainLog | None = None,
    checkpoints: CheckpointKeeper | None = None,
) -> MaskedLanguageModel:
    """Train a fresh encoder on the corpus and return it; log the loss on both of its parts.

    Without `log` the rows stay in memory, without `checkpoints` an interruption loses the work.
    """
    log, checkpoints = log or TrainLog("masked-lm"), checkpoints or NoCheckpoints()
    settings, seed, context = config.reward.encoder, config.seed, config.model.context
    device = pick_device(config.device)
    torch.manual_seed(seed)
    model = new_masked_language_model(config.model, tokenizer.vocab_size).to(device)
    optimizers = muon_and_adamw(model, settings)
    train = EncodedTexts(tokenizer, corpus.train, context)
    heldout = EncodedTexts(tokenizer, corpus.heldout, context)

    def generator_of(name: str, step: int) -> torch.Generator:
        return step_generator(seed, f"masked-lm {name}", step)

    masks = Masks(train, tokenizer.vocab_size, generator_of, settings.masking == "static")

    start = checkpoints.resume({"model": model}, optimizers, {"log": log})
    for step in log.steps(start, settings.steps):
        batch = train.random_batch(BATCH_SIZE, seed, "masked-lm", step, device)
        scale_learning_rates(optimizers, linear_schedule(step, settings.steps, settings.warmup))
        with autocast(device):
            loss = masked_lm_loss(model, batch, masks, step, tokenizer)
        log.add(loss_nats_per_token=loss)
        backward(loss, model)
        step_all(optimizers, model)

        done, last = step + 1, step + 1 == settings.steps
        if done % LOG_EVERY == 0 or last:
            numbers = {}
            if done % EVALUATE_EVERY == 0 or last:
                numbers["heldout_loss_nats_per_token"] = heldout_loss(
                    model, heldout, tokenizer, seed
                )
            log.write(done, "loss {loss_nats_per_token:.2f} nats per hidden token", **numbers)
            checkpoints.maybe_save(done)
    return model


@torch.inference_mode()
def heldout_loss(
    model: MaskedLanguageModel, texts: EncodedTexts, tokenizer: Tokenizer, seed: int
) -> float:
    """The loss on all of `texts`, hidden in the same places each time; in nats per hidden token."""
    device = next(model.parameters()).device
    masks = Masks(
        texts,
        tokenizer.vocab_size,
        lambda name, step: step_generator(seed, f"masked-lm heldout {name}", step),
        static=False,
    )
    total, count = 0.0, 0
    for number, batch in enumerate(texts.in_order(256, device)):
        chosen = int(masks.apply(batch, number, mask_id(tokenizer.vocab_size))[1].sum())
        with autocast(device):
            total += float(masked_lm_loss(model, batch, masks, number, tokenizer)) * chosen
        count += chosen
    return total / max(1, count)
