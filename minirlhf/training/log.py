"""What a training loop reports: rows of numbers, samples, and a progress bar in words.

A loop needs no run folder: without one the rows stay in memory, and nothing is kept to resume from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"


class Tables(Protocol):
    """Tables of rows by name: a run folder with its JSONL files, or `RowsInMemory`."""

    def read(self, name: str) -> list[dict]: ...

    def append(self, name: str, rows: Iterable[dict]) -> None: ...

    def rewrite(self, name: str, rows: Iterable[dict]) -> None: ...

    def keep(self, name: str, wanted: Callable[[dict], bool]) -> None: ...


class RowsInMemory:
    """Tables that end with the process."""

    def __init__(self) -> None:
        self.tables: dict[str, list[dict]] = {}

    def read(self, name: str) -> list[dict]:
        return list(self.tables.get(name, []))

    def append(self, name: str, rows: Iterable[dict]) -> None:
        self.tables.setdefault(name, []).extend(rows)

    def rewrite(self, name: str, rows: Iterable[dict]) -> None:
        self.tables[name] = list(rows)

    def keep(self, name: str, wanted: Callable[[dict], bool]) -> None:
        if name in self.tables:
            self.tables[name] = [row for row in self.tables[name] if wanted(row)]


class TrainLog:
    """The log of one stage. `tables` is a run folder, or nothing: then the rows stay in memory.

    `later_seconds`: about how long the stages after this one take; then the bar also shows the time
    left for all of them.

    In a loop:

        for step in log.steps(start, total):
            ...
            log.add(loss=loss)
            if (step + 1) % 10 == 0:
                log.write(step + 1)
    """

    def __init__(
        self,
        stage: str,
        tables: Tables | None = None,
        leave_bar: bool = True,
        later_seconds: float | None = None,
    ):
        self.stage, self.leave_bar, self.later_seconds = stage, leave_bar, later_seconds
        self.tables: Tables = RowsInMemory() if tables is None else tables
        self.rows: list[dict] = []  # of this stage, from its first step on
        self.losses: dict[str, list[Tensor]] = {}  # since the last row
        self.started = time.perf_counter()
        self.bar = tqdm(disable=True)  # until `steps` makes one
        self.first = self.total = 0  # steps of the loop at work
        self.loop_started = self.started

    @property
    def seconds(self) -> float:
        """Wall seconds of work on the stage, those before an interruption included."""
        return time.perf_counter() - self.started

    def state_dict(self) -> dict:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict) -> None:
        self.started = time.perf_counter() - state["seconds"]

    def steps(self, start: int, total: int, unit: str = "step") -> Iterator[int]:
        """The steps from `start` on, with a progress bar.

        Rows of later steps, which an interrupted run left, are dropped.
        """
        for name in (METRICS, SAMPLES):
            self.tables.keep(
                name, lambda row: row.get("stage") != self.stage or row["step"] <= start
            )
        self.rows = [row for row in self.tables.read(METRICS) if row.get("stage") == self.stage]
        self.first, self.total, self.loop_started = start, total, time.perf_counter()
        self.bar = tqdm(
            range(start, total),
            desc=self.stage,
            unit=unit,
            initial=start,
            total=total,
            leave=self.leave_bar,
        )
        with self.bar:
            yield from self.bar

    def add(self, **losses: Tensor) -> None:
        """Losses of one step, on any device: a row holds their means."""
        for name, loss in losses.items():
            self.losses.setdefault(name, []).append(loss.detach())

    def write(self, step: int, meaning: str = "", **numbers: object) -> dict:
        """Write a row of metrics, after `step` steps; return it.

        It holds the means of the losses since the last row, and `numbers`. `meaning` says the same
        in words, beside the progress bar; its {names} are those of the row.
        """
        row = {"stage": self.stage, "step": step, "seconds": round(self.seconds, 3)}
        for name, losses in self.losses.items():
            row[name] = torch.stack(losses).mean().item()  # the one wait for the device
        self.losses.clear()
        row |= numbers
        self.rows.append(row)
        self.tables.append(METRICS, [row])
        self.bar.set_postfix_str(meaning.format(**row) + self.time_left(step))
        return row

    def time_left(self, step: int) -> str:
        """In words, for this stage and those after it, once `step` steps are done."""
        done = step - self.first
        if self.later_seconds is None or done < 1:
            return ""
        remaining = (self.total - step) * (time.perf_counter() - self.loop_started) / done
        return f", whole job: {tqdm.format_interval(remaining + self.later_seconds)} left"

    def write_sample(self, step: int, **sample: object) -> None:
        """One text of the policy as it writes at this step."""
        row = {"stage": self.stage, "step": step, "when": f"step {step}", **sample}
        self.tables.append(SAMPLES, [row])


class Stateful(Protocol):
    """What a checkpoint can keep: its state as plain JSON, and back."""

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> None: ...


class CheckpointKeeper(Protocol):
    """What a loop asks of checkpoints: runs/checkpoints.py keeps them, `NoCheckpoints` does not."""

    def resume(
        self,
        modules: Mapping[str, nn.Module],
        optimizers: Iterable[torch.optim.Optimizer],
        states: Mapping[str, Stateful],
    ) -> int: ...

    def save(self, step: int) -> None: ...

    def maybe_save(self, step: int) -> None: ...


class NoCheckpoints:
    """Keeps nothing, for a loop that may start over. The one that resumes: runs/checkpoints.py."""

    def resume(
        self,
        modules: Mapping[str, nn.Module],
        optimizers: Iterable[torch.optim.Optimizer],
        states: Mapping[str, Stateful],
    ) -> int:
        return 0

    def save(self, step: int) -> None:
        pass

    def maybe_save(self, step: int) -> None:
        pass
