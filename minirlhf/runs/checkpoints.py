"""The checkpoint of the running stage: weights, optimizers, small state; --resume loads it.

Random numbers are a function of (seed, stage, step), so a resumed stage continues bit for bit as if
it had never stopped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from minirlhf.config import Config
from minirlhf.runs.divergence import check_finite
from minirlhf.system import distributed
from minirlhf.system.devices import precision_of
from minirlhf.system.files import load_tensors, save_tensors
from minirlhf.system.weights import load_weights, weights
from minirlhf.training.log import Stateful
from minirlhf.training.optimizers import load_optimizer

HEADER = {"stage", "step", "tensors", "states"}


class Checkpoints:
    """Saves the state of one stage every few seconds. Call `resume` first: it says what to save."""

    every_seconds = 10.0

    def __init__(self, path: Path, stage: str, config: Config | None = None):
        self.path, self.stage, self.config = path, stage, config or Config()
        self.saved = time.perf_counter()

    def resume(
        self,
        modules: Mapping[str, nn.Module],
        optimizers: Iterable[torch.optim.Optimizer],
        states: Mapping[str, Stateful],
    ) -> int:
        """Load this stage's checkpoint if there is one; return the number of steps done.

        `modules` and `optimizers` are saved in full. `states` are objects with a `state_dict` of
        plain JSON and a `load_state_dict`. Raises ValueError, one line, if the file is malformed
        or was written by an older version.
        """
        self.modules, self.optimizers, self.states = modules, list(optimizers), states
        if not self.path.exists():
            return 0
        tensors, header = load_tensors(self.path)
        if not isinstance(header, dict) or not HEADER <= header.keys():
            raise self.not_ours()
        if header["stage"] != self.stage:
            return 0
        if not states.keys() <= header["states"].keys():
            raise self.not_ours()
        for name, module in modules.items():
            load_weights(module, under(f"{name}/", tensors), f"{self.path}: {name}")
        if len(tensors) != header["tensors"]:
            raise ValueError(
                f"{self.path}: expected {header['tensors']} tensors, found {len(tensors)}"
            )
        for number, optimizer in enumerate(self.optimizers):
            load_optimizer(optimizer, tensors, f"optimizer{number}/", str(self.path))
        for name, state in states.items():
            state.load_state_dict(header["states"][name])
        if header.get("computed", self.computed) != self.computed and distributed.rank() == 0:
            print(
                f"note: {self.stage} was begun on {header['computed']} and goes on on "
                f"{self.computed}; its numbers will differ slightly from those of a run that was "
                "not interrupted",
                file=sys.stderr,
            )
        return header["step"]

    @property
    def computed(self) -> str:
        """The kind of device and the precision of its matrix products, in words."""
        device = next(next(iter(self.modules.values())).parameters()).device
        return f"{device.type} in {precision_of(device)}"

    def not_ours(self) -> ValueError:
        return ValueError(
            f"{self.path}: header: expected the stage, step, tensors and states of a checkpoint of "
            "this version; delete the file to begin the stage again"
        )

    def save(self, step: int) -> None:
        """Save now; `step` is the number of steps done.

        Raises ValueError, and keeps the last checkpoint, if a weight is NaN or infinite.
        """
        check_finite(self.modules, self.stage, self.config)
        tensors: dict[str, Tensor] = {}
        for name, module in self.modules.items():
            tensors |= {f"{name}/{key}": tensor for key, tensor in weights(module).items()}
        for number, optimizer in enumerate(self.optimizers):
            for index, moments in optimizer.state_dict()["state"].items():
                tensors |= {
                    f"optimizer{number}/{index}/{key}": tensor for key, tensor in moments.items()
                }
        header = {
            "stage": self.stage,
            "step": step,
            "computed": self.computed,
            "tensors": len(tensors),
            "states": {name: state.state_dict() for name, state in self.states.items()},
        }
        save_tensors(self.path, tensors, header)
        self.saved = time.perf_counter()

    def maybe_save(self, step: int) -> None:
        """Save if the last save was more than `every_seconds` ago."""
        if time.perf_counter() - self.saved > self.every_seconds:
            self.save(step)


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name starts with `prefix`, by the rest of their name."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
