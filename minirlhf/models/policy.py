"""The policy p_theta(y | x) (策略): a causal language model, seen as an agent whose action is the next token.

Section 4.1 and 4.2 of the text: the probability of a text is the product of its tokens' conditionals (E3). The same network
gives both what sampling needs (the next token's distribution) and what learning needs (log-probabilities with gradients).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minirlhf import equations
from minirlhf.models.cuda_graph import CHECK_EVERY, recorded
from minirlhf.models.draw import check_sampling, draw
from minirlhf.models.transformer import KeyValueCache, Transformer, TransformerConfig


@dataclass
class Samples:
    """Generated texts; column 0 is y_1. Behind a row's end: token 0, mask False, log-probability 0."""

    tokens: Tensor  # (batch, time) int64; the end token is included where the text ended by itself
    mask: Tensor  # (batch, time) bool: True on generated tokens
    log_probs: Tensor  # (batch, time): log-probability of each token under the distribution it was drawn from
    ended: Tensor  # (batch,) bool: False where max_new_tokens cut the text off

    def texts(self) -> list[list[int]]:
        """The rows as lists of token ids without padding (one copy to the CPU for all of them)."""
        lengths = self.mask.sum(1).tolist()
        return [row[:length] for row, length in zip(self.tokens.tolist(), lengths)]


