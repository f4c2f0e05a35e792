"""Random numbers as a function of (seed, stage, step).

No generator carries state from one step to the next. So a resumed run draws what the uninterrupted
one would have drawn, and a change in one stage leaves the random numbers of the others alone.
"""

from __future__ import annotations

import hashlib

import torch


def step_seed(seed: int, stage: str, step: int) -> int:
    """A seed for one step of one stage, the same on every machine."""
    digest = hashlib.sha256(f"{seed}/{stage}/{step}".encode()).digest()
    return int.from_bytes(digest[:7], "big")  # 56 bits: every generator accepts that many


def step_generator(
    seed: int, stage: str, step: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """The random numbers of one step: they depend on nothing but (seed, stage, step)."""
    return torch.Generator(device).manual_seed(step_seed(seed, stage, step))
