"""How long does one step take, part by part?

Compared with arithmetic, and with well-known libraries that do the same work.

    python -m pip install -e ".[bench]"
    python -m benchmarks.step --json benchmarks/results/step.json    # CPU: some minutes, or a GPU
    python -m benchmarks.step --size large --repeats 7               # wants a GPU
    python -m benchmarks.step --precision bfloat16                   # of products (CUDA: default)
    python -m benchmarks.step --threads 1 --cpu-seconds              # on a busy machine
    python -m benchmarks.step --steps 500                            # does our memory grow?
    python -m benchmarks.step_rows --help                            # every size, a line per row

Ours and the peers' (peers.py) take turns within one run, so that a busy machine slows both; all
figures are medians. The texts have no end token, so every text has its full length on all sides.
Random weights: speed does not depend on them. The floor is the step's floating-point operations at
the rate of a large matrix product, measured in the same minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from minirlhf.config import ReinforceConfig
from minirlhf.models.policy import Policy
from minirlhf.models.reward_model import RewardModel
from minirlhf.models.sampling import sample
from minirlhf.models.transformer import TransformerConfig
from minirlhf.system.devices import (
    autocast,
    keep_freed_memory,
    peak_rss_mb,
    pick_device,
    precision_of,
    use_precision,
)
from minirlhf.training import rollout as rollout_module
from minirlhf.training.algorithms.advantages import advantages
from minirlhf.training.algorithms.policy_gradient import policy_gradient_loss
from minirlhf.training.batches import Batch
from minirlhf.training.optimizers import adamw, gradient_step
from minirlhf.training.pretrain import language_model_loss
from minirlhf.training.rollout import Models, collect, join_rows

H100_FLOPS = 989e12  # dense bf16, by its data sheet


@dataclass(frozen=True)
class Shape:
    batch: int
    prompt: int
    new: int
    vocab: int
    width: int
    layers: int
    heads: int


SHAPES = {
    "small": Shape(64, 8, 48, 512, 128, 4, 4),
    "large": Shape(128, 32, 128, 8192, 512, 8, 8),
    "gpt2": Shape(64, 32, 128, 50304, 768, 12, 12),
}


class NoEnd:
    """Stands in for a tokenizer: its end token is never drawn."""

    end_id = -1

    def decode_text(self, ids: list[int]) -> str:
        return ""


class EarlyEnd(NoEnd):
    """Its end token is the first of the vocabulary, which a random number of 0 draws."""

    end_id = 0


def tuned_lengths(shape: Shape) -> Tensor:
    """Lengths (batch,) as the demo's tuned policy has them: 30.4 of 64 tokens, deviation 4.3."""
    scattered = torch.randn(shape.batch, generator=torch.Generator().manual_seed(0))
    lengths = shape.new * (30.4 + 4.3 * scattered) / 64
    return lengths.round().long().clamp(4, shape.new)


