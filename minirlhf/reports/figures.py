"""The figures of a run's report: what they show, in which colours, and a figure as SVG in a page.

A figure is inline SVG whose colours are CSS variables, so that it is legible in light and dark
browsers. Figures are made without pyplot: there is no global state, and nothing needs a display.
"""

from __future__ import annotations

import io
import re
from html import escape

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from minirlhf.reports.judged import SPLITS, evaluated_splits

# name: (light, dark). Figures are drawn in the light colours; in a page each becomes the CSS
# variable of its name.
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
SVG_DPI = 72  # matplotlib's own for SVG: text is measured as it will be drawn
# How matplotlib names the parts of an SVG figure.
PART_NAMES = r"figure|axes|patch|text|legend|line2d|matplotlib\.axis|xtick|ytick|PathCollection"


def _series(records: list[dict], x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """x (n,) and y (n,) of the records that have both, in the order of the file."""
    points = []
    for record in records:
        if record.get(x) is not None and record.get(y) is not None:
            points.append((record[x], record[y]))
    xs, ys = np.array(points, dtype=float).reshape(-1, 2).T
    return xs, ys


def draw_before_after(axis: Axes, summary: dict) -> None:
    """Judge and reward on each split, a row each: before (hollow), after (filled), intervals.

    Where the pretrained base was judged too, it stands in the judge's rows in grey.
    """
    scorers = (("judge", "judge", JUDGE), ("reward", "reward model", REWARD))
    labels: list[str] = []
    for key, name, colour in scorers:
        for split in evaluated_splits(summary):
            row = len(labels)
            labels.append(f"{name},\n{SPLITS[split]}")
            for when, shade, face, offset in (
                ("base", MUTED, "none", 7),
                ("before", colour, "none", 7),
                ("after", colour, colour, -15),
            ):
                score = summary[split].get(f"{key}_{when}")
                if score:
                    _draw_interval(axis, score, row, shade, face)
                    _write_at(axis, f"{when} {score['mean']:.2f}", (score["mean"], row), offset)
    axis.set(xlim=(0, 1), ylim=(len(labels) - 0.5, -0.6), xlabel="score (0 to 1)")
    axis.set_yticks(range(len(labels)), labels)
    axis.grid(axis="y", visible=False)


def _draw_interval(axis: Axes, score: dict, row: int, colour: str, face: str) -> None:
    axis.plot([score["low"], score["high"]], [row, row], color=colour, linewidth=1.2)
    axis.plot(score["mean"], row, "o", color=colour, markerfacecolor=face, markersize=6)


def _write_at(axis: Axes, words: str, point: tuple[float, float], offset: int) -> None:
    """Words centred over (or, with a negative offset in points, under) a point."""
    axis.annotate(words, point, (0, offset), textcoords="offset points", ha="center", fontsize=8)


def draw_scores(axis: Axes, finetune: list[dict]) -> None:
    """Reward and judge, both 0 to 1, against minutes; the upper axis counts updates."""
    role = "takes no part" if is_dpo(finetune) else "optimised"
    for key, label, colour in (
        ("reward", f"reward model ({role})", REWARD),
        ("judge", "judge (never optimised)", JUDGE),
    ):
        seconds, values = _series(finetune, "seconds", key)
        if values.size:
            axis.plot(seconds / 60, values, "-o", color=colour, label=label, markersize=2)
    _mark_rounds(axis, finetune, "new ratings, reward model refitted")
    axis.set(ylim=(0, 1), xlabel="minutes of fine-tuning", ylabel="mean score (0 to 1)")
    axis.set_xlim(left=0)
    axis.legend(loc="lower right", fontsize=8.5)
    # The upper axis: the minute at which each round number of updates was reached.
    seconds, steps = _series(finetune, "seconds", "step")
    ticks = MaxNLocator(6, integer=True).tick_values(steps[0], steps[-1])
    ticks = [tick for tick in ticks if steps[0] <= tick <= steps[-1]]
    upper = axis.secondary_xaxis("top")
    upper.set_xticks(np.interp(ticks, steps, seconds / 60), [f"{tick:.0f}" for tick in ticks])
    upper.set_xlabel("updates")


def _mark_rounds(axis: Axes, finetune: list[dict], label: str | None = None) -> None:
    """Shade the time between two rounds, in which no update is made."""
    seconds, rounds = _series(finetune, "seconds", "round")
    for place in np.flatnonzero(np.diff(rounds)):
        left, right = seconds[place] / 60, seconds[place + 1] / 60
        axis.axvspan(left, right, color=MUTED, alpha=0.25, linewidth=0, label=label)
        label = None  # one entry in the legend is enough


def finetune_figure(finetune: list[dict]) -> Figure:
    """Scores above; KL, length, distinct share and entropy below, all against minutes."""
    figure = Figure(figsize=(9, 7.4), layout=ConstrainedLayoutEngine(h_pad=0.1))
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
        finite = values[np.isfinite(values)]
        top = 1.05 if key == "distinct" else max(finite, default=0) * 1.1 or 1
        axis.set_ylim(min([0, *finite]), top)
        if place > 1:  # the lower row
            axis.set_xlabel("minutes")
    return figure


def pretrain_figure(pretrain: list[dict]) -> Figure:
    """Loss on training batches and on held-out texts against steps."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axis = figure.subplots()
    _draw_losses(axis, pretrain, "loss_nats_per_token", "heldout_loss_nats_per_token")
    axis.set(xlabel="step", ylabel="loss (nats per token)")
    return figure


def is_dpo(finetune: list[dict]) -> bool:
    """Whether fine-tuning learned from comparisons (DPO) instead of the reward model."""
    return any("loss_nats_per_comparison" in row for row in finetune)


def dpo_figure(finetune: list[dict]) -> Figure:
    """DPO on its comparisons, against steps: the loss, and the share in the right order."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_losses(left, finetune, "loss_nats_per_comparison", "heldout_loss_nats_per_comparison")
    left.axhline(np.log(2), color=MUTED, linestyle="--", linewidth=1)
    left.set(xlabel="step", ylabel="loss (nats per comparison)")
    left.set_title("DPO: loss (dashed: knows nothing)")
    _draw_losses(right, finetune, "pair_accuracy", "heldout_pair_accuracy")
    right.axhline(0.5, color=MUTED, linestyle="--", linewidth=1)
    right.set(xlabel="step", ylabel="share of comparisons", ylim=(0, 1))
    right.set_title("DPO: the better answer has gained more")
    return figure


def _draw_losses(axis: Axes, records: list[dict], train_key: str, heldout_key: str) -> None:
    steps, losses = _series(records, "step", train_key)
    axis.plot(steps, losses, "-", color=MUTED, label="training batch", linewidth=1)
    steps, losses = _series(records, "step", heldout_key)
    axis.plot(steps, losses, "-o", color=JUDGE, label="held-out", markersize=3)
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8.5)


