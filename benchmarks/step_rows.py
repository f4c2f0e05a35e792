"""Every size of benchmarks/step.py in one run: one line per row, one picture.

    python -m benchmarks.step_rows --json benchmarks/results/step_rows_gpu.json \
        --plot benchmarks/results/step_rows_gpu.png       # a GPU: all sizes, nine minutes at most
    python -m benchmarks.step_rows --sizes small --threads 2 # a CPU
    python -m benchmarks.step_rows --no-peers                # without TRL and transformers

The file is written after each row. What would begin after --minutes is left out, with a line that
says so; a row that fails is one line, and the others follow. Rows of one size take turns within
seconds of each other. On a busy machine use --cpu-seconds with --threads 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.step import (
    H100_FLOPS,
    SHAPES,
    Ours,
    Shape,
    peak_memory,
    pretrain_step,
    product_rate,
    step_flops,
    take_turns,
    tuned_lengths,
)
from minirlhf.system.devices import keep_freed_memory, pick_device, precision_of, use_precision

# What the rows measure; ours (ms) and theirs (ms) where there is a peer.
UNITS = {
    "sampling": "ms per token",
    "step": "ms",
    "update": "% of an H100's rate",
    "memory": "GB at most",
    "products": "times its bare matrix products",
    "real lengths": "% of the tokens per second at full lengths",
    "TRL's RLOO": "times as fast",
    "TRL's GRPO": "times as fast",
    "generate": "times as fast",
    "GPT-2's pretraining": "times as fast",
}


@dataclass
class Rows:
    """The rows so far; each is printed and written to the file at once."""

    facts: dict
    path: Path | None
    deadline: float  # seconds of the wall clock
    rows: list[dict] = field(default_factory=list)

    def add(self, size: str, name: str, value: float, **details: float) -> None:
        self.rows.append({"size": size, "row": name, "value": value, **details})
        more = ", ".join(f"{key} {number:.4g}" for key, number in details.items())
        print(f"{size:6s} {name:20s} {value:8.3g} {UNITS[name]}  ({more})", flush=True)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(self.facts | {"rows": self.rows}, indent=1)
            self.path.write_text(text + "\n", encoding="utf-8")

    def attempt(self, size: str, what: str, measure: Callable[[], None]) -> None:
        """Measure unless the time is over; a failure ends this row only."""
        if time.monotonic() > self.deadline:
            print(f"{size:6s} {what}: left out, the time is over", flush=True)
            return
        try:
            measure()
        except (ImportError, RuntimeError, ValueError) as error:
            print(f"{size:6s} {what}: failed, {str(error).splitlines()[0][:100]}", flush=True)


def expected_memory(shape: Shape) -> float:
    """Bytes on a GPU by the table in benchmarks/README.md, section "larger models"."""
    width, layers, tokens = shape.width, shape.layers, shape.batch * (shape.prompt + shape.new)
    parameters = 12 * width**2 * layers + shape.vocab * width
    logits = 4 * shape.batch * shape.new * shape.vocab  # and their gradient, in bfloat16
    return 28 * parameters + (38 + 4) * width * layers * tokens + logits


def our_rows(rows: Rows, size: str, ours: Ours, repeats: int) -> None:
    """Our step alone, in turns with the same step at real lengths."""
    shape, flops = ours.shape, step_flops(ours.shape)
    short = Ours(shape, ours.device, tuned_lengths(shape))
    rates: list[float] = []
    for turn in range(repeats + 2):
        rates.append(product_rate(ours.device, ours.clock))
        for side in (ours, short)[:: 1 if turn % 2 else -1]:
            side.step()
    parts = {name: statistics.median(values[2:]) for name, values in ours.times.items()}
    milliseconds = {name: 1e3 * seconds for name, seconds in parts.items()}
    floor = sum(flops.values()) / statistics.median(rates)
    rows.add(size, "step", milliseconds["step"], **milliseconds)
    rows.add(size, "products", parts["step"] / floor, floor_ms=1e3 * floor)
    rows.add(size, "sampling", milliseconds["sample"] / shape.new, tokens=shape.new)
    if ours.device.type == "cuda":
        share = flops["update"] / parts["update"] / H100_FLOPS
        rows.add(size, "update", 100 * share, update_ms=milliseconds["update"])
        held = (peak_memory(ours.device) or 0) / 1e3
        rows.add(size, "memory", held, expected=expected_memory(shape) / 1e9)
    full_rate = ours.tokens / parts["step"]
    real_step = statistics.median(short.times["step"][2:])
    rows.add(
        size,
        "real lengths",
        100 * short.tokens / real_step / full_rate,
        mean_tokens=short.tokens / shape.batch,
        step_ms=1e3 * real_step,
        full_tokens_per_second=full_rate,
    )


def versus(rows: Rows, size: str, name: str, ours: float, theirs: float) -> None:
    rows.add(size, name, theirs / ours, ours_ms=1e3 * ours, theirs_ms=1e3 * theirs)


def trl_row(rows: Rows, size: str, ours: Ours, kind: str, repeats: int) -> None:
    from benchmarks import peers

    for values in ours.times.values():
        values.clear()
    theirs = peers.trl_steps(kind, ours, steps=repeats + 2)
    versus(
        rows,
        size,
        f"TRL's {kind.upper()}",
        statistics.median(ours.times["step"][2:]),
        statistics.median(theirs[2:]),
    )


def generate_row(rows: Rows, size: str, ours: Ours, repeats: int) -> None:
    from benchmarks import peers

    peer = peers.sampler(ours.shape, ours.prompts, ours.device)
    found = take_turns(repeats, ours.clock, ours=ours.sample, peer=peer)
    versus(rows, size, "generate", found["ours"], found["peer"])


def pretraining_row(rows: Rows, size: str, ours: Ours, repeats: int) -> None:
    from benchmarks import peers

    batch = torch.randint(ours.shape.vocab, (32, 64), device=ours.device)
    found = take_turns(
        repeats,
        ours.clock,
        ours=pretrain_step(ours.shape, batch),
        peer=peers.pretrainer(ours.shape, batch),
    )
    versus(rows, size, "GPT-2's pretraining", found["ours"], found["peer"])


def measure(rows: Rows, size: str, device: torch.device, repeats: int, with_peers: bool) -> None:
    ours = Ours(SHAPES[size], device)
    rows.attempt(size, "ours", lambda: our_rows(rows, size, ours, repeats))
    if not with_peers:
        return
    for kind in ("rloo", "grpo"):
        rows.attempt(size, kind, lambda kind=kind: trl_row(rows, size, ours, kind, repeats))
    rows.attempt(size, "generate", lambda: generate_row(rows, size, ours, repeats))
    rows.attempt(size, "pretraining", lambda: pretraining_row(rows, size, ours, repeats))


def draw(rows: list[dict], path: Path) -> None:
    """Left: the parts of our step. Right: how many times as fast as the peers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    steps = [row for row in rows if row["row"] == "step"]
    below = [0.0] * len(steps)
    for part in ("sample", "score", "update"):
        shares = [100 * row[part] / row["step"] for row in steps]
        left.bar([row["size"] for row in steps], shares, bottom=below, label=part)
        below = [low + share for low, share in zip(below, shares, strict=True)]
    left.set(ylabel="% of our step", title="our step")
    left.legend()
    compared = [row for row in rows if "theirs_ms" in row]
    names = [f"{row['size']}: {row['row']}" for row in compared]
    right.barh(names, [row["value"] for row in compared])
    right.axvline(1, color="black", linewidth=0.8)
    right.invert_yaxis()
    right.set(xlabel="times as fast as the peer", title="against other libraries")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SHAPES, help="(default: all that fit)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=8.0, help="begin no row after that")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("float32", "bfloat16"))
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--cpu-seconds", action="store_true", help="CPU time, not wall time")
    parser.add_argument("--no-peers", action="store_true", help="ours alone")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--plot", type=Path, help="draw the picture here")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    Ours.cpu_seconds = arguments.cpu_seconds
    device = pick_device(arguments.device)
    keep_freed_memory()
    if arguments.precision:
        use_precision(arguments.precision, device)
    on_gpu = device.type == "cuda"
    facts = {
        "device": torch.cuda.get_device_name() if on_gpu else platform.machine(),
        "precision": precision_of(device),
        "clock": "cpu" if arguments.cpu_seconds else "wall",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": None if os.name == "nt" else os.getloadavg()[0],  # how busy it was before
        "repeats": arguments.repeats,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
    }
    rows = Rows(facts, arguments.json, time.monotonic() + 60 * arguments.minutes)
    # The largest first: it is the one that a short run must not leave out.
    for size in arguments.sizes or (["gpt2", "large", "small"] if on_gpu else ["small"]):
        measure(rows, size, device, arguments.repeats, not arguments.no_peers)
    if arguments.plot:
        draw(rows.rows, arguments.plot)


if __name__ == "__main__":
    main()