class Ours:
    """Our models at one shape, and the parts of a step.

    With `lengths` (batch,) text i ends at its token lengths[i] at the latest.
    """

    cpu_seconds = False

    def __init__(self, shape: Shape, device: torch.device, lengths: Tensor | None = None):
        torch.manual_seed(0)
        self.shape, self.device, self.count = shape, device, 0
        self.lengths, self.tokens = lengths, 0  # `tokens`: of the latest rollout
        self.policy = Policy(
            TransformerConfig(
                shape.vocab, shape.prompt + shape.new, shape.width, shape.layers, shape.heads
            )
        )
        self.policy.to(device)
        self.reference, self.reward_model = (
            self.policy.frozen_copy(),
            RewardModel.from_policy(self.policy),
        )
        torch.nn.init.normal_(self.reward_model.score.weight)  # rewards that differ
        self.optimizer = adamw(self.policy, 1e-4, weight_decay=0.0)
        self.prompts = torch.randint(shape.vocab, (shape.batch, shape.prompt)).tolist()
        self.times: dict[str, list[float]] = {"sample": [], "score": [], "update": [], "step": []}

    def clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.process_time() if self.cpu_seconds else time.perf_counter()

    def watched(self, sample: Callable) -> Callable:
        def run(*arguments, **keywords):
            if self.lengths is not None:
                uniform = arguments[-1]  # (batch, new)
                uniform[torch.arange(len(uniform)), self.lengths - 1] = 0
            started = self.clock()
            samples = sample(*arguments, **keywords)
            self.times["sample"].append(self.clock() - started)
            return samples

        return run

    def generator(self) -> torch.Generator:
        self.count += 1
        return torch.Generator(self.device).manual_seed(self.count)

    def sample(self) -> None:
        with autocast(self.device):
            samples = sample(
                self.policy,
                self.prompts,
                self.shape.new,
                NoEnd.end_id,
                randomness=self.generator(),
            )
        if not samples.mask.all() or samples.tokens.shape[1] != self.shape.new:
            raise RuntimeError("our sampling: expected full texts")

    def step(self) -> None:
        rollout_module.sample = self.watched(sample)  # `collect` tells sampling from scoring
        started = self.clock()
        rollout = collect(
            Models(
                self.policy,
                self.reference,
                self.reward_model,
                NoEnd() if self.lengths is None else EarlyEnd(),
            ),
            self.prompts,
            self.shape.new,
            self.generator(),
        )
        scored = self.clock()
        weights = advantages(rollout, ReinforceConfig(), kl_weight=0.03)
        loss, _ = policy_gradient_loss(self.policy, rollout, weights)
        gradient_step(loss, self.optimizer, [self.policy], clip=1.0)
        ended = self.clock()
        self.tokens = int(rollout.mask.sum())
        self.times["score"].append(scored - started - self.times["sample"][-1])
        self.times["update"].append(ended - scored)
        self.times["step"].append(ended - started)

    @torch.no_grad()
    def score(self, prompts: list[list[int]], texts: list[list[int]]) -> list[float]:
        """The reward model's scores, for the peers: the pass that `collect` makes for us."""
        rows, lengths = join_rows(prompts, texts, self.device)
        with autocast(self.device):
            return self.reward_model.prefix_scores(rows, lengths, len(texts[0]))[1][:, -1].tolist()


def forward_flops(shape: Shape, columns: int, head_columns: int) -> float:
    """Floating-point operations of one forward pass of the batch, attention counted as causal."""
    matrices = 2 * 12 * shape.width**2 * shape.layers * columns
    attention = 4 * shape.width * shape.layers * columns * (columns + 1) / 2
    return shape.batch * (matrices + attention + 2 * shape.width * shape.vocab * head_columns)


def step_flops(shape: Shape) -> dict[str, float]:
    """By part. The backward pass is two forward passes; the reward model has no output layer to
    speak of.
    """
    columns = shape.prompt + shape.new - 1
    forward = forward_flops(shape, columns, shape.new)
    return {
        "sample": forward,
        "score": forward + forward_flops(shape, columns + 1, 0),
        "update": 3 * forward,
    }


def product_rate(device: torch.device, clock: Callable[[], float]) -> float:
    """FLOP/s of a large matrix product in the precision that the steps have."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(2, size, size, device=device, dtype=getattr(torch, precision_of(device)))
    started = clock()
    for _ in range(4):
        a @ b
    return 4 * 2 * size**3 / (clock() - started)


def take_turns(
    repeats: int, clock: Callable[[], float], **parts: Callable[[], None]
) -> dict[str, float]:
    """Median seconds of each part; they run in turns, forwards and backwards, after one round to
    warm up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for turn in range(repeats + 1):
        for name in list(parts)[:: 1 if turn % 2 else -1]:
            started = clock()
            parts[name]()
            seconds[name].append(clock() - started)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def pretrain_step(shape: Shape, rows: Tensor) -> Callable[[], None]:
    """Our step of language modelling on whole rows, with AdamW as the peer has it."""
    policy = Policy(
        TransformerConfig(shape.vocab, rows.shape[1], shape.width, shape.layers, shape.heads)
    ).to(rows.device)
    optimizer = adamw(policy, 1e-3, weight_decay=0.0)
    ones = torch.ones(len(rows), dtype=torch.long, device=rows.device)
    batch = Batch(rows, ones, rows[:, 1:], torch.ones_like(rows[:, 1:], dtype=torch.bool), ones)

    def step() -> None:
        with autocast(rows.device):
            loss = language_model_loss(policy, batch)
        gradient_step(loss, optimizer, [policy], clip=1.0)

    return step


