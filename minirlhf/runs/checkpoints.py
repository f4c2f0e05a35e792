"""TODO"""

from __future__ import annotations

import time

import torch
from torch import nn

from minirlhf.runs.folder import CHECKPOINT, Run
from minirlhf.system.files import load_tensors, save_tensors
from minirlhf.system.weights import load_weights, weights
from minirlhf.training.optimizers import load_optimizer


class Checkpoints:
    """State of the stage at work: saved every few seconds, loaded by --resume.

    `modules` and the optimizers are saved whole; `header` (JSON) is the stage's own small state.
    """

    every_seconds = 10.0

    def __init__(
        self,
        run: Run,
        stage: str,
        modules: dict[str, nn.Module],
        *optimizers: torch.optim.Optimizer,
    ):
        self.run, self.stage, self.modules, self.optimizers = run, stage, modules, optimizers
        self.path = run.path / CHECKPOINT
        self.started = self.saved = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Wall seconds that the stage has worked, those before an interruption included."""
        return time.perf_counter() - self.started

    def resume(self) -> dict | None:
        """Load the checkpoint of this stage, if there is one; return its header. Forgets metrics of later steps."""
        header = None
        if self.path.exists():
            tensors, found = load_tensors(self.path)
            if not isinstance(found, dict) or not {"stage", "step", "seconds"} <= found.keys():
                raise ValueError(
                    f"{self.path}: header: expected the stage, step and seconds of a checkpoint"
                )
            if found["stage"] == self.stage:
                header = found
                for key, module in self.modules.items():
                    part = {
                        n.removeprefix(f"{key}/"): t
                        for n, t in tensors.items()
                        if n.startswith(f"{key}/")
                    }
                    load_weights(module, part, f"{self.path}: {key}")
                if len(tensors) != found.get("tensors"):
                    raise ValueError(
                        f"{self.path}: expected {found.get('tensors')} tensors, found {len(tensors)}"
                    )
                for index, optimizer in enumerate(self.optimizers):
                    load_optimizer(optimizer, tensors, f"optimizer{index}/", str(self.path))
                self.started -= header["seconds"]
        done = header["step"] if header else 0
        for name in ("metrics.jsonl", "samples.jsonl"):
            rows = self.run.read(name)
            kept = [row for row in rows if row.get("stage") != self.stage or row["step"] <= done]
            if (self.run.path / name).exists():
                self.run.rewrite(
                    name, kept
                )  # half a last line goes, too: the next row would be glued to it
        return header

    def save(self, step: int, **header) -> None:
        """Save now: `step` steps are done."""
        tensors = {
            f"{key}/{name}": tensor
            for key, module in self.modules.items()
            for name, tensor in weights(module).items()
        }
        for number, optimizer in enumerate(self.optimizers):
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {
                    f"optimizer{number}/{index}/{name}": value for name, value in state.items()
                }
        header |= {
            "stage": self.stage,
            "step": step,
            "seconds": self.seconds,
            "tensors": len(tensors),
        }
        save_tensors(self.path, tensors, header)
        self.saved = time.perf_counter()

    def maybe_save(self, step: int, **header) -> None:
        """Save if the last time is long ago."""
        if time.perf_counter() - self.saved > self.every_seconds:
            self.save(step, **header)
