"""Sampling texts from the policy, y ~ p_theta(y | x), token by token (section 4.2).

    left-pad the prompts, run them through the body once, keep keys and values in a cache
    repeat: draw a token for each text from the logits; run just that token through the body
    stop when every text has its end token or is max_new_tokens long

On a GPU cuda_graph.py replays one recorded step instead; the texts are the same. On a CPU many
prompts of very unequal length are sampled in groups of similar length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from minirlhf.models.cuda_graph import CHECK_EVERY, recorded
from minirlhf.models.next_token import SamplingOptions, next_token
from minirlhf.models.policy import Policy
from minirlhf.models.transformer import STRIDE, KeyValueCache, rounded_up

TOGETHER = 64  # prompts of similar length that are sampled together on a CPU


@dataclass
class Samples:
    """Generated texts; column 0 is y_1. Padded positions hold token 0 and log-probability 0."""

    tokens: Tensor  # (batch, time) int64; includes the end token where the text ended by itself
    mask: Tensor  # (batch, time) bool: True on generated tokens
    log_probs: Tensor  # (batch, time), nats, under the distribution that the token was drawn from
    ended: Tensor  # (batch,) bool: False where max_new_tokens cut the text off

    def ids(self) -> list[list[int]]:
        """The token ids of each text, without padding (one copy to the CPU for all of them)."""
        lengths = self.mask.sum(1).tolist()
        return [row[:length] for row, length in zip(self.tokens.tolist(), lengths, strict=True)]


@torch.no_grad()
def sample(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    end_id: int,
    options: SamplingOptions = SamplingOptions(),
    randomness: torch.Generator | Tensor | None = None,
) -> Samples:
    """Draw one text for each prompt (a list of token ids); prompts may differ in length.

    randomness: a generator; or uniform numbers (batch, max_new_tokens) in [0, 1), where a text must
    not depend on the others in its batch; None draws from PyTorch's global generator.
    The log-probabilities returned are those of the distribution drawn from, so with the default
    options they are log p_theta. Sampling builds no autograd graph.
    Raises ValueError if a prompt is empty, prompt and text do not fit the context, or `randomness`
    has the wrong shape.
    """
    _check(prompts, max_new_tokens, policy.config.context, randomness)
    device = policy.device
    if device.type == "cpu" and isinstance(randomness, Tensor):
        groups = _groups_of_similar_length(prompts)
        if len(groups) > 1:
            parts = [
                sample(
                    policy,
                    [prompts[row] for row in group.tolist()],
                    max_new_tokens,
                    end_id,
                    options,
                    randomness[group],
                )
                for group in groups
            ]
            return _joined(parts, torch.cat(groups))
    padded, valid = _left_padded(prompts, device)

    # A CPU samples in float32 even under autocast: rounding the few numbers of one step takes
    # longer than multiplying them.
    autocast = torch.is_autocast_enabled(device.type) and device.type != "cpu"
    dtype = torch.get_autocast_dtype(device.type) if autocast else policy.head.weight.dtype

    columns = policy.prompt_columns + padded.shape[1] + max_new_tokens
    if device.type == "cuda":
        graph = recorded(policy, len(prompts), columns, max_new_tokens, options, dtype)
        uniform = _uniform_numbers((len(prompts), max_new_tokens), device, options, randomness)
        tokens, log_probs = graph.sample(policy, padded, valid, uniform, end_id)
    else:
        cache = KeyValueCache(policy.config, len(prompts), columns, device, dtype)
        with torch.inference_mode(), torch.autocast(device.type, enabled=autocast):
            hidden = policy.body(padded, valid, cache)[:, -1]  # (batch, width)
            draws = _Draws(options, randomness)
            tokens, log_probs = _decode(policy, cache, hidden, max_new_tokens, end_id, draws)
    return _up_to_the_end(tokens, log_probs, end_id)


@torch.inference_mode()
def stream(
    policy: Policy,
    prompt: Sequence[int],
    max_new_tokens: int,
    end_id: int,
    options: SamplingOptions = SamplingOptions(),
    randomness: torch.Generator | Tensor | None = None,
) -> Iterator[int]:
    """The tokens of one text, each as soon as it is drawn; the end token, if drawn, is the last.

    They are those of `sample` for this one prompt: same arguments, same random numbers, same
    tokens. Raises ValueError as `sample` does, when the first token is asked for.
    """
    _check([prompt], max_new_tokens, policy.config.context, randomness)
    device = policy.device
    uniform = _uniform_numbers((1, max_new_tokens), device, options, randomness).to(device)
    columns = policy.prompt_columns + len(prompt) + max_new_tokens
    cache = KeyValueCache(policy.config, 1, columns, device, policy.head.weight.dtype)
    tokens = torch.tensor([list(prompt)], device=device)  # (1, new columns)
    for t in range(max_new_tokens):
        hidden = policy.body(tokens, None, cache)[:, -1]  # (1, width)
        drawn, _ = next_token(policy.head(hidden).float(), options, uniform[:, t])  # (1,)
        yield (token := int(drawn))
        if token == end_id:
            return
        tokens = drawn[:, None]


@dataclass(frozen=True)
class _Draws:
    """How the tokens of a batch are drawn, and with which random numbers (see `sample`)."""

    options: SamplingOptions
    randomness: torch.Generator | Tensor | None

    def next(self, logits: Tensor, rows: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """Token t of the texts `rows` (rows,) from logits (rows, vocab), and its log-probability.

        Both are (rows,).
        """
        randomness = self.randomness
        step_randomness = randomness[rows, t] if isinstance(randomness, Tensor) else randomness
        return next_token(logits, self.options, step_randomness)


def _decode(
    policy: Policy,
    cache: KeyValueCache,
    hidden: Tensor,
    max_new_tokens: int,
    end_id: int,
    draws: _Draws,
) -> tuple[Tensor, Tensor]:
    """The decoding loop: tokens and their log-probabilities, both (batch, time).

    `hidden` (batch, width) is the last hidden state of each prompt, whose keys and values `cache`
    holds. Texts that have ended are dropped from the batch while the others go on.
    """
    device, batch = hidden.device, len(hidden)
    tokens = torch.zeros(batch, max_new_tokens, dtype=torch.long, device=device)
    log_probs = torch.zeros(batch, max_new_tokens, device=device)
    rows = torch.arange(batch, device=device)  # which texts are still in the batch
    alive = torch.ones(batch, dtype=torch.bool, device=device)  # which of `rows` have not ended

    for t in range(max_new_tokens):
        logits = policy.head(hidden).float()  # (rows, vocab)
        drawn, drawn_log_probs = draws.next(logits, rows, t)
        tokens[rows, t], log_probs[rows, t] = drawn, drawn_log_probs
        if t + 1 == max_new_tokens:
            break
        alive &= drawn != end_id
        if (t + 1) % CHECK_EVERY.get(device.type, 8) == 0:
            remaining = int(alive.sum())
            if remaining == 0:
                break
            # Round up to a multiple of 16, which keeps the number of different shapes small. The
            # rows that fill it up have ended; what is drawn for them is never used.
            count = remaining + -remaining % 16
            # Dropping rows copies the cache, so do it only when it pays.
            if count < 0.75 * len(rows):
                keep = alive.int().argsort(descending=True, stable=True)[:count]
                rows, drawn, alive = rows[keep], drawn[keep], alive[keep]
                cache.keep_rows(keep)
        hidden = policy.body(drawn[:, None], None, cache)[:, -1]  # (rows, width)
    return tokens[:, : t + 1], log_probs[:, : t + 1]


def _groups_of_similar_length(prompts: Sequence[Sequence[int]]) -> list[Tensor]:
    """Positions of the prompts that are sampled together, by length; one group where that is best.

    One long prompt pads all others to its length, in the first pass and in the cache that every
    token reads. Groups are smaller products, so they must save a quarter of the columns.
    """
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    groups = lengths.argsort(stable=True).split(TOGETHER)

    def padded_columns(rows: Tensor) -> int:
        return len(rows) * rounded_up(int(lengths[rows].max()), STRIDE)

    whole = torch.arange(len(prompts))
    if sum(map(padded_columns, groups)) > 0.75 * padded_columns(whole):
        return [whole]
    return list(groups)


def _joined(parts: list[Samples], rows: Tensor) -> Samples:
    """The samples of all parts, put back in their places: `rows` (batch,) says which they are."""
    order, time = rows.argsort(), max(part.tokens.shape[1] for part in parts)

    def whole(tensors: list[Tensor]) -> Tensor:
        padded = [F.pad(tensor, (0, time - tensor.shape[1])) for tensor in tensors]
        return torch.cat(padded)[order]  # (batch, time)

    return Samples(
        tokens=whole([part.tokens for part in parts]),
        mask=whole([part.mask for part in parts]),
        log_probs=whole([part.log_probs for part in parts]),
        ended=torch.cat([part.ended for part in parts])[order],
    )


def _left_padded(
    prompts: Sequence[Sequence[int]], device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Prompts padded on the left, so that all end in the same column: (batch, prompt).

    Also which columns are real, (batch, prompt) bool; None where nothing is padded.
    """
    longest = max(len(prompt) for prompt in prompts)
    lists = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    padded = torch.tensor(lists, device=device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    if all(len(prompt) == longest for prompt in prompts):
        return padded, None
    return padded, torch.arange(longest, device=device) >= longest - lengths[:, None]


def _uniform_numbers(
    shape: tuple[int, int],
    device: torch.device,
    options: SamplingOptions,
    randomness: torch.Generator | Tensor | None,
) -> Tensor:
    """All uniform numbers that a recorded decoding needs, (batch, max_new_tokens)."""
    if isinstance(randomness, Tensor):
        return randomness
    if options.temperature == 0:
        return torch.zeros(shape)  # greedy decoding uses none
    return torch.rand(shape, device=device, generator=randomness)


def _up_to_the_end(tokens: Tensor, log_probs: Tensor, end_id: int) -> Samples:
    """Cut tokens and log-probabilities (batch, time) after each row's first end token.

    Called outside inference mode: what `masked_fill` returns may take part in a loss.
    """
    is_end = tokens == end_id
    ended = is_end.any(1)
    first_end = is_end.int().argmax(1)
    lengths = torch.where(ended, first_end + 1, tokens.shape[1])
    time = int(lengths.max())
    mask = torch.arange(time, device=tokens.device) < lengths[:, None]
    tokens = tokens[:, :time].masked_fill(~mask, 0)
    return Samples(tokens, mask, log_probs[:, :time].masked_fill(~mask, 0.0), ended)


def _check(
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    context: int,
    randomness: torch.Generator | Tensor | None,
) -> None:
    """Raise ValueError if `sample` cannot do what it is asked for."""
    if not prompts or any(len(prompt) == 0 for prompt in prompts):
        raise ValueError("prompts: expected at least one prompt, each of at least one token")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens: expected at least 1, found {max_new_tokens}")
    longest = max(len(prompt) for prompt in prompts)
    if longest + max_new_tokens > context:
        raise ValueError(
            f"max_new_tokens: prompt ({longest} tokens) and text ({max_new_tokens}) "
            f"exceed context={context}"
        )
    if isinstance(randomness, Tensor) and randomness.shape != (len(prompts), max_new_tokens):
        raise ValueError(
            f"randomness: expected shape (batch, max_new_tokens) = "
            f"{(len(prompts), max_new_tokens)}, found {tuple(randomness.shape)}"
        )
