"""The report card as one self-contained page, in the manner of report.py."""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minirlhf.reports.figures import JUDGE, MUTED, OTHER, REWARD, STYLE, draw_reliability, svg
from minirlhf.reports.html import html_page, number, table
from minirlhf.reports.run_report import RATERS
from minirlhf.system.files import atomic_write

HOW_TO_READ = "".join(
    f"<li>{line}</li>"
    for line in (
        "<b>Held-out texts</b>: the reward model did not learn from them; they only chose when training stopped.",
        "<b>MSE</b>: mean squared error, scores from 0 to 1. <b>Constant</b>: always the mean score. <b>Length only</b>: a parabola "
        "over the number of words. <b>Tf-idf ridge</b>: a linear model of words and word pairs.",
        "<b>Noise ceiling</b>: raters disagree; a model that knew the true scores would have this r with their mean.",
        "<b>Pairwise</b>: share of pairs on one topic, with clearly different scores, that are put in the right order; .5 is chance.",
        "<b>ECE</b>: mean distance of prediction and score over ten groups of texts; 0 is perfect, noise keeps it a little above.",
        "<b>Sensitivity</b>: good held-out texts are spoiled. Whether that made a text worse is decided by the judge, and counted is "
        "how often the reward model's score fell where the judge's fell.",
        "<b>Judge</b>: it trained nothing. The limits of the checks are rules of thumb, not proofs.",
        "A good card is no licence: fine-tuning moves away from these texts, and the judge must look again afterwards.",
    )
)


def write_page(path: Path, card: dict) -> None:
    """Write the page. `card` is what `report_card` returns. Atomic."""
    passed = sum(check["passed"] for check in card["checks"])
    title = f"Reward model for {card['task']}: {passed} of {len(card['checks'])} checks passed"
    with style.context(STYLE, after_reset=True):
        body = _body(card)
    source = escape(RATERS.get(card["raters"], f"Raters: {card['raters']}."))
    top = (
        f'<section class="verdict"><p><b>Good enough to train on?</b></p>{_checks(card["checks"])}<p><b>{source}</b> '
        f"Learned from {card['n_train']:,} texts ({card['loss']} loss), tested on {card['n_heldout']:,}. "
        f"Judge: {escape(card['judge_name'])}.</p></section>"
    )
    atomic_write(
        path, html_page(title, top + body + f"<h2>How to read this page</h2><ul>{HOW_TO_READ}</ul>")
    )


def _checks(checks: list[dict]) -> str:
    return table(
        [],
        [
            [
                "✓" if check["passed"] else "<b>✗</b>",
                escape(check["question"]),
                escape(check["answer"]),
            ]
            for check in checks
        ],
    )


def _body(card: dict) -> str:
    ceiling = card["ceiling"]
    keys = (
        ("mse", "MSE", 4),
        ("pearson", "Pearson r", 3),
        ("spearman", "Spearman r", 3),
        ("pairwise", "pairwise", 3),
        ("ece", "ECE", 3),
    )
    rows = [
        [escape(name)] + [number(values[key], digits) for key, _, digits in keys]
        for name, values in card["predictors"].items()
    ]
    if ceiling:
        rows.append(["noise ceiling", "", number(ceiling["mean"], 3), "", "", ""])
    bars = Figure(figsize=(9, 2.6), layout="constrained")
    _draw_bars(bars, card)
    reliability = Figure(figsize=(9, 3.9), layout="constrained")
    left, right = reliability.subplots(1, 2)
    draw_reliability(left, card["calibration"])
    left.set_title("Reliability diagram")
    _draw_curve(right, card)
    spoiled = Figure(figsize=(9, 2.8), layout="constrained")
    _draw_sensitivity(spoiled.subplots(), card["sensitivity"])
    html = "<h2>Against three baselines</h2>" + svg(
        bars, "Error and correlation of the reward model and the baselines"
    )
    html += table(["held-out feedback"] + [name for _, name, _ in keys], rows, "numbers")
    if not ceiling:
        html += "<p class=small>No noise ceiling: the file does not say how several raters scored the same text.</p>"
    html += f"<p class=small>Pairwise: {card['n_pairs']:,} pairs, scores at least {card['min_gap']:g} apart.</p>"
    html += "<h2>Calibration and learning curve</h2>" + svg(
        reliability, "Reliability diagram, and error by number of triples"
    )
    html += "<h2>Does it notice when a text is spoiled?</h2>" + svg(
        spoiled, "Share of spoiled texts whose score fell"
    )
    heads = [
        "check",
        "texts",
        "reward model falls",
        "mean change",
        "judge falls",
        "falls where the judge falls [95%]",
    ]
    html += table(
        heads,
        [
            [
                escape(row["check"]),
                number(row["n"], 0),
                _share(row["falls"]),
                number(row["change"], 3),
                _share(row["judge_falls"]),
                "–"
                if row["falls_with_judge"] is None
                else f"{_share(row['falls_with_judge'])} [{_share(row['low'])}, {_share(row['high'])}]",
            ]
            for row in card["sensitivity"]
        ],
        "numbers",
    )
    html += "<h2>The ten worst mistakes</h2>" + table(
        ["topic", "text"],
        [
            [
                escape(row["topic"]),
                f"<div class=text>{escape(row['text'])}</div><small>{_facts(row)}</small>",
            ]
            for row in card["worst"]
        ],
        "samples",
    )
    return html


