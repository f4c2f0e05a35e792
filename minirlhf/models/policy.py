"""The policy p_theta(y | x) (策略): a causal language model whose action is the next token.

The probability of a text is the product of its tokens' conditionals (E3, sections 4.1 and 4.2 of
the article). This file computes it with gradients, for texts that are given; sampling.py draws new
ones.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minirlhf import equations
from minirlhf.models.large_vocabulary import LARGE, log_probs_in_pieces
from minirlhf.models.transformer import Transformer, TransformerConfig


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

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    @property
    def learned(self) -> nn.Module:
        """The part of it that training changes, and that is saved: all of it."""
        return self

    @property
    def prompt_columns(self) -> int:
        """Columns of the cache before the prompt's: those of a soft prompt (soft_prompt.py)."""
        return 0

    def forward(self, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        """Logits (batch, time, vocab) of the token after each position; tokens (batch, time)."""
        return self.head(self.body(tokens, valid))

    def text_logits(self, rows: Tensor, prompt_lengths: Tensor, time: int) -> Tensor:
        """Logits (batch, time, vocab) that predicted y_1..y_time, teacher-forced in one pass.

        `rows` (batch, prompt + text) hold each prompt and its text back to back, padded on the
        right; `prompt_lengths` (batch,). Only the text's positions go through the output layer.
        """
        # The last column predicts nothing that is needed.
        hidden = self.body(rows[:, :-1])  # (batch, columns - 1, width)
        return self.head(gather_text(hidden, prompt_lengths - 1, time))

    def unpadded_logits(self, rows: Tensor, prompt_lengths: Tensor, mask: Tensor) -> Tensor:
        """As `text_logits`, but only where `mask` (batch, time) is True: (tokens, vocab).

        A third of a batch is padding, and the output layer is half of the work: training and
        scoring use this one.
        """
        lengths = prompt_lengths + mask.sum(1) - 1  # columns that predict a token of the text
        hidden = self.body.by_length(rows[:, :-1], lengths)  # (batch, columns - 1, width)
        return self.next_token_logits(gather_unpadded(hidden, prompt_lengths - 1, mask))

    def next_token_logits(self, hidden: Tensor) -> Tensor:
        """Logits (tokens, vocab) of hidden states (tokens, width)."""
        # In bfloat16 oneDNN compiles one kernel per shape. Padding to a multiple of 256 keeps the
        # number of shapes small.
        padded = F.pad(hidden, (0, 0, 0, -len(hidden) % 256))
        return self.head(padded)[: len(hidden)]

    def text_log_probs(
        self, rows: Tensor, prompt_lengths: Tensor, tokens: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """log p(y_t | x, y_<t) (batch, time), nats (E3).

        `rows` and `prompt_lengths` as in `text_logits`; `tokens` (batch, time) are the texts in
        them. With a `mask` (batch, time) only the real tokens are computed; the others are 0.
        """
        if mask is None:
            logits = self.text_logits(rows, prompt_lengths, tokens.shape[1])
            return equations.token_log_probs(logits, tokens)
        return masked_log_probs(self.unpadded_logits(rows, prompt_lengths, mask), tokens, mask)

    def frozen_copy(self) -> Policy:
        """The reference policy (参考策略): a copy that never learns, for the KL."""
        return copy.deepcopy(self).requires_grad_(False).eval()


def masked_log_probs(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """E3 (batch, time), 0 where `mask` is False; `logits` (tokens, vocab) where it is True."""
    chosen = tokens[mask]  # (tokens,)
    if logits.shape[-1] >= LARGE:
        real = log_probs_in_pieces(logits, chosen)
    else:
        real = equations.token_log_probs(logits.float()[None], chosen[None])  # (1, tokens)
    return torch.zeros(mask.shape, device=mask.device, dtype=real.dtype).masked_scatter(mask, real)


def gather_text(hidden: Tensor, first: Tensor, time: int) -> Tensor:
    """Columns first .. first + time - 1 of each row, (batch, time, width).

    hidden (batch, columns, width), first (batch,). Columns past the last repeat the last one; they
    are padded positions.
    """
    columns = first[:, None] + torch.arange(time, device=hidden.device)  # (batch, time)
    columns = columns.clamp(max=hidden.shape[1] - 1)
    return hidden.gather(1, columns[:, :, None].expand(-1, -1, hidden.shape[2]))


def gather_unpadded(hidden: Tensor, first: Tensor, mask: Tensor) -> Tensor:
    """As `gather_text`, but only where `mask` (batch, time) is True: (tokens, width)."""
    row, t = mask.nonzero(as_tuple=True)  # both (tokens,)
    return hidden.flatten(0, 1).index_select(0, row * hidden.shape[1] + first[row] + t)
