"""Drawing one token from logits: temperature, top-k, top-p and the log-probability of what was drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def draw(
    logits: Tensor,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator | None,
    uniform: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One token for each row of logits (batch, vocab), and its log-probability: two tensors (batch,).

    `uniform` (batch,): the random numbers in [0, 1) to draw with, instead of the generator's next ones.
    """
    if temperature == 0:
        best = logits.argmax(-1)
        return best, torch.zeros_like(logits[:, 0])  # it had no choice: probability 1
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
    if top_p is not None and top_p < 1:
        ordered, order = logits.softmax(-1).sort(-1, descending=True)
        beyond = (
            ordered.cumsum(-1) - ordered >= top_p
        )  # the mass before this token already reaches top_p
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)
    log_probs = F.log_softmax(logits, -1)
    # Inverse transform sampling: one uniform number a row. torch.multinomial does the same with a slower set-up.
    mass = log_probs.exp().cumsum(-1)
    if uniform is None:
        uniform = torch.rand(len(logits), device=logits.device, generator=generator)
    tokens = torch.searchsorted(mass, uniform[:, None] * mass[:, -1:], right=True).clamp(
        max=logits.shape[-1] - 1
    )
    return tokens.squeeze(1), log_probs.gather(1, tokens).squeeze(1)


def check_sampling(
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    context: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    uniform: Tensor | None,
) -> None:
    """Raises ValueError if `Policy.sample` can not do what it is asked for."""
    if not prompts or any(len(prompt) == 0 for prompt in prompts):
        raise ValueError("prompts: expected at least one prompt, each of at least one token")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens: expected at least 1, found {max_new_tokens}")
    longest = max(len(prompt) for prompt in prompts)
    if longest + max_new_tokens > context:
        raise ValueError(
            f"max_new_tokens: prompt ({longest} tokens) and text ({max_new_tokens}) exceed context={context}"
        )
    if not temperature >= 0:  # also catches NaN
        raise ValueError(f"temperature: expected 0 or more, found {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k: expected at least 1, found {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p: expected a number in (0, 1], found {top_p}")
    if uniform is not None and uniform.shape != (len(prompts), max_new_tokens):
        raise ValueError(
            f"uniform: expected shape (batch, max_new_tokens) = {(len(prompts), max_new_tokens)}, "
            f"found {tuple(uniform.shape)}"
        )
