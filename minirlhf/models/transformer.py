"""The Transformer body of the policy and the reward model, causal or bidirectional.

Shapes at a glance, for a batch of token rows:

    tokens                          (batch, time)          integers
    embedding + position            (batch, time, width)
    each block: x + attention(norm(x)), then x + mlp(norm(x))     "pre-norm", as in GPT-2
    final norm                      (batch, time, width)   the hidden states

Attention is PyTorch's scaled_dot_product_attention. For generation there is a key-value cache that
is allocated once (`KeyValueCache`), so that a new token costs one column of work instead of a pass
over the whole text.

Sources: Vaswani et al. 2017; Radford et al. 2019 (GPT-2's pre-norm layout). The tests compare with
GPT-2, weight by weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUP = 16  # rows of similar length that go through the body together on a CPU
STRIDE = 8  # column counts are multiples of it: a CPU compiles and caches a kernel per shape


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a Transformer.

    `context` is the longest row in tokens; `width` must be a multiple of `heads`.
    Raises ValueError, one line, for an impossible size.
    """

    vocab_size: int
    context: int = 96
    width: int = 128
    layers: int = 4
    heads: int = 4
    causal: bool = True
    tie_embeddings: bool = True  # the language model's output layer reuses the embedding matrix

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context", "width", "layers", "heads"):
            check_count(f"transformer {name}", getattr(self, name))
        if self.width % self.heads:
            raise ValueError(
                f"transformer width: expected a multiple of heads={self.heads}, found {self.width}"
            )


def check_count(what: str, value: object, at_least: int = 1) -> None:
    """Raise ValueError, one line naming `what`, unless `value` is an integer of that size."""
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise ValueError(f"{what}: expected an integer of at least {at_least}, found {value!r}")


