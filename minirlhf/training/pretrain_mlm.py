"""Masked-LM pretraining (掩码语言模型预训练): an encoder learns a language by filling in what was hidden (section 2).

Of the real tokens 15% are chosen. Of these 80% become the mask token, 10% some other token, and 10% stay as they are, so that the
model must have an opinion about every token that it sees. The loss is on the chosen ones alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from minirlhf.config import RewardConfig
from minirlhf.models.build import class_id, mask_id, new_masked_language_model
from minirlhf.models.encoder import MaskedLanguageModel
from minirlhf.runs.checkpoints import Checkpoints
from minirlhf.runs.folder import Run
from minirlhf.system.devices import autocast
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.batches import Batch, EncodedTexts
from minirlhf.training.optimizers import linear_schedule, muon_and_adamw, scale_learning_rates

CHOSEN, MASKED, REPLACED = 0.15, 0.8, 0.1
COPIES = 10  # different masks of each text under static masking, as BERT's data had
WARMUP = 100


class Masks:
    """What to hide of each text. Dynamic (RoBERTa): drawn anew whenever a text comes by. Static (BERT): ten masks a text, drawn
    once and for all.
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
        """(action, other token): 0 leave out of the loss, 1 mask, 2 replace by the other token, 3 keep."""
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
        """(rows with some tokens hidden by the token `hidden_by`, where to guess, real columns), each (batch, columns)."""
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
    """Mean of -log p(hidden token | what is left), over the chosen tokens, in nats a token."""
    hidden_rows, chosen, valid = masks.apply(batch, step, mask_id(tokenizer.vocab_size))
    hidden = model.body(
        F.pad(hidden_rows, (1, 0), value=class_id(tokenizer.vocab_size)),
        F.pad(valid, (1, 0), value=True),
    )[:, 1:]
    # Only the chosen columns go through the output layer. A batch may have none: its loss is 0, not NaN.
    return F.cross_entropy(
        model.output(hidden[chosen]).float(), batch.rows[chosen], reduction="sum"
    ) / chosen.sum().clamp(min=1)


def pretrain_mlm(
    run: Run, tokenizer: Tokenizer, corpus: list, corpus_heldout: list, config: RewardConfig
) -> MaskedLanguageModel:
    """Train a fresh encoder on (topic, text) pairs; log the loss on both lists, stage "masked-lm"; return it."""
    device, seed = run.device, run.config.seed
    torch.manual_seed(seed)
    model = new_masked_language_model(run.config.model, tokenizer.vocab_size).to(device)
    optimizers = muon_and_adamw(
        model, config.mlm_learning_rate, config.mlm_muon_learning_rate, weight_decay=0.01
    )
    train, heldout = (
        EncodedTexts(tokenizer, part, run.config.model.context) for part in (corpus, corpus_heldout)
    )
    masks = Masks(
        train,
        tokenizer.vocab_size,
        lambda name, step: run.generator(f"masked-lm {name}", step),
        config.masking == "static",
    )
    checkpoints = Checkpoints(run, "masked-lm", {"model": model}, *optimizers)
    resumed = checkpoints.resume()
    start, losses = resumed["step"] if resumed else 0, []
    bar = tqdm(
        range(start, config.mlm_steps),
        desc="masked-lm",
        unit="step",
        initial=start,
        total=config.mlm_steps,
    )
    for step in bar:
        batch = train.random_batch(32, seed, "masked-lm", step, device)
        scale_learning_rates(optimizers, linear_schedule(step, config.mlm_steps, WARMUP))
        with autocast(device):
            loss = masked_lm_loss(model, batch, masks, step, tokenizer)
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.detach())

        done = step + 1
        if done % 10 == 0 or done == config.mlm_steps:
            mean = torch.stack(losses).mean().item()
            losses.clear()
            row = {
                "stage": "masked-lm",
                "step": done,
                "seconds": round(checkpoints.seconds, 3),
                "loss_nats_per_token": mean,
            }
            if done % 200 == 0 or done == config.mlm_steps:
                row["heldout_loss_nats_per_token"] = heldout_loss(model, heldout, tokenizer, run)
            run.append("metrics.jsonl", [row])
            bar.set_postfix_str(f"loss {mean:.2f} nats a hidden token")
            checkpoints.maybe_save(done)
    return model


@torch.inference_mode()
def heldout_loss(
    model: MaskedLanguageModel, texts: EncodedTexts, tokenizer: Tokenizer, run: Run
) -> float:
    """The loss on all of `texts`, hidden in the same places each time; in nats a hidden token."""
    device = run.device
    masks = Masks(
        texts,
        tokenizer.vocab_size,
        lambda name, step: run.generator(f"masked-lm heldout {name}", step),
        False,
    )
    total, count = 0.0, 0
    for number, batch in enumerate(texts.in_order(256, device)):
        chosen = int(masks.apply(batch, number, mask_id(tokenizer.vocab_size))[1].sum())
        with autocast(device):
            total += float(masked_lm_loss(model, batch, masks, number, tokenizer)) * chosen
        count += chosen
    return total / max(1, count)
