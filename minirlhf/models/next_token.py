"""Drawing one token from logits: temperature, top-k, top-p and the token's log-probability."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class SamplingOptions:
    """How the next token is chosen. The defaults sample from the policy's own distribution.

    Raises ValueError, one line, if an option is out of range.
    """

    temperature: float = 1.0  # divides the logits; 0 is greedy decoding
    top_k: int | None = None  # keep only the k likeliest tokens
    top_p: float | None = None  # then the fewest tokens whose mass reaches p (nucleus sampling)

    def __post_init__(self) -> None:
        if not self.temperature >= 0:  # also catches NaN
            raise ValueError(f"temperature: expected 0 or more, found {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k: expected at least 1, found {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: expected a number in (0, 1], found {self.top_p}")


def next_token(
    logits: Tensor,
    options: SamplingOptions,
    randomness: torch.Generator | Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One token (batch,) for each row of logits (batch, vocab), and its log-probability (batch,).

    The log-probability (nats) is that under the distribution drawn from, after temperature and
    cuts. randomness: a generator; or the uniform numbers (batch,) in [0, 1) themselves; None draws
    them from PyTorch's global generator.
    """
    if options.temperature == 0:
        # Greedy decoding is deterministic: log-probability 0.
        return logits.argmax(-1), torch.zeros_like(logits[:, 0])

    logits = _cut(logits / options.temperature, options)
    log_probs = F.log_softmax(logits, -1)

    # Inverse transform sampling: the first token at which the cumulative mass exceeds a uniform
    # number. torch.multinomial does the same with a slower set-up.
    if isinstance(randomness, Tensor):
        uniform = randomness
    else:
        uniform = torch.rand(len(logits), device=logits.device, generator=randomness)
    mass = log_probs.exp().cumsum(-1)  # (batch, vocab)
    # The last entry is the total, near 1 but rounded. Scaled by it, every number finds a token.
    tokens = torch.searchsorted(mass, uniform[:, None] * mass[:, -1:], right=True)  # (batch, 1)
    tokens = tokens.clamp(max=logits.shape[-1] - 1)
    return tokens.squeeze(1), log_probs.gather(1, tokens).squeeze(1)


def _cut(logits: Tensor, options: SamplingOptions) -> Tensor:
    """Logits (batch, vocab), -inf for the tokens that top-k and then top-p exclude."""
    if options.top_k is not None and options.top_k < logits.shape[-1]:
        smallest_kept = logits.topk(options.top_k).values[:, -1:]  # (batch, 1)
        logits = logits.masked_fill(logits < smallest_kept, -torch.inf)
    if options.top_p is not None and options.top_p < 1:
        probs, order = logits.softmax(-1).sort(-1, descending=True)
        mass_before = probs.cumsum(-1) - probs  # of all likelier tokens
        beyond = mass_before >= options.top_p  # in sorted order
        excluded = torch.zeros_like(beyond).scatter(-1, order, beyond)  # in vocabulary order
        logits = logits.masked_fill(excluded, -torch.inf)
    return logits
