"""A base: a pretrained model in its own folder that runs can start from.

The project ships one in data/base. The files of a base:

    config.json  tokenizer.json  weights.safetensors (bfloat16)  metrics.jsonl  README.md

`pretrain --export FOLDER` writes one. config.json holds the sizes, facts about the training and the
sha256 of the other files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from minirlhf.config import ModelConfig
from minirlhf.config_file import read_settings
from minirlhf.models.build import new_policy
from minirlhf.models.policy import Policy
from minirlhf.runs.folder import Run
from minirlhf.system.files import (
    atomic_write,
    load_tensors,
    read_json,
    read_jsonl,
    save_tensors,
    unreadable,
)
from minirlhf.system.weights import load_weights
from minirlhf.tasks.openings.knowledge import DATA
from minirlhf.tokenizer import Tokenizer

SHIPPED = DATA / "base"
FORMAT = "minirlhf-base"
HASHED = ("tokenizer.json", "weights.safetensors", "metrics.jsonl")
CURVE_POINTS = 80
# What the card says of a base: what it was trained on, and what it writes.
TRAINED_ON = {
    "openings": "texts composed by the project's own program from `topics.json`",
    "assistant": "conversations and openings composed by the project's own program from "
    "`assistant.json` and `topics.json`",
}
WRITES = {
    "openings": "It writes openings on the topics of the task `openings`, good and bad ones alike",
    "assistant": "It answers the questions of the task `assistant`, well and badly alike",
}


@dataclass(frozen=True)
class Base:
    """A base on disk whose files have been checked."""

    folder: Path
    model: ModelConfig
    facts: dict  # what it was trained on and how long, its losses, sha256 of its files

    @property
    def name(self) -> str:
        is_shipped = self.folder.parent == SHIPPED.parent
        return "the shipped base" if is_shipped else f"the base in {self.folder}"

    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.folder / "tokenizer.json")

    def policy(self) -> Policy:
        """The model, in float32 on the CPU.

        Raises ValueError if the weights do not fit config.json.
        """
        path, model = self.folder / "weights.safetensors", self.model
        policy = new_policy(model, self.tokenizer().vocab_size)
        load_weights(policy, load_tensors(path)[0], str(path))
        return policy

    def curve(self) -> list[dict]:
        """Its pretraining losses: rows as in a run's metrics.jsonl, but with stage "base"."""
        return read_jsonl(self.folder / "metrics.jsonl")


def read_base(folder: Path | None = None) -> Base:
    """The base in a folder, by default the shipped one.

    Raises ValueError, one line, if the folder holds no base, or if one of its files is missing or
    differs from the one that config.json describes.
    """
    folder = SHIPPED if folder is None else folder
    path = folder / "config.json"
    try:
        facts = read_json(path)
    except FileNotFoundError:
        raise ValueError(
            f"{folder}: expected a pretrained base (config.json and weights), found none"
        ) from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise ValueError(
            f"{path}: expected a base's settings (format {FORMAT!r}), found something else"
        )
    digests = facts.get("sha256")
    if not isinstance(digests, dict) or not set(HASHED) <= digests.keys():
        raise ValueError(f"{path}: sha256: expected one of each of {', '.join(HASHED)}")
    model = read_settings(ModelConfig, facts.get("model"), str(path), ("model",))
    if missing := {field.name for field in dataclasses.fields(model)} - facts["model"].keys():
        # A default in its place may load without a word and compute otherwise: heads, for example.
        raise ValueError(f"{path}: model: {min(missing)} is missing")
    for name in HASHED:
        try:
            found = sha256(folder / name)
        except FileNotFoundError:
            raise ValueError(
                f"{folder / name}: no such file, though the base's config.json names it"
            ) from None
        except OSError as error:
            raise unreadable(folder / name, error) from None
        if found != digests[name]:
            raise ValueError(
                f"{folder / name}: expected the file that config.json names "
                f"(sha256 {digests[name][:12]}...), found another or a damaged one"
            )
    return Base(folder, model, facts)


