"""How much of full tuning a few vectors before the prompt give (prompt tuning, 提示调优).

    python -m benchmarks.prompt_tuning --rows all-full all-20 --seeds 3 --json FILE
    python -m benchmarks.prompt_tuning --rows feedback-20 --seeds 1
    python -m benchmarks.prompt_tuning --rows all-20 all-full --base FOLDER --json OTHER_FILE

A row is KINDS-LENGTH or KINDS-LENGTH-START: from the base of the task `assistant`, by
demonstrations of all kinds, of translation (French and Chinese) or of French, "all-20" tunes 20
vectors on a frozen body, "all-20-random" the same from another start, "all-full" every weight.
"feedback-20" is a `demo` on `openings` whose body stays frozen.

Each row and seed is written to the file, and drawn beside it, as soon as it is measured; those that
the file has already are not repeated. So the benchmark can run in pieces. `--steps` and `--rate`
change how vectors are learned, and are part of a row's name in the file. With `--tuning` such
settings are chosen: on other demonstrations, other questions and other random numbers than those
that are reported.

Source: Lester, Al-Rfou and Constant 2021.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.assistant import call, summary_of
from benchmarks.demo import commit
from benchmarks.instruction_models import scores_of
from benchmarks.prompt_tuning_figure import plot, table
from minirlhf.config import Config, SFTSoftPromptConfig, preset
from minirlhf.feedback.demonstrations import split_demonstrations
from minirlhf.models.policy import Policy
from minirlhf.runs.base import Base, read_base
from minirlhf.stats import interval
from minirlhf.system.devices import pick_device, use_precision
from minirlhf.system.files import atomic_write, read_json
from minirlhf.tasks.assistant import compose
from minirlhf.tasks.assistant import task as assistant
from minirlhf.tasks.assistant.items import KINDS, TRANSLATION, Item
from minirlhf.tasks.openings.knowledge import DATA
from minirlhf.tasks.task import Task
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.batches import EncodedTexts, Split
from minirlhf.training.demonstrations import train_on_demonstrations
from minirlhf.training.tuning import policy_to_tune

# What is tuned on, and judged.
TUNED = {"all": KINDS, "translation": TRANSLATION, "french": ("french",)}
LENGTHS = (1, 5, 20, 60, 100)
STARTS = ("random", "vocabulary")  # beside "demonstration", the default
# In a context of 96, beside 64 tokens of text, there is room for fewer than 32 vectors.
FEEDBACK = ["feedback-full", *(f"feedback-{length}" for length in LENGTHS if length < 32)]
WHAT = [
    "full",
    *map(str, LENGTHS),
    *(f"{length}-{start}" for start, length in itertools.product(STARTS, LENGTHS)),
]
# Behind 100 vectors the base's context of 192 has no room for the longest conversations.
ROWS = [
    *(f"{kinds}-{what}" for kinds in TUNED for what in WHAT if f"{kinds}-{what[:3]}" != "all-100"),
    *FEEDBACK,
]
USUAL = [name for name in ROWS if name.count("-") == 1 or "-20-" in name]
STEPS, SAMPLES = 300, 510  # a multiple of the 17 kinds
QUICK_STEPS, QUICK_SAMPLES = 60, 102
UPDATES, QUICK_UPDATES = 60, 20
TUNING = 1000  # added to seeds to choose settings with
SPLITS = ("train", "heldout")


@dataclass(frozen=True)
class Conditions:
    """What all rows of one call have in common."""

    base: Base
    quick: bool = False
    tuning: bool = False
    steps: int | None = None  # None: the usual number
    rate: float | None = None  # of the vectors; None: the preset's

    def key(self, row: str) -> str:
        """The name of a row in the file."""
        parts = [row]
        if self.steps is not None:
            parts.append(f"{self.steps} steps")
        if self.rate is not None:
            parts.append(f"rate {self.rate:g}")
        return ", ".join(parts + ["tuning"] * self.tuning)

    def seed(self, seed: int) -> int:
        return seed + TUNING * self.tuning


def config_of(what: str, conditions: Conditions) -> Config:
    """The settings of one row by demonstrations: "full", or a number of vectors and their start."""
    config = preset("small", "assistant")
    steps = conditions.steps or (config.sft.steps if what == "full" else STEPS)
    if conditions.quick:
        steps = QUICK_STEPS
    sft = dataclasses.replace(config.sft, steps=steps, evaluate_every=steps)
    if what != "full":
        length, _, start = what.partition("-")
        prompt = SFTSoftPromptConfig(length=int(length), start=start or "demonstration")  # type: ignore[arg-type]
        if conditions.rate is not None:
            prompt = dataclasses.replace(prompt, learning_rate=conditions.rate)
        sft = dataclasses.replace(sft, tune="soft-prompt", soft_prompt=prompt)
    return dataclasses.replace(config, sft=sft)


def by_demonstrations(row: str, seed: int, conditions: Conditions, before: dict) -> dict[str, Any]:
    """Tune the base on demonstrations; the judge's mean before and after, and what it cost.

    `before`: the base's figures for these kinds and this seed; measured if it is empty.
    """
    named, _, what = row.partition("-")
    kinds, seed = TUNED[named], conditions.seed(seed)
    config, tokenizer = config_of(what, conditions), conditions.base.tokenizer()
    start = conditions.base.policy().to(pick_device("auto"))
    shown = compose.demonstrations(
        assistant.DEMONSTRATIONS, assistant.DATA_SEED + 2 + 100 * seed, kinds
    )
    pairs = [(one.item.conversation, one.answer) for one in shown]
    task = Task(name="assistant", demonstrations=pairs, judge=lambda *_: 0.0, judge_name="nobody")
    found = before or judged(start, tokenizer, kinds, seed, conditions, "before")

    policy = policy_to_tune(start, config.sft, task, tokenizer, seed)
    parts = split_demonstrations(task.demonstrations, config.sft.heldout_share, seed)
    context = policy.config.context
    texts = Split(*(EncodedTexts(tokenizer, part, context) for part in parts))
    began, busy = time.perf_counter(), time.process_time()
    train_on_demonstrations(policy, texts, config.sft, seed)
    found = found | {
        "seconds": time.perf_counter() - began,
        "processor seconds": time.process_time() - busy,  # the same, but for other jobs
        "parameters": sum(p.numel() for p in policy.parameters() if p.requires_grad),
        "steps": config.sft.steps,
    }
    return found | judged(policy, tokenizer, kinds, seed, conditions, "after")


def judged(
    policy: Policy,
    tokenizer: Tokenizer,
    kinds: tuple[str, ...],
    seed: int,
    conditions: Conditions,
    when: str,
) -> dict[str, Any]:
    """The judge's mean over sampled answers on each split, and its 95% interval over answers."""
    figures: dict[str, Any] = {}
    splits = SPLITS[:1] if conditions.tuning else SPLITS
    for split in splits:
        items = tuning_items(kinds) if conditions.tuning else items_of(split, kinds)
        if conditions.quick:
            items = items[:QUICK_SAMPLES]
        score = interval(scores_of(policy.eval(), tokenizer, items, seed, f"{split} {when}"))
        figures[f"{split} {when}"] = score["mean"]
        figures[f"{split} {when} 95%"] = [score["low"], score["high"]]
    return figures