def prefix_scoring(ours: Ours, time: int = 48) -> tuple[Callable[[], None], Callable[[], None]]:
    """Scores of all prefixes: in one causal pass, and in one pass for each."""
    shape, model = ours.shape, ours.reward_model
    rows = torch.randint(shape.vocab, (shape.batch, shape.prompt + time), device=ours.device)
    lengths = torch.full((shape.batch,), shape.prompt, device=ours.device)

    @torch.no_grad()
    def one_pass() -> Tensor:
        return model.prefix_scores(rows, lengths, time)[1]

    @torch.no_grad()
    def many_passes() -> Tensor:
        return torch.stack(
            [model(rows[:, : shape.prompt + t])[:, -1] for t in range(1, time + 1)], 1
        )

    torch.testing.assert_close(one_pass(), many_passes(), atol=1e-4, rtol=0)
    return one_pass, many_passes


def sampling_growth(
    shape: Shape, device: torch.device, repeats: int
) -> tuple[dict[int, float], float]:
    """Seconds to sample T tokens for T = 32, 64, .. 512, and the exponent p of the line through
    them, seconds ~ T^p.
    """
    lengths = [32, 64, 128, 256, 512]
    makers = [
        Ours(Shape(shape.batch, shape.prompt, t, shape.vocab, 128, shape.layers, 4), device)
        for t in lengths
    ]
    seconds = take_turns(
        repeats,
        makers[0].clock,
        **{str(t): maker.sample for t, maker in zip(lengths, makers, strict=True)},
    )
    exponent = statistics.linear_regression(
        [math.log(t) for t in lengths], [math.log(seconds[str(t)]) for t in lengths]
    ).slope
    return {t: seconds[str(t)] for t in lengths}, exponent


def peak_memory(device: torch.device) -> float | None:
    """MB that this process has held at most: on the GPU since it was last asked, else of main
    memory since it started.
    """
    if device.type != "cuda":
        return peak_rss_mb()
    peak = torch.cuda.max_memory_allocated() / 1e6
    torch.cuda.reset_peak_memory_stats()
    return peak


