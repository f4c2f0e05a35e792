"""How much of full tuning a few vectors before the prompt give (prompt tuning, 提示调优).

    python -m benchmarks.prompt_tuning --seeds 3 --json benchmarks/results/prompt_tuning.json
    python -m benchmarks.prompt_tuning --rows all-20 translation-20 --quick
    python -m benchmarks.prompt_tuning --rows feedback-20 --seeds 1

From the base of the task `assistant`, by demonstrations of all kinds, of translation (French and
Chinese) or of one language: "all-full" tunes every weight, "all-20" 20 vectors on a frozen body,
"all-20-random" the same from another start. "feedback-20" is a `demo` on
`openings` whose body stays frozen. Each row and seed is written to the file as soon as it is
measured; those that the file has already are not repeated.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.assistant import call, summary_of
from benchmarks.demo import commit
from benchmarks.instruction_tuning import scores_of
from minirlhf.config import Config, SFTSoftPromptConfig, preset
from minirlhf.feedback.demonstrations import split_demonstrations
from minirlhf.models.policy import Policy
from minirlhf.runs.base import read_base
from minirlhf.system.devices import pick_device, use_precision
from minirlhf.system.files import atomic_write, read_json
from minirlhf.tasks.assistant import compose
from minirlhf.tasks.assistant import task as assistant
from minirlhf.tasks.assistant.items import KINDS, TRANSLATION
from minirlhf.tasks.openings.knowledge import DATA
from minirlhf.tasks.task import Task
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.batches import EncodedTexts, Split
from minirlhf.training.demonstrations import train_on_demonstrations
from minirlhf.training.tuning import policy_to_tune

# What is tuned on, and judged.
TUNED = {"all": KINDS, "translation": TRANSLATION, "french": ("french",)}
LENGTHS = (1, 5, 20, 60)
STARTS = ("random", "vocabulary")  # beside "demonstration", the default
FEEDBACK = ["feedback-full", "feedback-20"]
SHOWN = [
    f"{kinds}-{what}"
    for kinds in TUNED
    for what in ("full", *map(str, LENGTHS), *(f"20-{start}" for start in STARTS))
]
ROWS = [*SHOWN, *FEEDBACK]
STEPS, SAMPLES = 300, 510  # a multiple of the 17 kinds
QUICK_STEPS, QUICK_SAMPLES = 60, 102
UPDATES, QUICK_UPDATES = 60, 20


def config_of(what: str, quick: bool) -> Config:
    """The settings of one row by demonstrations: "full", or a number of vectors and their start."""
    config = preset("small", "assistant")
    if what == "full":
        steps = QUICK_STEPS if quick else config.sft.steps
        sft = dataclasses.replace(config.sft, steps=steps)
    else:
        length, _, start = what.partition("-")
        prompt = SFTSoftPromptConfig(length=int(length), start=start or "demonstration")  # type: ignore[arg-type]
        steps = QUICK_STEPS if quick else STEPS
        sft = dataclasses.replace(
            config.sft, tune="soft-prompt", soft_prompt=prompt, steps=steps, evaluate_every=steps
        )
    return dataclasses.replace(config, sft=sft)


def by_demonstrations(row: str, seed: int, quick: bool) -> dict[str, float]:
    """Tune the base on demonstrations; the judge's mean before and after, and what it cost."""
    named, _, what = row.partition("-")
    kinds = TUNED[named]
    config = config_of(what, quick)
    base = read_base(DATA / "base_assistant")
    tokenizer = base.tokenizer()
    start = base.policy().to(pick_device("auto"))
    shown = compose.demonstrations(
        assistant.DEMONSTRATIONS, assistant.DATA_SEED + 2 + 100 * seed, kinds
    )
    task = task_of([(one.item.conversation, one.answer) for one in shown])
    found = judged(start, tokenizer, kinds, seed, quick, "before")

    policy = policy_to_tune(start, config.sft, task, tokenizer, seed)
    parts = split_demonstrations(task.demonstrations, config.sft.heldout_share, seed)
    context = policy.config.context
    texts = Split(*(EncodedTexts(tokenizer, part, context) for part in parts))
    began = time.perf_counter()
    train_on_demonstrations(policy, texts, config.sft, seed)
    found["seconds"] = time.perf_counter() - began
    found["parameters"] = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    return found | judged(policy, tokenizer, kinds, seed, quick, "after")


