"""The figures of report.py: what they show, in which colours, and a figure as SVG inside a page.

A figure is inline SVG whose colours are CSS variables, so that it is legible in light and in dark browsers.
"""

from __future__ import annotations

import io
import re
from html import escape

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import (
    Figure,
)  # used without pyplot: no global state; savefig draws PNG with Agg
from matplotlib.ticker import MaxNLocator

# name: (light, dark). Figures are drawn in the light colours; in the page each becomes the CSS variable of its name.
COLOURS = {
    "ink": ("#23272e", "#e4e6ea"),
    "muted": ("#667080", "#9ca5b2"),
    "grid": ("#dde1e7", "#3a414b"),
    "judge": ("#1d5fbe", "#7db2ff"),
    "reward": ("#c55f0b", "#ffa351"),
    "other": ("#2b8065", "#70cfa9"),
}
INK, MUTED, GRID, JUDGE, REWARD, OTHER = (light for light, _ in COLOURS.values())
STYLE = {
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "font.size": 9.5,
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "minirlhf",
}
SPLITS = {"train": "training topics", "heldout": "held-out topics"}


def evaluated_splits(summary: dict) -> list[str]:
    """The splits that were judged before and after."""
    return [split for split in SPLITS if "judge_after" in summary.get(split, {})]


