"""Log-probabilities over a large vocabulary, in pieces (E3).

    log p(y) = logits[y] - logsumexp(logits)          gradient: (1 at y, else 0) - softmax(logits)

PyTorch's log_softmax keeps a float32 copy of everything. At GPT-2's vocabulary (50,257) the logits
of 64 texts of 128 tokens are .8 GB in bfloat16; their float32 copies, the log-softmax and its
gradient are 1.6 GB each. Here only a piece of the rows is float32 at any time. What is kept for the
backward pass are the logits themselves and one number per token.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGE = 16_384  # tokens of a vocabulary from which on this pays
# Numbers in a piece: few enough for a CPU's cache; on a GPU enough that launching costs nothing.
PIECE = {"cpu": 2**20, "cuda": 2**26}


class LogProbsInPieces(torch.autograd.Function):
    """log p of the chosen token (tokens,) from logits (tokens, vocab); differentiable once."""

    @staticmethod
    def forward(ctx, logits: Tensor, chosen: Tensor) -> Tensor:
        exact = torch.promote_types(logits.dtype, torch.float32)
        totals = [part.to(exact).logsumexp(-1) for part in logits.split(rows_of(logits))]
        log_total = torch.cat(totals)  # (tokens,)
        ctx.save_for_backward(logits, chosen, log_total)
        return logits.gather(1, chosen[:, None]).squeeze(1).to(exact) - log_total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope: Tensor) -> tuple[Tensor, None]:
        logits, chosen, log_total = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        size = rows_of(logits)
        parts = zip(
            *(tensor.split(size) for tensor in (logits, chosen, log_total, slope, gradient)),
            strict=True,
        )
        for row, token, total, weight, result in parts:
            # The difference is float32, as `total` is: a new tensor that may be written over.
            found = (row - total[:, None]).exp_().mul_(-weight[:, None])  # -weight * softmax
            found.scatter_add_(1, token[:, None], weight[:, None])
            result.copy_(found)
        return gradient, None


def rows_of(logits: Tensor) -> int:
    """How many rows of logits (tokens, vocab) make a piece."""
    return max(1, PIECE.get(logits.device.type, 2**20) // logits.shape[-1])


def log_probs_in_pieces(logits: Tensor, chosen: Tensor) -> Tensor:
    """log p(y_t | x, y_<t) (tokens,), nats, of the tokens `chosen` (tokens,).

    logits: (tokens, vocab), of any floating dtype. The result is float32 (float64 for float64).
    """
    return LogProbsInPieces.apply(logits, chosen)