def export_base(run: Run, folder: Path, command: str) -> Base:
    """Write the pretrained model of a run as a base; return it, read back and checked.

    The weights are rounded to bfloat16. `command`, which made the run, is named in the base's
    README. The files are written beside `folder` and moved when all are there. Raises ValueError if
    the folder already holds something else.
    """
    check_export(folder)
    target = folder
    folder = target.with_name(f".{target.name}.new")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.load(run.path / "tokenizer.json")
    state = load_tensors(run.path / "pretrained.safetensors")[0]
    rounded = {name: tensor.to(torch.bfloat16) for name, tensor in state.items()}
    save_tensors(folder / "weights.safetensors", rounded, {})
    tokenizer.save(folder / "tokenizer.json")
    rows = [row for row in run.read("metrics.jsonl") if row["stage"] == "pretrain"]
    lines = [json.dumps(row | {"stage": "base"}) + "\n" for row in thinned(rows)]
    atomic_write(folder / "metrics.jsonl", "".join(lines))
    pretrain = run.config.pretrain
    facts = {
        "format": FORMAT,
        "model": dataclasses.asdict(run.config.model),
        "task": run.config.task,
        "seed": run.config.seed,
        "texts": pretrain.corpus_texts,
        "steps": pretrain.steps,
        "batch_size": pretrain.batch_size,
        "seconds": run.progress()["seconds"]["pretrain"],
        "loss_nats_per_token": rows[-1]["loss_nats_per_token"],
        "heldout_loss_nats_per_token": rows[-1]["heldout_loss_nats_per_token"],
        "parameters": sum(tensor.numel() for tensor in state.values()),
        "command": command,
        "torch": torch.__version__,
        "sha256": {name: sha256(folder / name) for name in HASHED},
    }
    atomic_write(folder / "config.json", json.dumps(facts, indent=1) + "\n")
    atomic_write(folder / "README.md", card(facts))
    read_base(folder)
    target.mkdir(exist_ok=True)
    # config.json is first: then the folder counts as a base, and --export may fill it again.
    for name in ("config.json", *HASHED, "README.md"):
        os.replace(folder / name, target / name)
    folder.rmdir()
    return read_base(target)


def thinned(rows: list[dict]) -> list[dict]:
    """About CURVE_POINTS rows, evenly spaced, and all rows with a held-out loss."""
    every = max(1, len(rows) // CURVE_POINTS)
    return [
        row
        for index, row in enumerate(rows, start=1)
        if index % every == 0 or "heldout_loss_nats_per_token" in row
    ]


def check_export(folder: Path) -> None:
    """Raise ValueError unless `folder` is new, empty, or holds a base that may be replaced."""
    if folder.is_dir() and any(folder.iterdir()):
        config = folder / "config.json"
        settings = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
        if FORMAT not in settings:
            raise ValueError(
                f"--export {folder}: expected a new or empty folder or a base, found other files"
            )
    elif folder.exists() and not folder.is_dir():
        raise ValueError(f"--export {folder}: expected a folder, found a file")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def card(facts: dict) -> str:
    """The base's README: what it is, what it was trained on, its losses, how to reproduce it."""
    model = facts["model"]
    task = facts["task"]
    trained_on = TRAINED_ON.get(task, f"texts of the task `{task}`")
    data = f"{facts['texts']:,} {trained_on} (seed {facts['seed']}); held-out topics are among them"
    training = f"{facts['steps']:,} steps of {facts['batch_size']} texts: next token"
    if task == "openings":
        training += ", and at first whether a text belongs to its topic"
    loss = (
        f"{facts['loss_nats_per_token']:.3f} in training, "
        f"{facts['heldout_loss_nats_per_token']:.3f} on held-out texts"
    )
    size = f"width {model['width']}, {model['layers']} layers"
    hashes = "\n".join(f"| `{name}` | `{digest}` |" for name, digest in facts["sha256"].items())
    return f"""# A pretrained base

A small causal language model with {facts["parameters"]:,} weights (bfloat16): {size},
{model["heads"]} heads, a context of {model["context"]} tokens, \
a byte-pair vocabulary of {model["vocab_size"]:,} tokens.
{WRITES.get(task, f"It writes texts of the task `{task}`")}: it has seen no score.

| | |
|---|---|
| data | {data} |
| training | {training} |
| time | {facts["seconds"]:,.0f} s |
| loss, nats per token | {loss} |
| PyTorch | {facts["torch"]} |

Made by:

    {facts["command"]}

The same command gives the same loss to .01 on another machine, not the same bits: \
processors add in another order.

| file | sha256 |
|---|---|
{hashes}
"""
