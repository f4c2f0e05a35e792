"""The worlds that the exact tests share: one with a tabular policy, one with a Transformer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from minirlhf import enumeration
from minirlhf.models.policy import Policy
from minirlhf.models.transformer import TransformerConfig


@dataclass(frozen=True)
class Case:
    """A world, the logits of its policy (states, vocab), and their derivative in the policy's
    parameters.
    """

    world: enumeration.World
    logits: Tensor
    jacobian: Tensor  # (states * vocab, parameters)
    parameters: list[Tensor]
    table: object  # () -> logits (states, vocab), differentiable in the parameters


def tabular(
    vocab: int = 3, max_length: int = 3, prompt_probs: tuple[float, ...] = (0.3, 0.7)
) -> Case:
    world = enumeration.build_world(vocab, max_length, prompt_probs)
    logits = enumeration.random_table(world, seed=0).requires_grad_()
    eye = torch.eye(logits.numel(), dtype=torch.float64)
    return Case(world, logits.detach(), eye, [logits], lambda: logits)


def real_policy(world: enumeration.World) -> Policy:
    """A tiny float64 Transformer, far from uniform. Its prompt x is the one token x."""
    torch.manual_seed(0)
    policy = Policy(TransformerConfig(world.vocab, context=8, width=4, layers=1, heads=2)).double()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return policy


def transformer() -> Case:
    world = enumeration.build_world(3, 3, (0.3, 0.7))
    policy = real_policy(world)
    parameters = list(policy.parameters())

    def next_logits(prompts: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        logits = policy(torch.cat([prompts[:, None], tokens], dim=1))  # (states, 1 + time, vocab)
        return logits[torch.arange(len(lengths)), lengths]

    def table() -> Tensor:
        return enumeration.policy_logits(world, next_logits)

    logits = table()
    rows = [
        torch.cat([g.flatten() for g in grads(value, parameters)]) for value in logits.flatten()
    ]
    return Case(world, logits.detach(), torch.stack(rows), parameters, table)


def grads(value: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters)]


CASES = {"tabular": tabular(), "transformer": transformer()}


def head(world: enumeration.World, seed: int = 1) -> Tensor:
    """An arbitrary reward head: a score in (0, 1) for every prefix, (states, vocab)."""
    return enumeration.random_table(world, seed, scale=1.5).sigmoid()
