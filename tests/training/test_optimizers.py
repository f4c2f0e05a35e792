"""Muon: what its step is made of, and that it is torch.optim.Muon's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from minirlhf.config import OptimizerConfig
from minirlhf.system import devices
from minirlhf.training.optimizers import Muon, muon_and_adamw, orthogonalize


def matrices(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = (24, 8), (8, 24), (16, 16), (12, 1)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def train(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], steps: int) -> None:
    """Steps down a loss whose gradient changes with the weights and from step to step."""
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        loss = sum(
            ((weight - torch.randn(weight.shape, generator=generator)) ** 2).sum()
            for weight in weights
        )
        loss.backward()
        optimizer.step()


def test_the_same_steps_as_torch():
    ours, theirs = matrices(), matrices()
    settings = {"lr": 0.02, "weight_decay": 0.1}
    train(Muon(ours, **settings), ours, 12)
    train(torch.optim.Muon(theirs, **settings, momentum=0.95, nesterov=True), theirs, 12)
    start = matrices()
    for our, their, first in zip(ours, theirs, start):
        moved = (their - first).norm()
        # torch.optim.Muon rounds its products to bfloat16 (2^-9 each, 15 of them): ours may differ
        # by that and no more.
        assert (our - their).norm() < 0.03 * moved
        assert moved > 0.1


@pytest.mark.parametrize("shape", [(192, 768), (768, 192), (64, 64)])
def test_singular_values_are_near_one(shape):
    # Those of a random gradient reach from 1 to 1/100 of the largest: five iterations lift all of
    # them.
    generator = torch.Generator().manual_seed(1)
    u, _, v = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    values = torch.logspace(0, -2, min(shape))
    gradient = u @ torch.diag(values) @ v
    lifted = torch.linalg.svdvals(orthogonalize(gradient))
    assert lifted.max() < 1.25 and lifted.min() > 0.65
    # The directions stay: U V^T is what it aims at.
    assert torch.nn.functional.cosine_similarity(
        orthogonalize(gradient).flatten(), (u @ v).flatten(), dim=0
    ) > 0.97  # fmt: skip
    assert torch.linalg.svdvals(gradient / gradient.norm()).min() < 0.01


def test_a_tall_matrix_moves_as_its_shape_asks():
    tall, wide = nn.Parameter(torch.zeros(32, 8)), nn.Parameter(torch.zeros(8, 32))
    gradient = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    tall.grad, wide.grad = gradient, gradient.T.clone()
    Muon([tall, wide], lr=0.1).step()
    # sqrt(32 / 8) = 2 for the tall one, 1 for the wide one; the sign is down the gradient.
    assert torch.allclose(tall, 2 * wide.T, atol=1e-5)
    assert (tall * gradient).sum() < 0


def test_weight_decay_and_no_gradient():
    weight, still = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.zeros(4, 4)
    Muon([weight, still], lr=0.1, weight_decay=0.5).step()
    assert torch.allclose(weight, torch.full((4, 4), 0.95))
    assert torch.equal(still, torch.ones(4, 4))


def test_resumes_bit_for_bit():
    straight = matrices()
    train(Muon(straight, lr=0.02), straight, 6)
    halfway = matrices()
    first = Muon(halfway, lr=0.02)
    train(first, halfway, 3)
    again = [nn.Parameter(weight.detach().clone()) for weight in halfway]
    second = Muon(again, lr=0.02)
    second.load_state_dict(first.state_dict())
    for step in range(3, 6):
        generator = torch.Generator().manual_seed(step)
        second.zero_grad()
        sum(((w - torch.randn(w.shape, generator=generator)) ** 2).sum() for w in again).backward()
        second.step()
    for one, other in zip(straight, again):
        assert torch.equal(one, other)


def test_only_matrices():
    with pytest.raises(ValueError, match=r"expected matrices, found a parameter of shape \(3,\)"):
        Muon([nn.Parameter(torch.zeros(3))], lr=0.1)


def test_products_in_the_precision_of_the_device(monkeypatch):
    gradient = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    single = orthogonalize(gradient)
    monkeypatch.setitem(devices._chosen, "cpu", "bfloat16")
    rounded = orthogonalize(gradient)
    assert rounded.dtype == torch.float32
    assert 1e-4 < (single - rounded).abs().max() < 0.05


def test_muon_has_the_matrices_of_the_blocks():
    model = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(4, 8)]), "head": nn.Linear(4, 2)})
    muon, adamw = muon_and_adamw(
        model, OptimizerConfig(learning_rate=1e-3, muon_learning_rate=2e-2, weight_decay=0.1)
    )
    assert [tuple(p.shape) for p in muon.param_groups[0]["params"]] == [(8, 4)]
    assert len(adamw.param_groups[0]["params"]) == 3