class KeyValueCache:
    """Keys and values of the columns seen so far, allocated once.

    Both are (layers, batch, heads, max_time, head_width); the first `length` columns are filled.
    Prompts of unequal length are padded on the left, so that all rows of a batch write the same
    column at each step; `valid` (batch, max_time) is False on that padding.

    Two tensors that every step needs are derived from it once; None where nothing is padded:
    - `padding` (batch, 1): the number of padded columns of a row
    - `bias` (batch, 1, 1, max_time): added to the attention scores, -inf on padding, else 0

    `column` (1,), where set, holds the number of filled columns on the device itself: cuda_graph.py
    fills the cache that way.
    """

    def __init__(
        self,
        config: TransformerConfig,
        batch: int,
        max_time: int,
        device: torch.device,
        dtype: torch.dtype,
    ):
        shape = (config.layers, batch, config.heads, max_time, config.width // config.heads)
        # Uninitialised memory will do: no column is read before it is written.
        self.keys = torch.empty(shape, device=device, dtype=dtype)
        self.values = torch.empty(shape, device=device, dtype=dtype)
        self.valid = torch.ones(batch, max_time, device=device, dtype=torch.bool)
        self.padding: Tensor | None = None
        self.bias: Tensor | None = None
        self.column: Tensor | None = None
        self.length = 0

    def mark_padding(self, valid: Tensor) -> None:
        """Say which of the next columns are real: valid (batch, time)."""
        self.valid[:, self.length : self.length + valid.shape[1]] = valid
        self.padding = (~self.valid).sum(1, keepdim=True)
        bias = torch.zeros_like(self.valid, dtype=self.keys.dtype)  # (batch, max_time)
        self.bias = bias.masked_fill(~self.valid, -torch.inf)[:, None, None]

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write a layer's new columns; return its keys, values (batch, heads, length, head_width).

        With `column`, all max_time columns are returned: a recorded step must not have shapes that
        depend on how many columns are filled.
        """
        if self.column is not None:
            self.keys[layer].index_copy_(2, self.column, key)
            self.values[layer].index_copy_(2, self.column, value)
            return self.keys[layer], self.values[layer]
        end = self.length + key.shape[2]
        self.keys[layer, :, :, self.length : end] = key
        self.values[layer, :, :, self.length : end] = value
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def keep_rows(self, rows: Tensor) -> None:
        """Keep only `rows` (indices): texts that have ended stop costing time."""
        # Indexing copies, so what is kept is safe before it is written over the old rows.
        keys = self.keys[:, rows, :, : self.length]
        values = self.values[:, rows, :, : self.length]
        self.keys, self.values = self.keys[:, : len(rows)], self.values[:, : len(rows)]
        self.keys[:, :, :, : self.length] = keys
        self.values[:, :, :, : self.length] = values
        self.valid = self.valid[rows]
        if self.padding is not None and self.bias is not None:
            self.padding, self.bias = self.padding[rows], self.bias[rows]


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool = False
) -> Tensor:
    """softmax(q k^T / sqrt(head_width)) v, (batch, heads, time, head_width).

    q (batch, heads, time, head_width), k and v (batch, heads, keys, head_width); mask as in
    `Block.forward`, or a float tensor to add to the scores. PyTorch's fused kernel does it, but for
    two cases on a CPU.
    """
    on_cpu = q.device.type == "cpu"
    if on_cpu and q.shape[2] == 1 and not q.requires_grad:
        # One query per row, as in sampling: two plain products are faster than the kernel.
        scores = q * q.shape[3] ** -0.5 @ k.mT  # (batch, heads, 1, keys)
        if mask is not None and mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -torch.inf)
        elif mask is not None:
            scores = scores + mask
        return scores.softmax(-1) @ v
    if on_cpu and q.dtype == torch.bfloat16 and q.requires_grad:
        # There the kernel's backward pass takes five times as long in bfloat16 as in float32.
        with torch.autocast("cpu", enabled=False):
            q, k, v = q.float(), k.float(), v.float()
            return F.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal)
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal)


class Block(nn.Module):
    """One layer: attention, then a two-layer perceptron; each after a norm, added to its input."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.heads, self.causal = config.heads, config.causal
        self.attention_norm = nn.LayerNorm(config.width)
        self.query_key_value = nn.Linear(config.width, 3 * config.width)
        self.attention_out = nn.Linear(config.width, config.width)
        self.mlp_norm = nn.LayerNorm(config.width)
        self.mlp_in = nn.Linear(config.width, 4 * config.width)
        self.mlp_out = nn.Linear(4 * config.width, config.width)

    def forward(
        self, x: Tensor, mask: Tensor | None, cache: KeyValueCache | None, layer: int
    ) -> Tensor:
        """Hidden states (batch, time, width) of x (batch, time, width).

        mask: None or broadcastable to (batch, heads, time, keys), True where attention is allowed.
        """
        batch, time, width = x.shape
        qkv = self.query_key_value(self.attention_norm(x))  # (batch, time, 3 * width)
        qkv = qkv.view(batch, time, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (batch, heads, time, head_width)
        if cache is not None:
            k, v = cache.append(layer, k, v)
        # A single new token may attend to everything in the cache, so it needs no causal mask.
        is_causal = self.causal and mask is None and time > 1
        attended = attention(q, k, v, mask, is_causal)  # (batch, heads, time, head_width)
        x = x + self.attention_out(attended.transpose(1, 2).reshape(batch, time, width))
        return x + self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x)), approximate="tanh"))