def task_of(demonstrations: list) -> Task:
    """A task that has demonstrations, and nothing else that is asked for."""
    return Task(
        name="assistant",
        train_prompts=[],
        heldout_prompts=[],
        corpus=[],
        corpus_heldout=[],
        feedback=[],
        handwritten=[],
        judge=lambda prompt, text: 0.0,
        judge_name="",
        demonstrations=demonstrations,
    )


def judged(
    policy: Policy, tokenizer: Tokenizer, kinds: tuple[str, ...], seed: int, quick: bool, when: str
) -> dict[str, float]:
    """The judge's mean over sampled answers, on training and on held-out topics."""
    means = {}
    for place, split in enumerate(("train", "heldout")):
        count = QUICK_SAMPLES if quick else SAMPLES
        items = compose.prompts(count, assistant.DATA_SEED + place, split, kinds)
        scores = scores_of(policy.eval(), tokenizer, items, seed, f"{split} {when}")
        means[f"{split} {when}"] = statistics.fmean(scores)
    return means


def by_feedback(row: str, seed: int, quick: bool, runs: Path) -> dict[str, float]:
    """A demo on `openings` from the shipped base; the judge before and after feedback."""
    run = runs / f"{row}-{seed}"
    options = ["--seed", str(seed), "--overwrite"]
    if row != "feedback-full":
        length, updates = row.removeprefix("feedback-"), QUICK_UPDATES if quick else UPDATES
        options += ["--finetune.tune", "soft-prompt", "--finetune.soft-prompt.length", length]
        options += ["--finetune.updates", str(updates)]
    if quick:
        options += ["--reward.own-texts", "500", "--evaluate.samples", "256"]
    call("demo", run, options)
    summary = summary_of(run)
    found: dict[str, float] = {"seconds": summary["seconds"]["finetune"]}
    for split in ("train", "heldout"):
        for when in ("before", "after"):
            found[f"{split} {when}"] = summary[split][f"judge_{when}"]["mean"]
    model = summary["config"]["model"]
    prompt = summary["config"]["finetune"]["soft_prompt"]["length"] * model["width"]
    whole = read_base(DATA / "base").facts["parameters"]
    found["parameters"] = whole if row == "feedback-full" else prompt
    return found


def show(rows: dict[str, Any]) -> None:
    """A table of the means over seeds, with the share of what full tuning gains."""
    means = {}
    for name, seeds in rows.items():
        found = list(seeds.values())
        means[name] = {key: statistics.fmean(one[key] for one in found) for key in found[0]}
    print(f"{'row':24s} seeds parameters seconds  train before/after  heldout before/after  share")
    for name, mean in means.items():
        full = means.get(f"{name.partition('-')[0]}-full")
        share = ""
        if full is not None:
            gains = [one["train after"] - one["train before"] for one in (mean, full)]
            share = f"{gains[0] / gains[1]:.2f}"
        print(
            f"{name:24s} {len(rows[name]):5d} {mean['parameters']:10,.0f} {mean['seconds']:7.0f}"
            f"  {mean['train before']:12.3f}/{mean['train after']:.3f}"
            f"  {mean['heldout before']:14.3f}/{mean['heldout after']:.3f}  {share:>5s}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=ROWS, metavar="ROW")
    parser.add_argument("--quick", action="store_true", help="fewer steps and samples")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="of the rows by feedback")
    parser.add_argument("--json", type=Path, help="write the figures here; go on with what it has")
    arguments = parser.parse_args()
    use_precision("auto", pick_device("auto"))
    rows: dict[str, dict[str, dict]] = {}
    if arguments.json and arguments.json.exists():
        content = read_json(arguments.json)
        if not isinstance(content, dict) or content.get("quick") != arguments.quick:
            parser.error(f"--json {arguments.json}: expected figures with the same --quick")
        rows = content["rows"]
    for seed in range(arguments.seeds):
        for name in arguments.rows:
            if str(seed) in rows.get(name, {}):
                continue
            if name in FEEDBACK:
                found = by_feedback(name, seed, arguments.quick, arguments.runs)
            else:
                found = by_demonstrations(name, seed, arguments.quick)
            rows.setdefault(name, {})[str(seed)] = found
            if arguments.json:
                content = {"commit": commit(), "quick": arguments.quick, "rows": rows}
                atomic_write(arguments.json, json.dumps(content, indent=1) + "\n")
            print(f"{name} seed {seed}: {found}", flush=True)
    show(rows)


if __name__ == "__main__":
    main()
