"""Log-probabilities in pieces: the values and gradients of log_softmax, and no float32 copy of all
logits."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from minirlhf import equations
from minirlhf.models import large_vocabulary, policy
from minirlhf.models.large_vocabulary import log_probs_in_pieces
from minirlhf.models.policy import masked_log_probs

TOKENS, VOCAB = 23, 50


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(large_vocabulary, "PIECE", {"cpu": 5 * VOCAB})  # 5 rows, and 3 at last


def some(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (tokens, vocab) of which some are large, and a token each."""
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(TOKENS, VOCAB, generator=generator, dtype=torch.float64)
    return logits.to(dtype).requires_grad_(), torch.randint(VOCAB, (TOKENS,), generator=generator)


def test_its_gradient_is_that_of_its_values():
    logits, chosen = some(torch.float64)
    assert torch.autograd.gradcheck(lambda logits: log_probs_in_pieces(logits, chosen), logits)


@pytest.mark.parametrize("dtype, digits", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_values_and_gradients_of_log_softmax(dtype, digits):
    logits, chosen = some(dtype)
    weights = torch.linspace(-1, 2, TOKENS)
    ours = log_probs_in_pieces(logits, chosen)
    theirs = equations.token_log_probs(logits.float()[None], chosen[None])[0]
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-6)  # both are exact in float32
    assert ours.dtype == torch.float32

    gradients = [torch.autograd.grad(found @ weights, logits)[0] for found in (ours, theirs)]
    assert gradients[0].dtype == dtype
    torch.testing.assert_close(*gradients, atol=digits * 0.1, rtol=digits)
    assert logits.equal(some(dtype)[0])  # they are not written over


class LargestFloat32(TorchDispatchMode):
    """How many numbers the largest float32 tensor that any operation makes has."""

    numbers = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        if isinstance(result, torch.Tensor) and result.dtype == torch.float32:
            self.numbers = max(self.numbers, result.numel())
        return result


def test_only_a_piece_is_float32_at_any_time(monkeypatch):
    logits, chosen = some(torch.bfloat16)
    mask = torch.ones(1, TOKENS, dtype=torch.bool)
    found = []
    for large in (VOCAB + 1, VOCAB):  # not large, large
        monkeypatch.setattr(policy, "LARGE", large)
        with LargestFloat32() as seen:
            log_probs = masked_log_probs(logits, chosen[None], mask)  # (1, tokens)
            log_probs.sum().backward()
        found.append(log_probs.detach())
        assert seen.numbers == (5 * VOCAB if large == VOCAB else TOKENS * VOCAB)
    torch.testing.assert_close(found[1], found[0], atol=2e-6, rtol=1e-6)
