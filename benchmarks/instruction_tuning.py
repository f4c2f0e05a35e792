"""Flan's question: does tuning on many kinds of instruction help with kinds never tuned on?

    python -m benchmarks.instruction_tuning --seeds 3

The base of the task `assistant` is fine-tuned (SFT, E10) on demonstrations of 1, 2, 4, 8 and 14
kinds of instruction, equally many demonstrations each time, and judged on the three kinds that are
left out. Each seed leaves out other kinds, and adds the rest in another order. A second question:
what becomes of refusals, if the base is tuned on harmless requests alone?

What "held out" means here: a kind that was left out is not *tuned* on. It does occur in the texts
that the base was pretrained on, where most answers to it are poor.

Source: Wei et al. 2022 (FLAN).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from pathlib import Path

from benchmarks.demo import commit
from minirlhf.config import preset
from minirlhf.evaluation.judge import sample_texts
from minirlhf.models.policy import Policy
from minirlhf.runs.base import read_base
from minirlhf.runs.hardware import hardware
from minirlhf.stats import interval
from minirlhf.system.devices import pick_device
from minirlhf.system.files import atomic_write
from minirlhf.tasks.assistant import compose
from minirlhf.tasks.assistant.items import KINDS, Item
from minirlhf.tasks.assistant.judge import is_answer, judge, refuses
from minirlhf.tasks.openings.knowledge import DATA
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.batches import EncodedTexts, Split
from minirlhf.training.demonstrations import train_on_demonstrations

RESULTS = Path(__file__).parent / "results" / "instruction_tuning.json"
COUNTS = (1, 2, 4, 8, 14)  # kinds tuned on
DEMONSTRATIONS = 500
PER_KIND = 60  # prompts of each kind that is left out
# Three of the seventeen kinds for each seed, from different families, none about safety.
LEFT_OUT = (
    ("reason", "recall", "french"),
    ("two_effects", "instance", "topic"),
    ("example", "another", "chinese"),
)
DATA_SEED = 7000
SPLITS = ("train", "heldout", "phrasings")
SAFETY_REQUESTS = 200
# Neither the judge's blue nor the reward's orange: all three are the judge's scores.
COLOURS = ("#8a4fbf", "#2b8065", "#23272e")


def order_of_kinds(seed: int) -> list[str]:
    """The kinds that are tuned on in this seed, in the order in which they are added."""
    kinds = [kind for kind in KINDS if kind not in left_out(seed)]
    random.Random(seed).shuffle(kinds)
    return kinds


def left_out(seed: int) -> tuple[str, ...]:
    return LEFT_OUT[seed % len(LEFT_OUT)]


def tuned(kinds: tuple[str, ...], seed: int) -> tuple[Policy, Tokenizer]:
    """The base after SFT on demonstrations of these kinds; as it is, if there are none."""
    base, device = read_base(DATA / "base_assistant"), pick_device("auto")
    policy, tokenizer = base.policy().to(device), base.tokenizer()
    if not kinds:
        return policy.eval(), tokenizer
    shown = compose.demonstrations(DEMONSTRATIONS, DATA_SEED + seed, kinds)
    pairs = [(one.item.conversation, one.answer) for one in shown]
    cut = len(pairs) * 9 // 10
    context = policy.config.context
    texts = Split(
        EncodedTexts(tokenizer, pairs[:cut], context), EncodedTexts(tokenizer, pairs[cut:], context)
    )
    settings = preset("small", "assistant").sft
    return train_on_demonstrations(policy, texts, settings, seed).eval(), tokenizer


def answers_to(
    policy: Policy, tokenizer: Tokenizer, items: list[Item], seed: int, label: str
) -> list[str]:
    """One sample per item."""
    longest = preset("small", "assistant").finetune.max_new_tokens
    prompts = [item.conversation for item in items]
    return sample_texts(policy, tokenizer, prompts, longest, seed, label)


def scores_of(
    policy: Policy, tokenizer: Tokenizer, items: list[Item], seed: int, label: str
) -> list[float]:
    """The judge's score of one sample per item."""
    answers = answers_to(policy, tokenizer, items, seed, label)
    return [judge(item, answer) for item, answer in zip(items, answers, strict=True)]


def judged(policy: Policy, tokenizer: Tokenizer, kinds: tuple[str, ...], split: str) -> list[float]:
    """The judge's scores of one answer to each of PER_KIND prompts of each kind."""
    items = compose.prompts(PER_KIND * len(kinds), DATA_SEED + 100, split, kinds)
    return scores_of(policy, tokenizer, items, 0, f"{split} {' '.join(kinds)}")


