"""How long a run will take on this machine.

The number of operations of each stage, divided by the measured speed of a matrix product.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from minirlhf.config import Config
from minirlhf.system.devices import autocast
from minirlhf.training.rollout_log import SAMPLES

# Tokens of a typical opening: the text alone, and prompt and text with some padding.
TEXT_TOKENS, ROW_TOKENS = 30, 40
# Fraction of a bare matrix product's speed that training and sampling reach, measured on two cores
# with AVX2 (benchmarks/README.md describes the machine). Small operations take the rest of the
# time. Sampling multiplies smaller matrices, so it reaches less.
TRAINING_EFFICIENCY, SAMPLING_EFFICIENCY = 0.5, 0.16
# On a GPU, launching kernels takes most of the time, whatever the size: seconds per training step
# and per sampled token.
GPU_STEP, GPU_TOKEN = 0.012, 0.0005


@dataclass(frozen=True)
class Workload:
    """What decides how much a run computes, besides its settings: the task's data and raters."""

    raters: bool  # the policy's samples are rated
    demonstrations: bool = False
    rankings: bool = False  # answers are ranked, instead of rated
    judged: int = 4  # how often as many samples as `evaluate.samples` are judged


@dataclass(frozen=True)
class Work:
    """What a stage computes.

    `training` and `sampling` are operations (a multiplication and an addition count as two),
    `steps` training steps, `columns` positions sampled, each for a whole batch at once.
    """

    training: float = 0.0
    sampling: float = 0.0
    steps: int = 0
    columns: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.training + other.training,
            self.sampling + other.sampling,
            self.steps + other.steps,
            self.columns + other.columns,
        )


def training(config: Config, texts: int, steps: int, head: bool, passes: float = 3.0) -> Work:
    """`steps` steps on `texts` texts each.

    A forward pass counts as one of `passes`, a backward pass as two. `head`: the output layer is
    included.
    """
    model = config.model
    body = 24 * model.width**2 * model.layers * ROW_TOKENS
    output = 2 * model.width * model.vocab_size * TEXT_TOKENS if head else 0
    return Work(training=passes * steps * texts * (body + output), steps=steps)


def muon(config: Config, steps: int) -> Work:
    """Newton-Schulz iterations on the four matrices of each layer (280 width^3 per layer)."""
    return Work(training=steps * 280 * config.model.width**3 * config.model.layers)


