"""The figures of comparisons.py: dots with 95% intervals, a row for each thing measured.

The models are told apart by their marks: the base in grey, the model before feedback hollow, the
model after it filled. The colour says who measures, as in figures.py: the judge or another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minirlhf.reports.figures import JUDGE, MUTED, OTHER
from minirlhf.reports.judged import SPLITS

ROW = 0.3  # inches for each row of a figure
OFFSETS = {"base": -0.22, "before": 0.0, "after": 0.22}  # in rows: intervals must not overlap


def kinds_figure(summary: dict, splits: Sequence[str], names: Mapping[str, str]) -> Figure:
    """A panel for each split: the judge's score of each kind."""
    kinds = list(dict.fromkeys(kind for split in splits for kind in summary[split]["kinds"]))
    figure = Figure(figsize=(9, 1.3 + ROW * len(kinds)), layout="constrained")
    panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
    for axis, split in zip(panels, splits, strict=True):
        parts = summary[split]["kinds"]
        draw_models(axis, [parts.get(kind, {}) for kind in kinds], names, JUDGE)
        axis.set(xlim=(-0.03, 1.03), xlabel="judge (0 to 1)", title=SPLITS[split])
    _name_rows(panels[0], kinds)
    _add_legend(figure, panels[0])
    return figure


def wins_figure(summary: dict, splits: Sequence[str]) -> Figure:
    """The win rate on each split, and where it would be by chance."""
    figure = Figure(figsize=(9, 0.9 + ROW * len(splits)), layout="constrained")
    axis = figure.subplots()
    axis.axvline(0.5, color=MUTED, linestyle="--", linewidth=1)
    rows = [{"after": summary[split]["win_rate"]} for split in splits]
    draw_models(axis, rows, {"after": "tuned"}, JUDGE)
    axis.set(xlim=(0, 1), xlabel="win rate (dashed: no better, no worse)")
    _name_rows(axis, [SPLITS[split] for split in splits])
    return figure


def refusals_figure(
    refusals: dict, names: Mapping[str, str], requests: Mapping[str, str]
) -> Figure:
    """The two shares, a row each."""
    figure = Figure(figsize=(9, 1.3 + 1.5 * ROW * len(requests)), layout="constrained")
    axis = figure.subplots()
    rows = [{when: refusals[when][key] for when in names} for key in requests]
    draw_models(axis, rows, names, OTHER)
    axis.set(xlim=(-0.03, 1.03), xlabel="share of the requests")
    _name_rows(axis, list(requests.values()))
    _add_legend(figure, axis)
    return figure


def losses_figure(losses: dict, labels: Mapping[str, str]) -> Figure:
    """The loss of each model, a row each. The axis does not begin at 0: only differences count."""
    whens = {"base": "base", "sft": "before", "tuned": "after"}
    if "sft" not in losses:
        whens["base"] = "before"
    figure = Figure(figsize=(9, 0.9 + ROW * len(losses)), layout="constrained")
    axis = figure.subplots()
    rows = [{whens[name]: loss} for name, loss in losses.items()]
    draw_models(axis, rows, {when: when for when in whens.values()}, OTHER)
    axis.set(xlabel="loss (nats per token; the axis does not begin at 0)")
    _name_rows(axis, [labels[name] for name in losses])
    return figure


def draw_models(
    axis: Axes, rows: Sequence[Mapping[str, dict]], names: Mapping[str, str], colour: str
) -> None:
    """Each row's models: a dot and its 95% interval. `rows` hold intervals by "base", "before"...

    A row with one model has it in its middle.
    """
    marks = {"base": (MUTED, "none"), "before": (colour, "none"), "after": (colour, colour)}
    labelled: set[str] = set()
    for place, row in enumerate(rows):
        for when, name in names.items():
            if when not in row:
                continue
            shade, face = marks[when]
            y = place + (OFFSETS[when] if len(row) > 1 else 0)
            score, label = row[when], None if when in labelled else name
            labelled.add(when)
            axis.plot([score["low"], score["high"]], [y, y], color=shade, linewidth=1.2)
            axis.plot(
                score["mean"],
                y,
                "o",
                color=shade,
                markerfacecolor=face,
                markersize=5,
                label=label,
                linestyle="none",
            )
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)


def _name_rows(axis: Axes, labels: Sequence[str]) -> None:
    axis.set_yticks(range(len(labels)), labels)


def _add_legend(figure: Figure, axis: Axes) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), fontsize=8.5)
