"""The tables and the pictures of benchmarks/instruction_tuning.py."""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.instruction_models import SPLITS
from minirlhf.stats import interval

COUNTS = (1, 2, 4, 8, 14)  # kinds tuned on
NAMES = dict(zip(SPLITS, ("training topics", "held-out topics", "kept-out phrasings"), strict=True))
# Neither the judge's blue nor the reward's orange: all three are the judge's scores.
COLOURS = ("#8a4fbf", "#2b8065", "#23272e")
HEADER = "| " + " | ".join(NAMES.values()) + " |"


def over_seeds(rows: list[dict], key: str) -> dict[str, float]:
    """Mean over the seeds' means; its 95% interval counts a seed as one observation."""
    return interval([statistics.fmean(row[key]) for row in rows])


def means(rows: list[dict], keys: tuple[str, ...]) -> str:
    """The cells of a table's row."""
    return " | ".join(f"{over_seeds(rows, key)['mean']:.2f}" for key in keys)


def table(results: dict) -> str:
    lines = [f"| tuned on {HEADER}", "|---|---|---|---|"]
    for count in (0, *COUNTS):
        rows = [row for row in results["curve"] if len(row["tuned_kinds"]) == count]
        if rows:
            lines.append(f"| {count} kinds | {means(rows, SPLITS)} |")
    lines += phrasings_table(results.get("phrasings", []))
    lines += families_table(results.get("families", []))
    lines += ["", "| tuned on | harmful refused | harmless answered |", "|---|---|---|"]
    for name in dict.fromkeys(row["tuned_on"] for row in results["refusals"]):
        rows = [row for row in results["refusals"] if row["tuned_on"] == name]
        shares = " | ".join(
            f"{over_seeds(rows, share)['mean']:.0%}" for share in ("refused", "answered")
        )
        lines.append(f"| {name} | {shares} |")
    return "\n".join(lines)


def phrasings_table(phrasings: list[dict]) -> list[str]:
    if not phrasings:
        return []
    lines = ["", f"| phrasings of each kind tuned on {HEADER}", "|---|---|---|---|"]
    for number in dict.fromkeys(row["phrasings_per_kind"] for row in phrasings):
        rows = [row for row in phrasings if row["phrasings_per_kind"] == number]
        lines.append(f"| {number or 'all'} | {means(rows, SPLITS)} |")
    return lines


def families_table(families: list[dict]) -> list[str]:
    """Before and after tuning on all other families; examples of the kind, then of other kinds."""
    if not families:
        return []
    keys = tuple(dict.fromkeys(key for row in families for key in scores_in(row)))
    lines = ["", "| family | model | " + " | ".join(NAMES.get(key, key) for key in keys) + " |"]
    lines.append("|---|---|" + "---|" * len(keys))
    for family, is_tuned in dict.fromkeys((row["family"], row["tuned"]) for row in families):
        rows = [row for row in families if (row["family"], row["tuned"]) == (family, is_tuned)]
        cells = [means(rows, (key,)) if key in rows[0] else "" for key in keys]
        model = "tuned on all others" if is_tuned else "base"
        lines.append(f"| {family} | {model} | " + " | ".join(cells) + " |")
    return lines


def scores_in(row: dict) -> list[str]:
    """The names of a row's scores."""
    return [key for key, value in row.items() if isinstance(value, list)]


def plot(results: dict, path: Path) -> None:
    """The judge on kinds never tuned on, by the number of tuned kinds: a thin line per seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    counts = sorted({len(row["tuned_kinds"]) for row in results["curve"]})
    for number, (split, name) in enumerate(NAMES.items()):
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


def plot_families(families: list[dict], path: Path) -> None:
    """The judge on families never tuned on: the base, the tuned model, each with examples."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(row["family"] for row in families))
    keys = ("train", "1 of the kind", "3 of the kind")
    bars = [(is_tuned, key) for is_tuned in (False, True) for key in keys]
    width = 0.8 / len(bars)
    for number, (is_tuned, key) in enumerate(bars):
        label = "tuned on other families" if is_tuned else "base"
        label += "" if key == "train" else f", {key.split()[0]} example{'s' * (key[0] != '1')}"
        measured = [row for row in families if row["tuned"] == is_tuned and key in row]
        for name in dict.fromkeys(row["family"] for row in measured):
            axes.bar(
                names.index(name) + (number - len(bars) / 2 + 0.5) * width,
                over_seeds([row for row in measured if row["family"] == name], key)["mean"],
                width,
                color=COLOURS[1] if is_tuned else "gray",
                alpha=(0.45, 0.7, 1)[keys.index(key)],
                label=label if name == measured[0]["family"] else None,
            )
    axes.set_xticks(range(len(names)), names)
    axes.set(ylabel="judge (0 to 1)", ylim=(0, 1), title="Families never tuned on, training topics")
    axes.legend(fontsize="small", ncols=2)
    figure.savefig(path, dpi=120)
