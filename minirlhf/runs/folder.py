"""The run folder: settings, metrics, and checkpoints that resume bit-exactly.

    config.json  tokenizer.json  pretrained.safetensors  reward.safetensors  policy.safetensors
    (with demonstrations) sft.safetensors
    (with rankings) rankings.jsonl
    metrics.jsonl  samples.jsonl  collected.jsonl  progress.json
    looks.jsonl  summary.json  report.html

Weights are safetensors, everything else is JSON: reading a run never executes code. While a stage
runs, its state is kept in checkpoint.safetensors (weights, the optimizer's moments and, in the
header, the step), which is replaced atomically. Random numbers are a function of (seed, stage,
step), so a resumed run draws the same ones as an uninterrupted run.

Stages that are done again work in the folder .redo until they have ended (redo.py). A command that
changes the run holds its lock (system/locks.py).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from torch import nn

from minirlhf.config import Config
from minirlhf.config_file import from_json, to_json
from minirlhf.models.soft_prompt import saved
from minirlhf.runs.checkpoints import Checkpoints
from minirlhf.runs.divergence import check_finite
from minirlhf.runs.products import CHECKPOINT, is_done, is_run
from minirlhf.runs.redo import REDO, SWAP, recover
from minirlhf.system import distributed
from minirlhf.system.devices import (
    DeviceName,
    available_devices,
    keep_freed_memory,
    peak_rss_mb,
    pick_device,
    use_precision,
)
from minirlhf.system.files import (
    append_jsonl,
    atomic_write,
    load_tensors,
    read_json,
    read_jsonl,
    save_tensors,
    write_jsonl,
)
from minirlhf.system.locks import LOCK, locked
from minirlhf.system.terminal import quoted
from minirlhf.system.weights import load_weights
from minirlhf.training.log import TrainLog

Model = TypeVar("Model", bound=nn.Module)


def run_path(runs: Path, name: str) -> Path:
    """The folder of the run of that name.

    Raises ValueError for a name that could lead to another place.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"run name {name!r}: expected letters, digits, '.', '_' and '-' only")
    return runs / name


def run_words(path: Path) -> str:
    """The options --run and --runs that select a run folder, quoted for a shell."""
    if path.name == REDO:
        path = path.parent
    words = ["--run", path.name]
    if path.parent != Path("runs"):
        folder = str(path.parent)
        # A name like -x would be taken for an option.
        words += ["--runs", f".{os.sep}{folder}" if folder.startswith("-") else folder]
    return quoted(*words)


def no_run(path: Path) -> ValueError:
    """The error for a folder that should hold a run."""
    make = f"python -m minirlhf demo {run_words(path)}"
    return ValueError(f"{path}: no run here (no config.json); make one: {make}")


def read_config(path: Path) -> Config:
    """The settings of the run in this folder.

    Raises ValueError if there is none or config.json is malformed.
    """
    file = path / "config.json"
    try:
        content = read_json(file)
    except FileNotFoundError:
        raise no_run(path) from None
    return from_json(content, str(file))


def finish_swap(path: Path) -> None:
    """Finish what a crash stopped in the middle of the exchange of old results for new ones."""
    if (path / REDO / SWAP).exists() and distributed.rank() == 0:
        with locked(path, "opens the run"):
            recover(path)


