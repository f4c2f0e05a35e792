"""A run is a folder, and this file keeps it whole: atomic writes, metrics, checkpoints that resume bit for bit.

    config.json  tokenizer.json  pretrained.safetensors  reward.safetensors  policy.safetensors
    metrics.jsonl  samples.jsonl  collected.jsonl  progress.json  summary.json  report.html

Weights are safetensors, all else is JSON: nothing here can run code when it is read. While a stage is at work its state lies in
checkpoint.safetensors (weights, Adam's moments and, in the header, the step), replaced in one move. Random numbers are a function
of (seed, stage, step), so a resumed run draws what the uninterrupted one would have drawn.
"""
from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import time
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from minirlhf import distributed
from minirlhf.config import Config, from_json, to_json

CHECKPOINT = "checkpoint.safetensors"


def atomic_write(path: Path, text: str) -> None:
    """Write text so that a reader finds either the old file or the whole new one. Of several processes only rank 0 writes."""
    if distributed.rank() > 0:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> object:
    """What a JSON file holds. Raises ValueError, one line, if it is malformed; FileNotFoundError is left to the caller."""
    def once(pairs: list[tuple[str, object]]) -> dict:
        content = dict(pairs)
        if len(content) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} more than once")
        return content

    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, found: {str(error)[:100]}") from None


def save_tensors(path: Path, tensors: dict[str, Tensor], header: dict) -> None:
    """Write tensors and a JSON header as one safetensors file, atomically. Of several processes only rank 0 writes."""
    if distributed.rank() > 0:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary,
                  metadata={"minirlhf": json.dumps(header)})
        os.replace(temporary, path)
    except SafetensorError as error:  # a full disk, for one
        raise OSError(None, str(error)[:100], str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read what `save_tensors` wrote. Raises ValueError, one line, if the file is missing, cut off or something else."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("minirlhf", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, header
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path}: expected a safetensors file, found: {str(error)[:100]}") from None


def weights(module: nn.Module) -> dict[str, Tensor]:
    """The module's state, a tensor that two names share (tied embeddings) only once."""
    seen: dict[int, str] = {}
    return {name: tensor for name, tensor in module.state_dict().items()
            if seen.setdefault(tensor.data_ptr(), name) == name}