class Transformer(nn.Module):
    """The body: tokens in, hidden states out."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Embedding(config.context, config.width)
        blocks = [Block(config) for _ in range(config.layers)]
        self.blocks = nn.ModuleList(blocks)
        self.final_norm = nn.LayerNorm(config.width)
        self.apply(_initialise)
        # Each layer adds two branches to the residual stream. Scaled so, its size does not grow
        # with depth.
        for block in blocks:
            for branch in (block.attention_out, block.mlp_out):
                nn.init.normal_(branch.weight, std=0.02 / math.sqrt(2 * config.layers))

    def forward(
        self,
        tokens: Tensor,
        valid: Tensor | None = None,
        cache: KeyValueCache | None = None,
        vectors: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (batch, time, width) of token rows (batch, time).

        `valid` (batch, time), True on real tokens, is needed where padding stands *before* real
        tokens or the body is bidirectional. A causal body never looks at padding on the right. With
        `cache`, `tokens` are the next columns after those already in it (each real unless `valid`
        says otherwise). `vectors` (batch, k, width) take k columns before the tokens, as embeddings
        do (soft_prompt.py); no states of these are returned. Raises ValueError if a row is longer
        than the context.
        """
        before = 0 if vectors is None else vectors.shape[1]
        time = before + tokens.shape[1]
        start = 0 if cache is None else cache.length
        if start + time > self.config.context:
            raise ValueError(
                f"tokens: expected at most context={self.config.context} columns, "
                f"found {start + time}"
            )
        if valid is not None and before:
            valid = F.pad(valid, (before, 0), value=True)
        if cache is not None and valid is not None:
            cache.mark_padding(valid)
        if cache is not None and time == 1:
            positions, mask = self._next_column(start, tokens.device, cache)
        else:
            positions, mask = self._columns(start, time, tokens.device, valid, cache)
        hidden = self.layers(tokens, positions, mask, cache, vectors)
        if cache is not None:
            cache.length += time
        return hidden[:, before:]

    def _next_column(
        self, start: int, device: torch.device, cache: KeyValueCache
    ) -> tuple[Tensor, Tensor | None]:
        """Positions and mask of one new token per row, which attends to every real column."""
        positions = torch.arange(start, start + 1, device=device)
        if cache.padding is None or cache.bias is None:
            return positions, None
        return positions - cache.padding, cache.bias[..., : start + 1]

    def _columns(
        self,
        start: int,
        time: int,
        device: torch.device,
        valid: Tensor | None,
        cache: KeyValueCache | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Positions and mask of columns start .. start + time - 1."""
        # Which of the columns up to the last are real, (batch, start + time); None where all are
        # and the kernel's own causal mask will do.
        seen = valid
        if cache is not None:
            needs_mask = start > 0 or cache.padding is not None
            seen = cache.valid[:, : start + time] if needs_mask else None
        if seen is None:
            return torch.arange(start, start + time, device=device), None
        # Positions count real tokens only.
        positions = (seen.cumsum(1) - 1).clamp(min=0)[:, start:]  # (batch, time)
        mask = seen[:, None, None, :]  # (batch, 1, 1, start + time)
        if self.config.causal:
            lower = torch.ones(time, start + time, dtype=torch.bool, device=device).tril(start)
            mask = mask & lower  # (batch, 1, time, start + time)
            # A padded query sees nothing, and a softmax over nothing is NaN: let it attend to
            # itself; the output is never used.
            mask.diagonal(start, -2, -1).fill_(True)
        return positions, mask

    def by_length(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """As `forward`, for rows (batch, columns) of which the first `lengths` (batch,) are read.

        On a CPU rows of similar length go through together, without the columns that none of them
        fills: sampled texts differ so much in length that this saves a third of the work. States
        of columns that are left out are 0. Needs a causal body.
        """
        batch, columns = rows.shape
        if rows.device.type != "cpu" or batch < 2 * GROUP:
            return self(rows)
        order = lengths.argsort(stable=True)
        groups = order.split(GROUP)
        longest = [min(columns, rounded_up(int(lengths[group].max()), STRIDE)) for group in groups]
        if longest[0] == columns:  # of the shortest rows: nothing to leave out
            return self(rows)
        parts = []
        for group, filled in zip(groups, longest, strict=True):
            states = self(rows[group, :filled])  # (group, filled, width)
            parts.append(F.pad(states, (0, 0, 0, columns - filled)))
        return torch.cat(parts)[order.argsort()]  # as the rows came

    def layers(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        cache: KeyValueCache | None,
        vectors: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (batch, time, width) of tokens (batch, time).

        positions: (batch, time) or (time,); mask as in `Block.forward`. With `vectors`
        (batch, k, width) before the tokens, time counts both.
        """
        embedded = self.token_embedding(tokens)
        if vectors is not None:
            embedded = torch.cat([vectors, embedded], dim=1)  # (batch, k + tokens, width)
        x = embedded + self.position_embedding(positions)
        for layer, block in enumerate(self.blocks):
            x = block(x, mask, cache, layer)
        return self.final_norm(x)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def rounded_up(number: int, stride: int) -> int:
    """The next multiple of `stride`."""
    return -(-number // stride) * stride