class Policy(nn.Module):
    """A causal Transformer with an output layer over the vocabulary."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        if not config.causal:
            raise ValueError("policy: expected a causal Transformer (causal=True)")
        self.body = Transformer(config)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        nn.init.normal_(self.head.weight, std=0.02)
        if config.tie_embeddings:
            self.head.weight = self.body.token_embedding.weight

    @property
    def config(self) -> TransformerConfig:
        return self.body.config

    def forward(self, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        """Logits (batch, time, vocab) of the token after each position of `tokens` (batch, time)."""
        return self.head(self.body(tokens, valid))

    def text_logits(self, rows: Tensor, prompt_lengths: Tensor, time: int) -> Tensor:
        """Logits (batch, time, vocab) that predicted y_1..y_time, teacher-forced (a whole text in one pass).

        `rows` (batch, prompt + text) hold each prompt and its text back to back, padded behind; `prompt_lengths` (batch,).
        Only the text's positions go through the output layer.
        """
        return self.head(gather_text(self.body(rows[:, :-1]), prompt_lengths - 1, time))

    def real_logits(self, rows: Tensor, prompt_lengths: Tensor, mask: Tensor) -> Tensor:
        """As `text_logits`, of the tokens where `mask` (batch, time) is True alone: (tokens, vocab).

        A third of a batch is padding and the output layer is half of the work, so this is what training and scoring use.
        """
        return self.logits_of(gather_real(self.body(rows[:, :-1]), prompt_lengths - 1, mask))

    def logits_of(self, hidden: Tensor) -> Tensor:
        """Logits (tokens, vocab) of hidden states (tokens, width).

        Filled up to a multiple of 256 on the way: in bfloat16 a CPU prepares code for each new shape, and few batches are alike.
        """
        return self.head(F.pad(hidden, (0, 0, 0, -len(hidden) % 256)))[: len(hidden)]

    def text_log_probs(
        self, rows: Tensor, prompt_lengths: Tensor, tokens: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """log p(y_t | x, y_<t) (batch, time) of the texts `tokens` (batch, time) that `rows` hold (E3).

        With a `mask` (batch, time) only the real tokens are worked out; the others are 0.
        """
        if mask is None:
            return equations.token_log_probs(
                self.text_logits(rows, prompt_lengths, tokens.shape[1]), tokens
            )
        return log_probs_of(self.real_logits(rows, prompt_lengths, mask).float(), tokens, mask)

    def frozen_copy(self) -> Policy:
        """The reference policy (参考策略): a copy that never learns; the KL is measured against it."""
        return copy.deepcopy(self).requires_grad_(False).eval()

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        *,
        end_id: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
        uniform: Tensor | None = None,
    ) -> Samples:
        """Draw one text for each prompt, y ~ p_theta(y | x), token by token.

        Prompts may differ in length. Stops when every text has its end token or `max_new_tokens`. `temperature` 0 takes
        the likeliest token; `top_k` and `top_p` cut the tail of the distribution. The log-probabilities returned are
        those of the distribution drawn from, so at temperature 1 without cuts they are log p_theta.
        `uniform` (batch, max_new_tokens), numbers in [0, 1), takes the generator's place where a text may not depend on which
        others are sampled with it.
        Raises ValueError if a prompt is empty, prompt and text do not fit the context, or an option is out of range or shape.
        """
        check_sampling(
            prompts, max_new_tokens, self.config.context, temperature, top_k, top_p, uniform
        )
        device, batch = self.head.weight.device, len(prompts)
        longest = max(len(prompt) for prompt in prompts)
        padded = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts], device=device)
        lengths = torch.tensor([len(p) for p in prompts], device=device)
        valid = None  # nothing is padded: no mask at all
        if min(map(len, prompts)) < longest:
            valid = (
                torch.arange(longest, device=device) >= longest - lengths[:, None]
            )  # padding on the left

        # A CPU samples in float32 whatever else is in bfloat16: to round a step's few numbers takes longer than its products.
        rounds = torch.is_autocast_enabled(device.type) and device.type != "cpu"
        dtype = torch.get_autocast_dtype(device.type) if rounds else self.head.weight.dtype
        cuts = temperature, top_k, top_p
        if device.type == "cuda":
            graph = recorded(self, batch, longest + max_new_tokens, max_new_tokens, cuts, dtype)
            if uniform is None:
                shape = batch, max_new_tokens
                uniform = (
                    torch.zeros(shape)
                    if temperature == 0
                    else torch.rand(shape, device=device, generator=generator)
                )
            tokens, log_probs = graph.sample(self, padded, valid, uniform, end_id)
        else:
            cache = KeyValueCache(self.config, batch, longest + max_new_tokens, device, dtype)
            with torch.inference_mode(), torch.autocast(device.type, enabled=rounds):
                written = self._write(
                    cache, padded, valid, max_new_tokens, end_id, cuts, generator, uniform
                )
            tokens, log_probs = (
                tensor.clone() for tensor in written
            )  # tensors of inference may take no part in a loss

        is_end = tokens == end_id  # rows went on for a while behind their end; the first one counts
        ended = is_end.any(1)
        count = torch.where(ended, is_end.int().argmax(1) + 1, tokens.shape[1])
        time = int(count.max())
        mask = torch.arange(time, device=device) < count[:, None]
        tokens = tokens[:, :time].masked_fill(~mask, 0)
        return Samples(tokens, mask, log_probs[:, :time].masked_fill(~mask, 0.0), ended)

    def _write(
        self,
        cache: KeyValueCache,
        padded: Tensor,
        valid: Tensor | None,
        max_new_tokens: int,
        end_id: int,
        cuts: tuple,
        generator: torch.Generator | None,
        uniform: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Tokens and their log-probabilities (batch, time), until all texts have ended; those that have are dropped before."""
        device, batch = padded.device, len(padded)
        tokens = torch.zeros(batch, max_new_tokens, dtype=torch.long, device=device)
        log_probs = torch.zeros(batch, max_new_tokens, device=device)
        rows = torch.arange(batch, device=device)  # the texts still being written
        alive = torch.ones(batch, dtype=torch.bool, device=device)  # of `rows`: not ended
        hidden = self.body(padded, valid, cache)[:, -1]  # (batch, width)
        for t in range(max_new_tokens):
            next_tokens, next_log_probs = draw(
                self.head(hidden).float(),
                *cuts,
                generator,
                None if uniform is None else uniform[rows, t],
            )
            tokens[rows, t], log_probs[rows, t] = next_tokens, next_log_probs
            if t + 1 == max_new_tokens:
                break
            alive &= next_tokens != end_id
            if (t + 1) % CHECK_EVERY.get(device.type, 8) == 0:
                living = int(alive.sum())
                if living == 0:
                    break
                # In sixteens: few different shapes. The rows that fill them up have ended, and nobody reads them.
                count = living + -living % 16
                if count < 0.75 * len(
                    rows
                ):  # dropping rows copies the cache, so wait until it pays
                    kept = alive.int().argsort(descending=True, stable=True)[:count]
                    rows, next_tokens, alive = rows[kept], next_tokens[kept], alive[kept]
                    cache.keep_rows(kept)
            hidden = self.body(next_tokens[:, None], None, cache)[:, -1]
        return tokens[:, : t + 1], log_probs[:, : t + 1]


def log_probs_of(real_logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """E3 (batch, time), 0 where `mask` is False, from the logits (tokens, vocab) where it is True."""
    real = equations.token_log_probs(real_logits[None], tokens[mask][None])  # (1, tokens)
    return torch.zeros(mask.shape, device=mask.device, dtype=real.dtype).masked_scatter(mask, real)


def gather_real(hidden: Tensor, first: Tensor, mask: Tensor) -> Tensor:
    """As `gather_text`, but only where `mask` (batch, time) is True: (tokens, width), row by row."""
    row, t = mask.nonzero(as_tuple=True)
    return hidden.flatten(0, 1).index_select(0, row * hidden.shape[1] + first[row] + t)


def gather_text(hidden: Tensor, first: Tensor, time: int) -> Tensor:
    """Columns first .. first+time-1 of each row: hidden (batch, columns, width), first (batch,) to (batch, time, width).

    Columns past the end repeat the last one; they lie behind the row's mask.
    """
    index = (first[:, None] + torch.arange(time, device=hidden.device)).clamp(
        max=hidden.shape[1] - 1
    )
    return hidden.gather(1, index[:, :, None].expand(-1, -1, hidden.shape[2]))