def draw_reliability(axis: Axes, groups: list[dict]) -> None:
    """Mean observed against mean predicted score of the groups of `stats.calibration`."""
    axis.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1, label="perfect calibration")
    for place, group in enumerate(groups):
        x, label = group["predicted"], "held-out texts, 95% interval" if place == 0 else None
        axis.plot([x, x], [group["low"], group["high"]], color=REWARD, linewidth=1.2)
        axis.plot(x, group["observed"], "o", color=REWARD, markersize=5, label=label)
    axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axis.set(xlabel="predicted score", ylabel="mean observed score")
    axis.legend(fontsize=8.5, loc="lower right")


def reward_figure(reward: list[dict], model: dict) -> Figure:
    """Calibration on the left; on the right the error during training, with that of a constant.

    Of a model that learned from rankings: the share of pairs in the right order, and the loss.
    """
    if "pairs_right" in model or any("heldout_pairs_right" in row for row in reward):
        return _rankings_figure(reward)
    figure = Figure(figsize=(9, 3.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_reliability(left, model.get("calibration") or [])
    left.set_title("Calibration")
    if model.get("mse_constant") is not None:
        constant, style = model["mse_constant"], {"linestyle": "--", "linewidth": 1}
        right.axhline(constant, color=MUTED, label="always the mean score", **style)
    _draw_losses(right, reward, "loss_mse", "heldout_mse")
    right.set(xlabel="step", ylabel="mean squared error")
    right.set_title("Error during training")
    return figure


def _rankings_figure(reward: list[dict]) -> Figure:
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.axhline(0.5, color=MUTED, label="by chance", linestyle="--", linewidth=1)
    steps, shares = _series(reward, "step", "heldout_pairs_right")
    left.plot(steps, shares, "-o", color=JUDGE, label="held-out", markersize=3)
    left.set(ylim=(0, 1), xlabel="step", ylabel="pairs in the right order (share)")
    left.legend(fontsize=8.5)
    _draw_losses(right, reward, "loss_ranking_nats", "heldout_ranking_nats")
    right.set(xlabel="step", ylabel="ranking loss (nats per pair)")
    return figure


def svg(figure: Figure, description: str) -> str:
    """The figure as inline SVG, its colours replaced by the page's CSS variables.

    What would clash or is not needed inside a page is removed: the XML header, styles, namespaces,
    and the ids that matplotlib gives to the parts of every figure.
    """
    if (layout := figure.get_layout_engine()) is not None:
        # Once, here: savefig would draw the whole figure a second time for it.
        figure.dpi = SVG_DPI
        layout.execute(figure)
        figure.set_layout_engine(None)
    out = io.StringIO()
    no_metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(out, format="svg", metadata=no_metadata)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"(?s)<(style|metadata).*?</\1>|<!--.*?-->", "", text)
    text = re.sub(r' (xmlns(:\w+)?|version|width|height)="[^"]*"', "", text, count=5)
    text = text.replace("xlink:href", "href")
    text = re.sub(rf' id="({PART_NAMES})_\d+"', "", text)
    for name, (light, _) in COLOURS.items():
        text = text.replace(light, f"var(--{name})")
    opening = f'<svg role="img" aria-label="{escape(description)}"'
    return f'<div class="figure">{opening}{text.removeprefix("<svg")}</div>'