def _series(records: list[dict], x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the records that have both, in the order of the file."""
    points = [
        (record[x], record[y])
        for record in records
        if record.get(x) is not None and record.get(y) is not None
    ]
    return tuple(np.array(points, dtype=float).reshape(-1, 2).T)


def draw_before_after(axis: Axes, summary: dict) -> None:
    """One row for each of judge and reward on each split: before (hollow) and after (filled), both with intervals."""
    rows = [(who, split) for who in ("judge", "reward") for split in evaluated_splits(summary)]
    for row, (who, split) in enumerate(rows):
        colour = JUDGE if who == "judge" else REWARD
        for when, face, offset in (("before", "none", 7), ("after", colour, -15)):
            score = summary[split].get(f"{who}_{when}")
            if score:
                axis.plot([score["low"], score["high"]], [row, row], color=colour, linewidth=1.2)
                axis.plot(score["mean"], row, "o", color=colour, markerfacecolor=face, markersize=6)
                axis.annotate(
                    f"{when} {score['mean']:.2f}",
                    (score["mean"], row),
                    (0, offset),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                )
    axis.set(
        xlim=(0, 1), ylim=(len(rows) - 0.5, -0.6), xlabel="score (0 to 1)", yticks=range(len(rows))
    )
    axis.set_yticklabels(
        [
            f"{'judge' if who == 'judge' else 'reward model'},\n{SPLITS[split]}"
            for who, split in rows
        ]
    )
    axis.grid(axis="y", visible=False)


def draw_scores(axis: Axes, finetune: list[dict]) -> None:
    """Reward and judge, both 0 to 1, against minutes; the upper axis counts updates."""
    for key, label, colour in (
        ("reward", "reward model (optimised)", REWARD),
        ("judge", "judge (never optimised)", JUDGE),
    ):
        seconds, values = _series(finetune, "seconds", key)
        if values.size:
            axis.plot(seconds / 60, values, "-o", color=colour, label=label, markersize=2)
    _mark_rounds(axis, finetune, "new ratings, reward model refitted")
    axis.set(ylim=(0, 1), xlabel="minutes of fine-tuning", ylabel="mean score (0 to 1)")
    axis.set_xlim(left=0)
    axis.legend(loc="lower right", fontsize=8.5)
    seconds, _ = _series(finetune, "seconds", "step")
    steps, _ = _series(finetune, "step", "step")
    ticks = [
        tick
        for tick in MaxNLocator(6, integer=True).tick_values(steps[0], steps[-1])
        if steps[0] <= tick <= steps[-1]
    ]
    upper = axis.secondary_xaxis("top")
    upper.set_xticks(np.interp(ticks, steps, seconds / 60), [f"{tick:.0f}" for tick in ticks])
    upper.set_xlabel("updates")


def _mark_rounds(axis: Axes, finetune: list[dict], label: str | None = None) -> None:
    """Shade the time between two rounds, in which no update is made."""
    seconds, rounds = _series(finetune, "seconds", "round")
    for place in np.flatnonzero(np.diff(rounds)):
        axis.axvspan(
            seconds[place] / 60,
            seconds[place + 1] / 60,
            color=MUTED,
            alpha=0.25,
            linewidth=0,
            label=label,
        )
        label = None


def finetune_figure(finetune: list[dict]) -> Figure:
    figure = Figure(figsize=(9, 7.4), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1)
    grid = figure.add_gridspec(3, 2, height_ratios=(2.1, 1, 1))
    scores = figure.add_subplot(grid[0, :])
    draw_scores(scores, finetune)
    panels = (
        ("kl_nats", "KL to the reference (nats per text)"),
        ("length_tokens", "length (tokens per text)"),
        ("distinct", "distinct texts (share, 0 to 1)"),
        ("entropy_nats_per_token", "entropy (nats per token)"),
    )
    for place, (key, title) in enumerate(panels):
        axis = figure.add_subplot(grid[1 + place // 2, place % 2], sharex=scores)
        seconds, values = _series(finetune, "seconds", key)
        axis.plot(seconds / 60, values, "-o", color=OTHER, markersize=2)
        _mark_rounds(axis, finetune)
        axis.set_title(title)
        top = 1.05 if key == "distinct" else max(values[np.isfinite(values)], default=0) * 1.1 or 1
        axis.set(
            ylim=(min(0, *values[np.isfinite(values)], 0), top),
            xlabel="minutes" if place > 1 else None,
        )
    return figure


def pretrain_figure(pretrain: list[dict]) -> Figure:
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axis = figure.subplots()
    _draw_losses(
        axis,
        pretrain,
        (("loss_nats_per_token", "training batch"), ("heldout_loss_nats_per_token", "held-out")),
    )
    axis.set(xlabel="step", ylabel="loss (nats per token)")
    return figure


def _draw_losses(axis: Axes, records: list[dict], keys: tuple) -> None:
    for (key, label), colour, marker in zip(keys, (MUTED, JUDGE), ("-", "-o")):
        steps, values = _series(records, "step", key)
        axis.plot(
            steps,
            values,
            marker,
            color=colour,
            label=label,
            markersize=3,
            linewidth=1 if marker == "-" else 1.6,
        )
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8.5)


def draw_reliability(axis: Axes, groups: list[dict]) -> None:
    """Mean observed against predicted score of groups of texts, as `fit_reward.calibration` makes them."""
    axis.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1, label="perfect calibration")
    for place, group in enumerate(groups):
        axis.plot(
            [group["predicted"]] * 2, [group["low"], group["high"]], color=REWARD, linewidth=1.2
        )
        axis.plot(
            group["predicted"],
            group["observed"],
            "o",
            color=REWARD,
            markersize=5,
            label=None if place else "held-out texts, 95% interval",
        )
    axis.set(
        xlim=(0, 1),
        ylim=(0, 1),
        aspect="equal",
        xlabel="predicted score",
        ylabel="mean observed score",
    )
    axis.legend(fontsize=8.5, loc="lower right")


def reward_figure(reward: list[dict], model: dict) -> Figure:
    """Calibration on the left; the error as the reward model learned, with the constant baseline, on the right."""
    figure = Figure(figsize=(9, 3.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_reliability(left, model.get("calibration") or [])
    left.set_title("Calibration")
    if model.get("mse_constant") is not None:
        right.axhline(
            model["mse_constant"],
            color=MUTED,
            linestyle="--",
            linewidth=1,
            label="always the mean score",
        )
    _draw_losses(right, reward, (("loss_mse", "training batch"), ("heldout_mse", "held-out")))
    right.set(xlabel="step", ylabel="mean squared error")
    right.set_title("Error while learning")
    return figure


def svg(figure: Figure, description: str) -> str:
    """The figure as inline SVG: no XML header, ids or style of its own; colours are the page's CSS variables."""
    out = io.StringIO()
    figure.savefig(
        out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    text = out.getvalue()
    text = re.sub(r"(?s)<(style|metadata).*?</\1>|<!--.*?-->", "", text[text.index("<svg") :])
    text = re.sub(r' (xmlns(:\w+)?|version|width|height)="[^"]*"', "", text, count=5).replace(
        "xlink:href", "href"
    )
    text = re.sub(
        r' id="(figure|axes|patch|text|legend|line2d|matplotlib\.axis|xtick|ytick|PathCollection)_\d+"',
        "",
        text,
    )
    for name, (light, _) in COLOURS.items():
        text = text.replace(light, f"var(--{name})")
    return f'<div class="figure"><svg role="img" aria-label="{escape(description)}"{text.removeprefix("<svg")}</div>'
