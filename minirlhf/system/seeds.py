"""TODO"""

from __future__ import annotations

import hashlib

import torch


def step_seed(seed: int, stage: str, step: int) -> int:
    """A seed for one step of one stage, the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{stage}/{step}".encode()).digest()[:7], "big")


def step_generator(
    seed: int, stage: str, step: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """The random numbers of one step: they depend on nothing but (seed, stage, step)."""
    return torch.Generator(device).manual_seed(step_seed(seed, stage, step))
