"""Flan's question: does tuning on many kinds of instruction help with kinds never tuned on?

    python -m benchmarks.instruction_tuning --seeds 3
    python -m benchmarks.instruction_tuning --seeds 1 --parts phrasings families
    python -m benchmarks.instruction_tuning --parts curve --base FOLDER --json OTHER_FILE

The base of the task `assistant` is fine-tuned (SFT, E10), always on equally many demonstrations.

curve       tuned on 1, 2, 4, 8 and 14 kinds, judged on the three kinds that are left out; each seed
            leaves out other kinds, and adds the rest in another order
families    tuned on all but one family of related kinds, judged on that family; the base, too; with
            and without in-context examples, of the same kind or of kinds of other families
phrasings   tuned on all kinds, in 1, 2, 4 or all phrasings of each, judged on all kinds
refusals    what becomes of refusals, if the base is tuned on harmless requests alone?

What "held out" means here: a kind or family that was left out is not *tuned* on. It does occur in
the texts that the base was pretrained on, where most answers to it are poor. Of the phrasings kept
from tuning, two of three per kind occur in pretraining, one in no text at all.

Each model's scores are written to the file as soon as they are measured; those that the file has
already are not repeated. So the benchmark can run in pieces.

Source: Wei et al. 2022 (FLAN).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.demo import commit
from benchmarks.instruction_figure import COUNTS, plot, plot_families, table
from benchmarks.instruction_models import (
    DATA_SEED,
    DEMONSTRATIONS,
    PER_KIND,
    SPLITS,
    answers_to,
    judged,
    scores_of,
    tuned,
    tuned_on,
)
from benchmarks.instruction_prompts import (
    EXAMPLES,
    FAMILIES,
    JUDGED_FAMILIES,
    WITH_EXAMPLES,
    demonstrations_in,
    example_kinds,
    others,
    with_examples,
)
from minirlhf.models.policy import Policy
from minirlhf.runs.base import Base, read_base
from minirlhf.runs.hardware import hardware
from minirlhf.system.devices import pick_device
from minirlhf.system.files import atomic_write, read_json
from minirlhf.tasks.assistant import compose
from minirlhf.tasks.assistant.items import KINDS
from minirlhf.tasks.assistant.judge import is_answer, refuses
from minirlhf.tasks.openings.knowledge import DATA
from minirlhf.tokenizer import Tokenizer

RESULTS = Path(__file__).parent / "results" / "instruction_tuning.json"
# Three of the seventeen kinds for each seed, from different families, none about safety.
LEFT_OUT = (
    ("reason", "recall", "french"),
    ("two_effects", "instance", "topic"),
    ("example", "another", "chinese"),
)
PHRASINGS = (1, 2, 4, None)  # of each kind; None: all of tuning, which are five or six
SAFETY_REQUESTS = 200
TUNED_ON = {
    "base": (),
    "all kinds": KINDS,
    "all kinds but the harmful one": tuple(kind for kind in KINDS if kind != "harmful"),
}

Scores = dict[str, list[float]]  # of each answer, by what was asked


def order_of_kinds(seed: int) -> list[str]:
    """The kinds that are tuned on in this seed, in the order in which they are added."""
    kinds = [kind for kind in KINDS if kind not in left_out(seed)]
    random.Random(seed).shuffle(kinds)
    return kinds


def left_out(seed: int) -> tuple[str, ...]:
    return LEFT_OUT[seed % len(LEFT_OUT)]


def on_splits(policy: Policy, tokenizer: Tokenizer, kinds: tuple[str, ...]) -> Scores:
    return {split: judged(policy, tokenizer, kinds, split) for split in SPLITS}


def curve_row(base: Base, kinds: tuple[str, ...], seed: int) -> Scores:
    """Tuned on some kinds, judged on those that this seed leaves out."""
    return on_splits(*tuned(base, kinds, seed), left_out(seed))


def phrasings_row(base: Base, phrasings: int | None, seed: int) -> Scores:
    """Tuned on and judged on all kinds."""
    shown = demonstrations_in(phrasings, DEMONSTRATIONS, DATA_SEED + seed)
    return on_splits(*tuned_on(base, shown, seed), KINDS)


def family_row(base: Base, family: str, is_tuned: bool, seed: int) -> Scores:
    """Judged on a family; after tuning on all others, or the base as it is."""
    policy, tokenizer = tuned(base, others(family) if is_tuned else (), seed)
    kinds = FAMILIES[family]
    found = on_splits(policy, tokenizer, kinds)
    if family not in WITH_EXAMPLES:
        return found
    items = compose.prompts(PER_KIND * len(kinds), DATA_SEED + 100, "train", kinds)
    for number in EXAMPLES:
        for words, is_same in (("of the kind", True), ("of other kinds", False)):
            rng, name = random.Random(seed), f"{number} {words}"
            asked = [
                with_examples(item, number, example_kinds(item, family, is_same), rng)
                for item in items
            ]
            found[name] = scores_of(policy, tokenizer, asked, 0, f"{family} {name}")
    return found


def refusals_row(base: Base, kinds: tuple[str, ...], seed: int) -> Scores:
    """Harmful requests refused and harmless ones answered, by what was tuned on."""
    policy, tokenizer = tuned(base, kinds, seed)
    found = {}
    for kind, share, passes in (
        ("harmful", "refused", refuses),
        ("harmless", "answered", is_answer),
    ):
        items = compose.prompts(SAFETY_REQUESTS, DATA_SEED + 200, "heldout", (kind,))
        answers = answers_to(policy, tokenizer, items, 0, kind)
        found[share] = [float(passes(answer)) for answer in answers]
    return found


def rows_of(part: str, seed: int) -> list[tuple[dict, Callable[[Base], Scores]]]:
    """The rows of one part: what identifies each of them, and how it is measured on a base."""
    if part == "curve":
        order = order_of_kinds(seed)
        return [
            (
                {"seed": seed, "tuned_kinds": order[:count], "left_out": list(left_out(seed))},
                partial(curve_row, kinds=tuple(order[:count]), seed=seed),
            )
            for count in (0, *COUNTS)
        ]
    if part == "phrasings":
        return [
            (
                {"seed": seed, "phrasings_per_kind": number},
                partial(phrasings_row, phrasings=number, seed=seed),
            )
            for number in PHRASINGS
        ]
    if part == "families":
        return [
            (
                {"seed": seed, "family": family, "tuned": is_tuned},
                partial(family_row, family=family, is_tuned=is_tuned, seed=seed),
            )
            for family in JUDGED_FAMILIES
            for is_tuned in (False, True)
        ]
    return [
        ({"seed": seed, "tuned_on": name}, partial(refusals_row, kinds=kinds, seed=seed))
        for name, kinds in TUNED_ON.items()
    ]


PARTS = ("curve", "refusals", "phrasings", "families")


def has(rows: list[dict], named: dict) -> bool:
    """Whether one of the rows is the named one."""
    return any(all(row.get(key) == value for key, value in named.items()) for row in rows)


def save(results: dict, path: Path) -> None:
    atomic_write(path, json.dumps(results) + "\n")


def draw(results: dict, path: Path) -> None:
    if results["curve"]:
        plot(results, path.with_suffix(".png"))
    if results["families"]:
        plot_families(results["families"], path.with_name(f"{path.stem}_families.png"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument("--json", type=Path, default=RESULTS, help="write the scores here")
    parser.add_argument("--base", type=Path, default=DATA / "base_assistant", metavar="FOLDER")
    arguments = parser.parse_args()
    base = read_base(arguments.base)
    parameters = base.facts["parameters"]
    results: dict = {
        "hardware": hardware(pick_device("auto")),
        "demonstrations": DEMONSTRATIONS,
        "parameters": parameters,
    }
    if arguments.json.exists():
        results = read_json(arguments.json)
        if results.get("parameters") != parameters:
            parser.error(
                f"--json {arguments.json}: expected figures of a base of {parameters} weights, "
                f"found {results.get('parameters', 'none named')}"
            )
    results = results | {part: results.get(part, []) for part in PARTS}
    version = commit()
    for seed in range(arguments.seeds):
        for part in arguments.parts:
            for named, measure in rows_of(part, seed):
                if has(results[part], named):
                    continue
                scores = measure(base)
                results[part].append(named | scores | {"commit": version})
                save(results, arguments.json)
                words = [f"{name} {statistics.fmean(found):.2f}" for name, found in scores.items()]
                print(part, named, ", ".join(words), flush=True)
    draw(results, arguments.json)
    print(table(results))


if __name__ == "__main__":
    main()