def items_of(split: str, kinds: tuple[str, ...]) -> list[Item]:
    """The questions that reported figures are about."""
    return compose.prompts(SAMPLES, assistant.DATA_SEED + SPLITS.index(split), split, kinds)


def tuning_items(kinds: tuple[str, ...]) -> list[Item]:
    """Questions to choose settings by: of the training split, but none that is reported.

    Where there are more things to ask about than are reported on (clauses to translate), they are
    about other things.
    """
    reported = items_of("train", kinds)
    more = compose.prompts(4 * SAMPLES, assistant.DATA_SEED + TUNING, "train", kinds)
    for key in ("about", "conversation"):
        taken = {getattr(item, key) for item in reported}
        others = [item for item in more if getattr(item, key) not in taken]
        if len(others) >= SAMPLES // 2:
            return others[:SAMPLES]
    raise ValueError("tuning: expected other questions than those reported, found too few")


def by_feedback(row: str, seed: int, quick: bool, runs: Path) -> dict[str, Any]:
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
    found: dict[str, Any] = {"seconds": summary["seconds"]["finetune"]}
    for split in SPLITS:
        for when in ("before", "after"):
            found[f"{split} {when}"] = summary[split][f"judge_{when}"]["mean"]
    model = summary["config"]["model"]
    prompt = summary["config"]["finetune"]["soft_prompt"]["length"] * model["width"]
    whole = read_base(DATA / "base").facts["parameters"]
    found["parameters"] = whole if row == "feedback-full" else prompt
    return found


def known_before(rows: dict[str, dict[str, dict]], key: str, seed: int) -> dict[str, Any]:
    """The base's figures, if a row of the same kinds has them for this seed."""
    named, is_tuning = key.partition("-")[0], key.endswith("tuning")
    for other, seeds in rows.items():
        same = other.partition("-")[0] == named and other.endswith("tuning") == is_tuning
        found = seeds.get(str(seed), {})
        if same and "train before 95%" in found:
            return {name: value for name, value in found.items() if " before" in name}
    return {}


def facts_of(conditions: Conditions) -> dict[str, Any]:
    """What must be the same for all rows of a file."""
    base = conditions.base
    return {
        "quick": conditions.quick,
        "base": {"parameters": base.facts["parameters"], "steps": base.facts["steps"]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=USUAL, metavar="ROW")
    parser.add_argument("--quick", action="store_true", help="fewer steps and samples")
    parser.add_argument("--steps", type=int, help="of rows by demonstrations")
    parser.add_argument("--rate", type=float, help="of vectors, by demonstrations")
    parser.add_argument("--tuning", action="store_true", help="choose --steps and --rate")
    parser.add_argument("--base", type=Path, default=DATA / "base_assistant", metavar="FOLDER")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="of the rows by feedback")
    parser.add_argument("--json", type=Path, help="write the figures here; go on with what it has")
    arguments = parser.parse_args()
    use_precision("auto", pick_device("auto"))
    version = commit()
    conditions = Conditions(
        read_base(arguments.base),
        arguments.quick,
        arguments.tuning,
        arguments.steps,
        arguments.rate,
    )
    content = facts_of(conditions) | {"rows": {}}
    if arguments.json and arguments.json.exists():
        content = read_json(arguments.json)
        expected = facts_of(conditions)
        if {name: content.get(name) for name in expected} != expected:
            parser.error(f"--json {arguments.json}: expected figures of {expected}")
    rows: dict[str, dict[str, dict]] = content["rows"]
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    for seed, name in itertools.product(seeds, arguments.rows):
        key = name if name in FEEDBACK else conditions.key(name)
        if str(seed) in rows.get(key, {}):
            continue
        if name in FEEDBACK:
            found = by_feedback(name, seed, arguments.quick, arguments.runs)
        else:
            found = by_demonstrations(name, seed, conditions, known_before(rows, key, seed))
        rows.setdefault(key, {})[str(seed)] = found | {"commit": version}
        print(f"{key} seed {seed}: {found}", flush=True)
        if arguments.json:
            atomic_write(arguments.json, json.dumps(content, indent=1) + "\n")
            plot(rows, arguments.json.with_suffix(".png"))
    print(table(rows))


if __name__ == "__main__":
    main()