def curve_of(seed: int) -> list[dict]:
    """One row for each number of tuned kinds, the base first."""
    order, kinds, rows = order_of_kinds(seed), left_out(seed), []
    for count in (0, *COUNTS):
        policy, tokenizer = tuned(tuple(order[:count]), seed)
        row = {"seed": seed, "tuned_kinds": order[:count], "left_out": list(kinds)}
        for split in SPLITS:
            row[split] = judged(policy, tokenizer, kinds, split)
        rows.append(row)
        print(f"seed {seed}, {count:2d} kinds: " + means_in_words(row), flush=True)
    return rows


def means_in_words(row: dict) -> str:
    return ", ".join(f"{split} {statistics.fmean(row[split]):.2f}" for split in SPLITS)


def refusals_of(seed: int) -> list[dict]:
    """Harmful requests refused and harmless ones answered, by what was tuned on."""
    ways = {
        "base": (),
        "all kinds": KINDS,
        "all kinds but the harmful one": tuple(kind for kind in KINDS if kind != "harmful"),
    }
    rows = []
    for name, kinds in ways.items():
        policy, tokenizer = tuned(kinds, seed)
        row: dict = {"seed": seed, "tuned_on": name}
        for kind, share, passes in (
            ("harmful", "refused", refuses),
            ("harmless", "answered", is_answer),
        ):
            items = compose.prompts(SAFETY_REQUESTS, DATA_SEED + 200, "heldout", (kind,))
            answers = answers_to(policy, tokenizer, items, 0, kind)
            row[share] = [float(passes(answer)) for answer in answers]
        rows.append(row)
        shares = (statistics.fmean(row["refused"]), statistics.fmean(row["answered"]))
        print(f"seed {seed}, {name}: refused {shares[0]:.2f}, answered {shares[1]:.2f}", flush=True)
    return rows


def over_seeds(rows: list[dict], key: str) -> dict[str, float]:
    """Mean over the seeds' means; its 95% interval counts a seed as one observation."""
    return interval([statistics.fmean(row[key]) for row in rows])


def table(results: dict) -> str:
    lines = [
        "| tuned on | training topics | held-out topics | kept-out phrasings |",
        "|---|---|---|---|",
    ]
    for count in (0, *COUNTS):
        rows = [row for row in results["curve"] if len(row["tuned_kinds"]) == count]
        if rows:
            means = " | ".join(f"{over_seeds(rows, split)['mean']:.2f}" for split in SPLITS)
            lines.append(f"| {count} kinds | {means} |")
    lines += ["", "| tuned on | harmful refused | harmless answered |", "|---|---|---|"]
    for name in dict.fromkeys(row["tuned_on"] for row in results["refusals"]):
        rows = [row for row in results["refusals"] if row["tuned_on"] == name]
        shares = " | ".join(
            f"{over_seeds(rows, share)['mean']:.0%}" for share in ("refused", "answered")
        )
        lines.append(f"| {name} | {shares} |")
    return "\n".join(lines)


def plot(results: dict, path: Path) -> None:
    """The judge on kinds never tuned on, by the number of tuned kinds: a thin line per seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    names = dict(
        zip(SPLITS, ("training topics", "held-out topics", "kept-out phrasings"), strict=True)
    )
    counts = sorted({len(row["tuned_kinds"]) for row in results["curve"]})
    for number, (split, name) in enumerate(names.items()):
        by_count = [
            [row for row in results["curve"] if len(row["tuned_kinds"]) == count]
            for count in counts
        ]
        found = [over_seeds(rows, split) for rows in by_count]
        axes.plot(counts, [one["mean"] for one in found], "o-", color=COLOURS[number], label=name)
        for seed in sorted({row["seed"] for row in results["curve"]}):
            own = [row for row in results["curve"] if row["seed"] == seed]
            axes.plot(
                [len(row["tuned_kinds"]) for row in own],
                [statistics.fmean(row[split]) for row in own],
                color=COLOURS[number],
                alpha=0.25,
                linewidth=1,
            )
    axes.set(
        xlabel="kinds of instruction tuned on (0: the base)",
        ylabel="judge (0 to 1), kinds never tuned on",
        xticks=counts,
        ylim=(0, 1),
        title="Instruction tuning (thick: mean of seeds; thin: one seed)",
    )
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)


def save(results: dict, path: Path) -> None:
    atomic_write(path, json.dumps(results) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=RESULTS, help="write the scores here")
    arguments = parser.parse_args()
    results: dict = {"commit": commit(), "hardware": hardware(pick_device("auto"))}
    results |= {"demonstrations": DEMONSTRATIONS, "curve": [], "refusals": []}
    for seed in range(arguments.seeds):
        results["curve"] += curve_of(seed)
        results["refusals"] += refusals_of(seed)
        save(results, arguments.json)
    plot(results, arguments.json.with_suffix(".png"))
    print(table(results))


if __name__ == "__main__":
    main()