def load_weights(module: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Fill the module. Raises ValueError naming `where` and the first weight that is missing, misshapen or not finite."""
    for name, tensor in weights(module).items():
        if name not in state:
            raise ValueError(f"{where}: weight {name} is missing")
        if state[name].shape != tensor.shape:
            raise ValueError(f"{where}: weight {name}: expected shape {tuple(tensor.shape)}, "
                             f"found {tuple(state[name].shape)}")
        if not state[name].isfinite().all():
            raise ValueError(f"{where}: weight {name}: expected finite numbers, found NaN or inf")
    module.load_state_dict(state, strict=False)


def step_seed(seed: int, stage: str, step: int) -> int:
    """A seed for one step of one stage, the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{stage}/{step}".encode()).digest()[:7], "big")


def step_generator(seed: int, stage: str, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The random numbers of one step: they depend on nothing but (seed, stage, step)."""
    return torch.Generator(device).manual_seed(step_seed(seed, stage, step))


def pick_device(name: str) -> torch.device:
    """ "auto" takes CUDA, then MPS, then the CPU. Raises ValueError if the device asked for is not there."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = "cuda" if available["cuda"] else "mps" if available["mps"] else "cpu"
    if not available[name]:
        raise ValueError(f"--device {name}: not available on this machine; use --device auto")
    return torch.device(name)


def autocast(device: torch.device):
    """bf16 matrix products on CUDA; full float32 elsewhere."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def adamw(module: nn.Module, learning_rate: float, weight_decay: float, betas=(0.9, 0.95)) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only (not on norms and biases)."""
    parameters = list(module.parameters())
    groups = [{"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
              {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0}]
    fused = parameters[0].device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=fused)


def peak_rss_mb() -> float | None:
    """The most memory this process has held, in MB; None where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if platform.system() == "Darwin" else 1e3)


def muon_and_adamw(
    module: nn.Module, learning_rate: float, muon_learning_rate: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """For learning from a fixed data set: Muon (Jordan et al. 2024) on the matrices of all blocks, AdamW on all else.

    Muon makes each step of a matrix orthogonal, so that all its directions learn at one pace. On this task it reaches the loss
    of AdamW with less than half of the texts.
    """
    matrices = [p for name, p in module.named_parameters() if "blocks." in name and p.dim() == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in module.parameters() if id(p) not in chosen]
    return [torch.optim.Muon(matrices, lr=muon_learning_rate, weight_decay=weight_decay),
            torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0,
                              fused=rest[0].device.type in ("cpu", "cuda"))]


def run_path(runs: Path, name: str) -> Path:
    """The folder of the run of that name. Raises ValueError for a name that could lead elsewhere."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"run name {name!r}: expected letters, digits, '.', '_' and '-' only")
    return runs / name


class Run:
    """A run folder. `device` is where its models live."""

    def __init__(self, path: Path, config: Config):
        self.path, self.config = path, config
        self.device = pick_device(config.device)

    @classmethod
    def create(cls, path: Path, config: Config, resume: bool = False, overwrite: bool = False) -> Run:
        """A new run; with `resume` an old one goes on under its own config, with `overwrite` it is emptied first.

        Raises ValueError if the folder holds a run and neither is given, or is not a run folder.
        """
        if resume and (path / "config.json").exists():
            return cls.open(path)
        if path.exists() and any(path.iterdir()):
            if not (path / "config.json").exists():
                raise ValueError(f"{path}: expected a run folder or an empty one (no config.json in it)")
            if not overwrite:
                raise ValueError(f"{path}: a run is there already; go on with --resume, or replace it with --overwrite")
            for file in path.iterdir():
                if file.is_file():
                    file.unlink()
        run = cls(path, config)
        try:
            path.mkdir(parents=True, exist_ok=True)
            atomic_write(path / "config.json", json.dumps(to_json(config), indent=1) + "\n")
        except OSError as error:
            raise ValueError(f"{path}: cannot be written: {error.strerror}") from None
        return run

    @classmethod
    def open(cls, path: Path) -> Run:
        """The run in this folder. Raises ValueError if there is none or its config.json is malformed."""
        file = path / "config.json"
        try:
            content = read_json(file)
        except FileNotFoundError:
            raise ValueError(f"{path}: no run here (no config.json)") from None
        return cls(path, from_json(content, str(file)))

    def replace_config(self, config: Config) -> None:
        self.config = config
        atomic_write(self.path / "config.json", json.dumps(to_json(config), indent=1) + "\n")

    def generator(self, stage: str, step: int, device: torch.device | str = "cpu") -> torch.Generator:
        return step_generator(self.config.seed, stage, step, device)

    # One JSON object a line --------------------------------------------------------------------------------------

    def append(self, name: str, rows: Iterable[dict]) -> None:
        if distributed.rank() > 0:
            return
        with open(self.path / name, "a", encoding="utf-8", newline="\n") as file:
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def read(self, name: str) -> list[dict]:
        """The rows of a JSONL file; a last line that an interruption cut off is dropped."""
        path, rows = self.path / name, []
        for line in path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []:
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
        return rows

    def rewrite(self, name: str, rows: Iterable[dict]) -> None:
        atomic_write(self.path / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    # Progress and checkpoints --------------------------------------------------------------------------------------

    def progress(self) -> dict:
        """Seconds of each finished stage, peak memory, and what stages want to pass on."""
        path = self.path / "progress.json"
        content = read_json(path) if path.exists() else {"seconds": {}}
        if not isinstance(content, dict) or not isinstance(content.get("seconds"), dict):
            raise ValueError(f"{path}: expected a JSON object with the seconds of each stage")
        return content

    def finish_stage(self, stage: str, seconds: float, **facts) -> None:
        if distributed.rank() > 0:
            return
        progress = self.progress() | facts
        progress["seconds"][stage] = round(seconds, 2)
        if (peak := peak_rss_mb()) is not None:
            progress["peak_rss_mb"] = round(max(peak, progress.get("peak_rss_mb", 0)), 1)
        atomic_write(self.path / "progress.json", json.dumps(progress, indent=1) + "\n")
        (self.path / CHECKPOINT).unlink(missing_ok=True)

    def save_model(self, name: str, module: nn.Module) -> None:
        save_tensors(self.path / name, weights(module), {})

    def load_model(self, name: str, module: nn.Module) -> nn.Module:
        """Fill `module` from a weights file of this run and put it on the run's device."""
        load_weights(module, load_tensors(self.path / name)[0], str(self.path / name))
        return module.to(self.device)


class Checkpoints:
    """State of the stage at work: saved every few seconds, loaded by --resume.

    `modules` and the optimizers are saved whole; `header` (JSON) is the stage's own small state.
    """

    every_seconds = 10.0

    def __init__(self, run: Run, stage: str, modules: dict[str, nn.Module], *optimizers: torch.optim.Optimizer):
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
                raise ValueError(f"{self.path}: header: expected the stage, step and seconds of a checkpoint")
            if found["stage"] == self.stage:
                header = found
                for key, module in self.modules.items():
                    part = {n.removeprefix(f"{key}/"): t for n, t in tensors.items() if n.startswith(f"{key}/")}
                    load_weights(module, part, f"{self.path}: {key}")
                if len(tensors) != found.get("tensors"):
                    raise ValueError(f"{self.path}: expected {found.get('tensors')} tensors, found {len(tensors)}")
                for index, optimizer in enumerate(self.optimizers):
                    load_optimizer(optimizer, tensors, f"optimizer{index}/", str(self.path))
                self.started -= header["seconds"]
        done = header["step"] if header else 0
        for name in ("metrics.jsonl", "samples.jsonl"):
            rows = self.run.read(name)
            kept = [row for row in rows if row.get("stage") != self.stage or row["step"] <= done]
            if len(kept) < len(rows) or (rows and not header):
                self.run.rewrite(name, kept)
        return header

    def save(self, step: int, **header) -> None:
        """Save now: `step` steps are done."""
        tensors = {f"{key}/{name}": tensor for key, module in self.modules.items()
                   for name, tensor in weights(module).items()}
        for number, optimizer in enumerate(self.optimizers):
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer{number}/{index}/{name}": value for name, value in state.items()}
        header |= {"stage": self.stage, "step": step, "seconds": self.seconds, "tensors": len(tensors)}
        save_tensors(self.path, tensors, header)
        self.saved = time.perf_counter()

    def maybe_save(self, step: int, **header) -> None:
        """Save if the last time is long ago."""
        if time.perf_counter() - self.saved > self.every_seconds:
            self.save(step, **header)


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], prefix: str, where: str) -> None:
    """Fill the optimizer's moments from tensors named PREFIX/index/name; its settings stay.

    Raises ValueError naming `where` and the first moment that is of another shape than its weight or not finite.
    """
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            index, key = name.removeprefix(prefix).split("/")
            wanted = parameters[int(index)].shape if tensor.dim() else tensor.shape  # a count of steps has no shape
            if tensor.shape != wanted or not tensor.isfinite().all():
                raise ValueError(f"{where}: {name}: expected finite numbers of shape {tuple(wanted)}, found "
                                 + (f"shape {tuple(tensor.shape)}" if tensor.shape != wanted else "NaN or inf"))
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
