"""The table and the picture of benchmarks/prompt_tuning.py."""

from __future__ import annotations

import math
import re
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = dict[str, dict[str, dict[str, Any]]]  # name -> seed -> figures

COLOURS = {"demonstration": "#23272e", "random": "#8a4fbf", "vocabulary": "#2b8065"}
PANELS = {"train": "training topics", "heldout": "held-out topics"}


def means_of(seeds: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The mean over seeds of every figure that is a number."""
    found = list(seeds.values())
    names = [name for name, value in found[0].items() if isinstance(value, (int, float))]
    return {name: statistics.fmean(one[name] for one in found) for name in names}


def share_of_gain(mean: dict[str, float], full: dict[str, float], split: str) -> float:
    """What a row gains on a split, over what full tuning gains."""
    gains = [one[f"{split} after"] - one[f"{split} before"] for one in (mean, full)]
    return gains[0] / gains[1]


def table(rows: Rows) -> str:
    """The means over seeds, with the share of what full tuning gains on training topics."""
    means = {name: means_of(seeds) for name, seeds in rows.items()}
    lines = [
        "| row | seeds | numbers | seconds | training topics | held-out topics | share |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, mean in means.items():
        full = means.get(f"{name.partition('-')[0]}-full")
        share = f"{share_of_gain(mean, full, 'train'):.2f}" if full else ""
        judge = []
        for split in PANELS:
            if f"{split} after" in mean:
                judge.append(f"{mean[f'{split} before']:.3f} to {mean[f'{split} after']:.3f}")
            else:  # settings are chosen on training topics alone
                judge.append("")
        cells = [name, f"{len(rows[name])}", f"{mean['parameters']:,.0f}", f"{mean['seconds']:.0f}"]
        lines.append("| " + " | ".join([*cells, *judge, share]) + " |")
    return "\n".join(lines)


def half_width(seeds: dict[str, dict[str, Any]], name: str) -> float:
    """Half of the 95% interval of the mean of all seeds' answers; NaN if no seed has one.

    It covers the drawing of questions and answers, not that of vectors and demonstrations. Seeds
    without an interval of their own count as wide as the others.
    """
    intervals = [found[f"{name} 95%"] for found in seeds.values() if f"{name} 95%" in found]
    if not intervals:
        return math.nan
    square = statistics.fmean((high - low) ** 2 / 4 for low, high in intervals)
    return math.sqrt(square / len(seeds))


def lines_of(rows: Rows, kinds: str) -> dict[str, dict[int, dict]]:
    """The rows of some kinds with vectors, by start and then by length, shortest first."""
    lines: dict[str, dict[int, dict]] = {start: {} for start in COLOURS}
    for name, seeds in rows.items():
        match = re.fullmatch(rf"{kinds}-(\d+)(?:-(\w+))?", name)
        if match:
            lines[match[2] or "demonstration"][int(match[1])] = seeds
    return {start: dict(sorted(found.items())) for start, found in lines.items() if found}


def plot(rows: Rows, path: Path) -> None:
    """The judge against the number of vectors: two panels per kinds, a line per start.

    Kinds with one row have no line, and so no panels.
    """
    from matplotlib.figure import Figure

    def points(kinds: str) -> int:
        return sum(map(len, lines_of(rows, kinds).values()))

    drawn = [kinds for kinds in ("all", "translation", "french") if points(kinds) > 1]
    if not drawn:
        return
    figure = Figure(figsize=(9, 3.4 * len(drawn)), layout="constrained")
    panels = figure.subplots(len(drawn), len(PANELS), sharey=True, squeeze=False)
    for row, kinds in zip(panels, drawn, strict=True):
        for axes, split in zip(row, PANELS, strict=True):
            draw_panel(axes, rows, kinds, split)
    panels[0][0].legend(loc="upper left", fontsize="small", ncols=2)
    figure.savefig(path, dpi=120)


def draw_panel(axes: Axes, rows: Rows, kinds: str, split: str) -> None:
    """One split of some kinds: a line per start, with 95% intervals, between the two limits."""
    lines = lines_of(rows, kinds)
    for start, by_length in lines.items():
        means = [means_of(seeds)[f"{split} after"] for seeds in by_length.values()]
        bars = [half_width(seeds, f"{split} after") for seeds in by_length.values()]
        colour = COLOURS[start]
        axes.errorbar(list(by_length), means, bars, fmt="o-", color=colour, capsize=3, label=start)
    some = means_of(rows.get(f"{kinds}-full") or next(iter(next(iter(lines.values())).values())))
    axes.axhline(some[f"{split} before"], color="gray", linestyle=":", label="the base")
    if f"{kinds}-full" in rows:
        axes.axhline(some[f"{split} after"], color="gray", linestyle="--", label="every weight")
    lengths = sorted({length for by_length in lines.values() for length in by_length})
    name = "All kinds" if kinds == "all" else kinds.capitalize()
    axes.set(xscale="log", ylim=(0, 1), title=f"{name}: {PANELS[split]}")
    axes.set(xlabel="vectors", ylabel="judge (0 to 1)")
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.minorticks_off()