class Run:
    """A run folder. `device` is where its models live.

    Creating or opening one sets, for the whole process, the precision of matrix products and that
    freed memory is kept.
    """

    def __init__(self, path: Path, config: Config):
        self.path, self.config = path, config
        self.later_seconds: float | None = None  # expected for the stages after this one, if known
        self.device = pick_device(config.device)
        use_precision(config.precision, self.device)
        keep_freed_memory()

    @property
    def words(self) -> str:
        """The options that select this run, for a command line suggested to the user."""
        return run_words(self.path)

    @staticmethod
    def check_free(path: Path, overwrite: bool) -> None:
        """Raise ValueError if no new run may be made here.

        That is: a run exists and `overwrite` is False, or the folder holds something else.
        """
        if path.exists() and any(found.name != LOCK for found in path.iterdir()):
            if not is_run(path):
                raise ValueError(
                    f"{path}: expected a run folder or an empty one (no config.json in it)"
                )
            if not overwrite:
                raise ValueError(
                    f"{path}: a run is there already; continue with --resume or replace it with "
                    "--overwrite"
                )

    @classmethod
    def create(cls, path: Path, config: Config, resume: bool = False) -> Run:
        """A new run.

        With `resume` an existing run is opened with its own config. Raises ValueError if the folder
        holds a run and `resume` is not given, or if it holds anything else.
        """
        if resume and is_run(path):
            return cls.open(path)
        cls.check_free(path, overwrite=False)
        run = cls(path, config)
        try:
            path.mkdir(parents=True, exist_ok=True)
            atomic_write(path / "config.json", json.dumps(to_json(config), indent=1) + "\n")
        except OSError as error:
            raise ValueError(f"{path}: cannot be written: {error.strerror}") from None
        return run

    @classmethod
    def open(cls, path: Path, device: DeviceName | None = None) -> Run:
        """The run in this folder. Commands give the device that they were called with.

        Without `device` it is the one that the run was made on, if this machine has it. If a crash
        has stopped the exchange of old results for new ones (redo.py), that is finished first.
        Raises ValueError if there is no run or config.json is malformed.
        """
        finish_swap(path)
        config = read_config(path)
        if device is None:
            device = config.device if config.device in available_devices() else "auto"
        return cls(path, dataclasses.replace(config, device=device))

    def replace_config(self, config: Config) -> None:
        self.config = config
        atomic_write(self.path / "config.json", json.dumps(to_json(config), indent=1) + "\n")

    # One JSON object per line -----------------------------------------------------------------

    def append(self, name: str, rows: Iterable[dict]) -> None:
        append_jsonl(self.path / name, rows)

    def read(self, name: str) -> list[dict]:
        """The rows of a JSONL file of this run, as `read_jsonl`."""
        return read_jsonl(self.path / name)

    def rewrite(self, name: str, rows: Iterable[dict]) -> None:
        write_jsonl(self.path / name, rows)

    def keep(self, name: str, wanted: Callable[[dict], bool]) -> None:
        """Keep only the wanted rows of a JSONL file.

        An incomplete last line is dropped as well, so that the next row starts on a new line.
        """
        if (self.path / name).exists():
            self.rewrite(name, [row for row in self.read(name) if wanted(row)])

    def log(self, stage: str) -> TrainLog:
        """Where a stage's training loop writes: this run's metrics.jsonl and samples.jsonl."""
        return TrainLog(stage, self, later_seconds=self.later_seconds)

    def checkpoints(self, stage: str) -> Checkpoints:
        """Where a stage's training loop saves its state and loads it again."""
        return Checkpoints(self.path / CHECKPOINT, stage, self.config)

    # Progress and checkpoints -----------------------------------------------------------------

    def is_done(self, stage: str) -> bool:
        return is_done(self.path, stage)

    def progress(self) -> dict:
        """Seconds of each finished stage, peak memory, and facts passed on to later stages."""
        path = self.path / "progress.json"
        content = read_json(path) if path.exists() else {"seconds": {}}
        if not isinstance(content, dict) or not isinstance(content.get("seconds"), dict):
            raise ValueError(f"{path}: expected a JSON object with the seconds of each stage")
        return content

    def finish_stage(
        self, stage: str, seconds: float, models: dict[str, nn.Module], **facts: object
    ) -> None:
        """Write the facts, then the models, and delete the checkpoint last.

        The last model marks the stage as done, so a crash in between only repeats the end of the
        stage. Raises ValueError, and writes nothing, if a weight is NaN or infinite.
        """
        check_finite(models, stage, self.config)
        if distributed.rank() > 0:
            return
        progress = self.progress() | facts
        progress["seconds"][stage] = round(seconds, 2)
        if (peak := peak_rss_mb()) is not None:
            progress["peak_rss_mb"] = round(max(peak, progress.get("peak_rss_mb", 0)), 1)
        atomic_write(self.path / "progress.json", json.dumps(progress, indent=1) + "\n")
        for name, module in models.items():
            self.save_model(name, module)
        (self.path / CHECKPOINT).unlink(missing_ok=True)

    def save_model(self, name: str, module: nn.Module) -> None:
        save_tensors(self.path / name, *saved(module))

    def load_model(self, name: str, module: Model) -> Model:
        """Fill `module` from a weights file of this run and put it on the run's device."""
        load_weights(module, load_tensors(self.path / name)[0], str(self.path / name))
        return module.to(self.device)