def sampling(config: Config, texts: int, batch_size: int) -> Work:
    """Sampling `texts` texts, `batch_size` at a time."""
    model = config.model
    token = 24 * model.width**2 * model.layers + 2 * model.width * model.vocab_size
    batches = -(-texts // batch_size)
    return Work(
        sampling=texts * TEXT_TOKENS * token, columns=batches * config.finetune.max_new_tokens
    )


def work(config: Config, load: Workload) -> dict[str, Work]:
    """What each stage of a whole run computes."""
    pretrain, reward, tune = config.pretrain, config.reward, config.finetune
    matching = 1 + pretrain.match_share / 2 if pretrain.match_weight else 1.0
    first = training(config, round(pretrain.batch_size * matching), pretrain.steps, head=True)
    first += muon(config, pretrain.steps)

    sft = config.sft
    imitate = training(config, sft.batch_size, sft.steps, head=True) + muon(config, sft.steps)

    steps = reward.steps * reward.ensemble
    fit = training(config, reward.batch_size, steps, head=False) + muon(config, steps)
    rounds = tune.rounds if load.raters else 1
    if load.raters:
        fit += sampling(config, reward.own_texts, 128)
    if load.rankings:
        # Each prompt has two samples of the SFT model and one of the base.
        fit += sampling(config, 3 * (reward.ranked_prompts + reward.ranked_heldout), 128)

    loop = from_comparisons(config) if tune.algorithm == "dpo" else from_rollouts(config, rounds)

    texts = load.judged * config.evaluate.samples
    judge = training(config, 128, texts // 128, head=True, passes=2)
    judge += sampling(config, texts, 128)
    second = {"sft": imitate} if load.demonstrations else {}
    return {"pretrain": first, **second, "reward": fit, "finetune": loop, "evaluate": judge}


def from_rollouts(config: Config, rounds: int) -> Work:
    """Fine-tuning by policy gradient."""
    reward, tune = config.reward, config.finetune
    # The reference and the reward model make one forward pass over each sample. The update makes a
    # forward and a backward pass, `epochs` times where the algorithm has such a setting.
    learn = getattr(tune.of_algorithm, "epochs", 1)
    loop = training(config, tune.batch_size, tune.updates, head=True, passes=1 + 3 * learn)
    loop += training(config, tune.batch_size, tune.updates, head=False, passes=1)
    loop += sampling(config, tune.updates * tune.batch_size, tune.batch_size)
    refits = (rounds - 1) * tune.refit_steps
    loop += training(config, reward.batch_size // 2, refits, head=False) + muon(config, refits)
    return loop + sampling(config, (rounds - 1) * tune.ratings_per_round, tune.batch_size)


def from_comparisons(config: Config) -> Work:
    """Fine-tuning by DPO."""
    tune, dpo = config.finetune, config.finetune.dpo
    # The reference makes one forward pass over each answer, at most one per step that learns it.
    loop = training(config, 2 * dpo.batch_size, dpo.steps, head=True, passes=1 + 3)
    # Samples for the judge: one forward pass each of the reference and the reward model.
    judged = min(SAMPLES + 1, dpo.steps)
    loop += training(config, tune.batch_size, judged, head=True, passes=1)
    loop += training(config, tune.batch_size, judged, head=False, passes=1)
    return loop + sampling(config, judged * tune.batch_size, tune.batch_size)


def product_rate(device: torch.device) -> float:
    """Operations per second of a matrix product as large as those of training.

    Measured for a tenth of a second, in the run's precision.
    """
    size = 768 if device.type == "cpu" else 4096
    a = torch.ones(size, size, device=device)
    with autocast(device), torch.inference_mode():
        for _ in range(2):
            (a @ a).sum().item()
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < 0.1:
            (a @ a).sum().item()
            count += 1
    return 2 * size**3 * count / (time.perf_counter() - started)


def seconds(config: Config, device: torch.device, load: Workload) -> dict[str, float]:
    """Approximate seconds of each stage on this device."""
    rate = product_rate(device)
    estimates = {}
    for stage, part in work(config, load).items():
        took = part.training / (TRAINING_EFFICIENCY * rate)
        took += part.sampling / (SAMPLING_EFFICIENCY * rate)
        if device.type != "cpu":
            took += part.steps * GPU_STEP + part.columns * GPU_TOKEN
        estimates[stage] = took
    return estimates


def in_words(number: float) -> str:
    """A rough time: "20 s", "4 min", "2 h"."""
    if number < 90:
        return f"{max(1, round(number))} s"
    if number < 90 * 60:
        return f"{round(number / 60)} min"
    return f"{number / 3600:.1f} h"


def plan_lines(
    config: Config, load: Workload, expected: dict[str, float], stages: list[str]
) -> list[str]:
    """What a run will do: one line per stage with its expected time, then the total.

    expected: the seconds of each stage, from `seconds`.
    """
    tune, pretrain = config.finetune, config.pretrain
    rounds = f" in {tune.rounds} rounds" if load.raters and tune.rounds > 1 else ""
    rated = f"{config.reward.own_texts:,} samples are rated, then " if load.raters else ""
    if load.rankings:
        rated = f"answers to {config.reward.ranked_prompts:,} prompts are ranked, then "
    words = {
        "pretrain": f"from scratch, {pretrain.steps:,} steps",
        "sft": f"up to {config.sft.steps:,} steps on demonstrations",
        "reward": f"{rated}{config.reward.steps:,} steps",
        "finetune": f"{tune.updates} updates of {tune.batch_size} samples{rounds}",
        "evaluate": f"{load.judged} x {config.evaluate.samples} samples for the judge",
    }
    if tune.algorithm == "dpo":
        words["finetune"] = f"{tune.dpo.steps} steps of {tune.dpo.batch_size} comparisons (DPO)"
    if pretrain.start == "base":
        further = f" and trained {pretrain.steps:,} steps further" if pretrain.steps else ""
        words["pretrain"] = f"the pretrained base is loaded{further}"
    lines = [f"  {name:9s} {words[name]:58s} {in_words(expected[name]):>7s}" for name in stages]
    total = in_words(sum(expected[name] for name in stages))
    return [
        "Stages, and about how long they will take on this machine:",
        *lines,
        f"  together  {total:>66s}",
    ]
