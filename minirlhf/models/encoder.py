"""BERT and RoBERTa: a bidirectional body, a masked language model and a reward model on it.

    tokens                              (batch, time); column 0 is the classification token
    norm(word + position + token type)  (batch, time, width)
    each layer: x = norm(x + attention(x)), then x = norm(x + mlp(x))     "post-norm"
    hidden states                       (batch, time, width)

This is the reward model's other body (section 3.2, step 2). transformer.py norms before each
branch, as GPT-2 does, and ends with a norm; hence the separate file. An encoder sees a text from
both sides, so each prefix needs a separate pass: T passes where a causal body needs one.

Sources: Devlin et al. 2019 (BERT); Liu et al. 2019 (RoBERTa). The tests compare with transformers'
models, weight by weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minirlhf.models.transformer import attention, check_count


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of an encoder.

    `context` is the longest row in tokens, including the classification token.
    `width` must be a multiple of `heads`. Raises ValueError, one line, for an impossible size.
    """

    vocab_size: int
    context: int = 97
    width: int = 128
    layers: int = 4
    heads: int = 4
    mlp_width: int = 512
    token_types: int = 1  # BERT has 2 (first and second segment), RoBERTa 1
    position_offset: int = 0  # the first position: RoBERTa's is its padding token's id + 1
    norm_epsilon: float = 1e-5  # BERT 1e-12

    causal = False

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context", "width", "layers", "heads", "mlp_width"):
            check_count(f"encoder {name}", getattr(self, name))
        check_count("encoder token_types", self.token_types)
        check_count("encoder position_offset", self.position_offset, at_least=0)
        is_number = isinstance(self.norm_epsilon, (int, float))
        if not is_number or not 0 < self.norm_epsilon < math.inf:
            raise ValueError(
                f"encoder norm_epsilon: expected a number above 0, found {self.norm_epsilon!r}"
            )
        if self.width % self.heads:
            raise ValueError(
                f"encoder width: expected a multiple of heads={self.heads}, found {self.width}"
            )


class EncoderLayer(nn.Module):
    """One layer: attention, then a two-layer perceptron; each added to its input, then normed."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.heads = config.heads
        self.query_key_value = nn.Linear(config.width, 3 * config.width)
        self.attention_out = nn.Linear(config.width, config.width)
        self.attention_norm = nn.LayerNorm(config.width, config.norm_epsilon)
        self.mlp_in = nn.Linear(config.width, config.mlp_width)
        self.mlp_out = nn.Linear(config.mlp_width, config.width)
        self.mlp_norm = nn.LayerNorm(config.width, config.norm_epsilon)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (batch, time, width); mask None or (batch, 1, 1, time), True on real tokens."""
        batch, time, width = x.shape
        qkv = self.query_key_value(x).view(batch, time, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (batch, heads, time, head_width)
        attended = attention(q, k, v, mask)  # (batch, heads, time, head_width)
        attended = attended.transpose(1, 2).reshape(batch, time, width)
        x = self.attention_norm(x + self.attention_out(attended))
        return self.mlp_norm(x + self.mlp_out(F.gelu(self.mlp_in(x))))


class Encoder(nn.Module):
    """The body: tokens in, hidden states out."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        positions = config.position_offset + config.context
        self.position_embedding = nn.Embedding(positions, config.width)
        self.type_embedding = nn.Embedding(config.token_types, config.width)
        self.embedding_norm = nn.LayerNorm(config.width, config.norm_epsilon)
        self.blocks = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        self.apply(initialise)

    def forward(
        self, tokens: Tensor, valid: Tensor | None = None, types: Tensor | None = None
    ) -> Tensor:
        """Hidden states (batch, time, width) of rows (batch, time), padded on the right.

        `valid` (batch, time) is True on real tokens and is needed where there is padding; `types`
        (batch, time) are 0 if not given. Raises ValueError if a row is longer than the context.
        """
        time = tokens.shape[1]
        if time > self.config.context:
            raise ValueError(
                f"tokens: expected at most context={self.config.context} columns, found {time}"
            )
        positions = torch.arange(time, device=tokens.device) + self.config.position_offset
        if types is None:
            types = torch.zeros_like(tokens)
        x = self.embedding_norm(
            self.token_embedding(tokens)
            + self.position_embedding(positions)
            + self.type_embedding(types)
        )
        mask = None if valid is None else valid[:, None, None, :]  # (batch, 1, 1, time)
        for layer in self.blocks:
            x = layer(x, mask)
        return x


class MaskedLanguageModel(nn.Module):
    """Predicts the token at each position, from both sides.

    Body + dense layer, gelu, norm + output layer that reuses the embedding matrix.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.body = Encoder(config)
        self.dense = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, config.norm_epsilon)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.dense.apply(initialise)

    @property
    def config(self) -> EncoderConfig:
        return self.body.config

    def output(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocab) of hidden states (..., width)."""
        hidden = self.norm(F.gelu(self.dense(hidden)))
        return F.linear(hidden, self.body.token_embedding.weight, self.bias)

    def forward(
        self, tokens: Tensor, valid: Tensor | None = None, types: Tensor | None = None
    ) -> Tensor:
        """Logits (batch, time, vocab) of the token at each position itself."""
        return self.output(self.body(tokens, valid, types))


class EncoderReward(nn.Module):
    """r_phi(x, y): body, then linear and sigmoid on the classification token (column 0).

    `class_id` is that token. It is put in front of each row here, so the rows are the same as those
    of the causal `RewardModel`.
    """

    def __init__(self, body: Encoder, class_id: int):
        super().__init__()
        self.body, self.class_id = body, class_id
        self.score = nn.Linear(body.config.width, 1)
        nn.init.zeros_(self.score.weight)  # as in RewardModel: all texts start at the same score
        nn.init.zeros_(self.score.bias)

    @property
    def config(self) -> EncoderConfig:
        return self.body.config

    @property
    def device(self) -> torch.device:
        return self.score.weight.device

    @property
    def members(self) -> list[EncoderReward]:
        return [self]

    def text_logits(
        self, rows: Tensor, lengths: Tensor, prompt_lengths: Tensor | None = None
    ) -> Tensor:
        """Logits (batch,) of the first `lengths` (batch,) columns of rows (batch, columns)."""
        tokens = F.pad(rows, (1, 0), value=self.class_id)  # (batch, 1 + columns)
        # One column more than `lengths`: the classification token.
        valid = torch.arange(tokens.shape[1], device=rows.device) <= lengths[:, None]
        return self.score(self.body(tokens, valid)[:, 0]).squeeze(-1).float()

    def text_scores(
        self, rows: Tensor, lengths: Tensor, prompt_lengths: Tensor | None = None
    ) -> Tensor:
        """Scores (batch,) in [0, 1], as `text_logits`."""
        return torch.sigmoid(self.text_logits(rows, lengths))

    def prefix_scores(
        self, rows: Tensor, prompt_lengths: Tensor, time: int, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """r_0 (batch,) and r_1 .. r_time (batch, time), as `RewardModel.prefix_scores`.

        Takes time + 1 passes. Past a text's end the scores are those of the padded row and must not
        be used.
        """
        longest = int(prompt_lengths.max())
        scores = []
        for t in range(time + 1):
            prefix = rows[:, : longest + t]
            lengths = (prompt_lengths + t).clamp(max=prefix.shape[1])
            scores.append(self.text_scores(prefix, lengths))
        return scores[0], torch.stack(scores[1:], dim=1)


def initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