def memory_over(ours: Ours, steps: int) -> None:
    for step in range(1, steps + 1):
        ours.step()
        if step % max(1, steps // 10) == 0:
            print(f"step {step:5d}: peak memory {peak_memory(ours.device):.1f} MB", flush=True)


def measure(shape: Shape, device: torch.device, repeats: int) -> dict:
    """Everything; the parts that need peers import them late, so that our own peak memory is ours
    alone.
    """
    ours, flops = Ours(shape, device), step_flops(shape)
    rates: list[float] = []

    def step_and_rate() -> None:
        rates.append(product_rate(device, ours.clock))
        ours.step()

    for _ in range(repeats + 2):
        step_and_rate()
    parts = {name: statistics.median(values[2:]) for name, values in ours.times.items()}
    rate = statistics.median(rates)
    result = {
        "parts_seconds": parts,
        "matrix_product_flops": rate,
        "floor_seconds": sum(flops.values()) / rate,
        "step_vs_floor": parts["step"] * rate / sum(flops.values()),
        "tokens_per_second": shape.batch * shape.new / parts["step"],
        "peak_memory_mb": {"ours": peak_memory(device)},
    }
    for name in ("sample", "score", "update"):
        floor = flops[name] / rate
        times = parts[name] / floor
        print(f"{name:8s} {1e3 * parts[name]:9.1f} ms   {times:4.2f} times its arithmetic")
    print(
        f"step     {1e3 * parts['step']:9.1f} ms   {result['step_vs_floor']:4.2f} times its "
        f"arithmetic at {rate / 1e9:.0f} GFLOP/s   {result['tokens_per_second']:.0f} new tokens/s",
        flush=True,
    )
    if device.type == "cuda":
        result["update_flops_utilisation"] = flops["update"] / parts["update"] / H100_FLOPS
        print(
            f"update: {result['update_flops_utilisation']:.1%} of an H100's "
            f"{H100_FLOPS / 1e12:.0f} TFLOP/s in bf16"
        )

    from benchmarks import peers

    found = take_turns(
        repeats, ours.clock, ours=ours.sample, peer=peers.sampler(shape, ours.prompts, device)
    )
    result["sample_vs_generate"] = found["peer"] / found["ours"]
    say("sampling against transformers' generate", found)
    result["peak_memory_mb"]["generate"] = peak_memory(device)
    for kind in ("rloo", "grpo"):
        for values in ours.times.values():
            values.clear()
        theirs = peers.trl_steps(kind, ours, steps=repeats + 2)
        found = {
            "ours": statistics.median(ours.times["step"][2:]),
            "peer": statistics.median(theirs[2:]),
        }
        result[f"step_vs_trl_{kind}"] = found["peer"] / found["ours"]
        say(f"step against TRL's {kind.upper()}", found)
        result["peak_memory_mb"][f"trl_{kind}"] = peak_memory(device)

    rows = torch.randint(shape.vocab, (32, 64), device=device)
    found = take_turns(
        repeats, ours.clock, ours=pretrain_step(shape, rows), peer=peers.pretrainer(shape, rows)
    )
    result["pretrain_vs_gpt2"] = found["peer"] / found["ours"]
    result["pretrain_tokens_per_second"] = rows.numel() / found["ours"]
    say("pretraining step against transformers' GPT-2", found)
    if shape is SHAPES["small"]:
        one_pass, many_passes = prefix_scoring(ours)
        found = take_turns(repeats, ours.clock, ours=one_pass, peer=many_passes)
        result["prefix_vs_passes"] = found["peer"] / found["ours"]
        say("scoring 48 prefixes: one pass against 48", found)
        seconds, exponent = sampling_growth(shape, device, repeats)
        result |= {"sampling_seconds": seconds, "sampling_growth_exponent": exponent}
        print(
            f"sampling T tokens grows as T^{exponent:.2f}: "
            + ", ".join(f"{t}: {1e3 * value:.0f} ms" for t, value in seconds.items())
        )
    print(
        "peak memory, MB (main memory: never falls within a run): "
        + ", ".join(f"{name} {value:.0f}" for name, value in result["peak_memory_mb"].items())
    )
    return result


def say(what: str, found: dict[str, float]) -> None:
    print(
        f"{what}: {1e3 * found['ours']:.1f} ms against {1e3 * found['peer']:.1f} ms, "
        f"{found['peer'] / found['ours']:.2f} times as fast",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SHAPES, default="small")
    parser.add_argument(
        "--repeats", type=int, default=9, help="measurements of each thing (the median counts)"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        help="(default: bfloat16 on CUDA, float32 elsewhere)",
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument(
        "--cpu-seconds",
        action="store_true",
        help="count CPU time instead of wall time; use with --threads 1",
    )
    parser.add_argument(
        "--steps",
        type=int,
        help="only run this many of our steps and show the peak memory on the way",
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    Ours.cpu_seconds = arguments.cpu_seconds
    device, shape = pick_device(arguments.device), SHAPES[arguments.size]
    keep_freed_memory()  # as every run does; the peers run in the same process and gain, too
    if arguments.precision:
        use_precision(arguments.precision, device)
    if arguments.steps:
        memory_over(Ours(shape, device), arguments.steps)
        return
    result = measure(shape, device, arguments.repeats)
    result |= {
        "size": arguments.size,
        "repeats": arguments.repeats,
        "torch": torch.__version__,
        "precision": precision_of(device),
        "clock": "cpu" if arguments.cpu_seconds else "wall",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
    }
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