def _facts(row: dict) -> str:
    ratings = ", ".join(f"{rating:g}" for rating in row["ratings"])
    return f"scored {row['score']:.2f} · predicted {row['predicted']:.2f}" + (
        f" · ratings {ratings}" if ratings else ""
    )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _draw_bars(figure: Figure, card: dict) -> None:
    names = list(card["predictors"])
    for axis, key, label in zip(
        figure.subplots(1, 3),
        ("mse", "pearson", "pairwise"),
        ("MSE (lower is better)", "Pearson r", "pairwise accuracy"),
    ):
        values = [card["predictors"][name][key] or 0 for name in names]
        axis.barh(range(len(names)), values, color=[MUTED] * (len(names) - 1) + [REWARD])
        axis.set_yticks(range(len(names)), names if key == "mse" else [""] * len(names))
        axis.invert_yaxis()
        axis.set_title(label)
        axis.grid(axis="y", visible=False)
        if key == "pearson" and card["ceiling"]:
            axis.axvline(card["ceiling"]["mean"], color=JUDGE, linestyle="--", linewidth=1.2)
            axis.annotate(
                "noise ceiling",
                (card["ceiling"]["mean"], -0.42),
                (-3, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                fontsize=8,
                color=JUDGE,
            )
        if key != "mse":
            axis.set_xlim(min(0, *values), 1)
        if key == "pairwise":
            axis.axvline(0.5, color=MUTED, linestyle=":", linewidth=1)


def _draw_curve(axis: Axes, card: dict) -> None:
    triples, errors = ([row[key] for row in card["curve"]] for key in ("triples", "mse"))
    axis.plot(triples, errors, "-o", color=REWARD, label="reward model", markersize=4)
    for name, colour, line in (("constant", MUTED, ":"), ("tf-idf ridge", OTHER, "--")):
        axis.axhline(
            card["predictors"][name]["mse"],
            color=colour,
            linestyle=line,
            linewidth=1.2,
            label=f"{name}, all triples",
        )
    axis.set_xscale("log", base=2)
    axis.set_xticks(triples, [f"{count:,}" for count in triples])
    axis.minorticks_off()
    axis.set(xlabel="training triples", ylabel="held-out MSE", ylim=(0, None))
    axis.set_title("Learning curve")
    axis.legend(fontsize=8.5)


def _draw_sensitivity(axis: Axes, rows: list[dict]) -> None:
    places = np.arange(len(rows))
    axis.barh(
        places - 0.19,
        [row["falls"] or 0 for row in rows],
        0.36,
        color=REWARD,
        label="reward model falls",
    )
    axis.barh(
        places + 0.19,
        [row["judge_falls"] or 0 for row in rows],
        0.36,
        color=JUDGE,
        label="judge falls",
    )
    axis.set_yticks(places, [row["check"] for row in rows])
    axis.invert_yaxis()
    axis.set(xlim=(0, 1), xlabel="share of the texts")
    axis.grid(axis="y", visible=False)
    axis.legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(1.01, 1))
