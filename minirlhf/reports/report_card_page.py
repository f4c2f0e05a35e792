"""The reward model's report card as one self-contained page, like that of a run (run_report.py)."""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minirlhf.reports.figures import JUDGE, MUTED, OTHER, REWARD, STYLE, draw_reliability, svg
from minirlhf.reports.html import MISSING, bullets, html_page, number, table
from minirlhf.reports.run_report import RATERS
from minirlhf.stats import correlation_words
from minirlhf.system.files import atomic_write

HOW_TO_READ = (
    "<b>Held-out texts</b>: the reward model did not learn from them; they only decided when "
    "training stopped.",
    "<b>MSE</b>: mean squared error, scores from 0 to 1. <b>Constant</b>: always the mean score. "
    "<b>Length only</b>: a parabola over the number of words. <b>Tf-idf ridge</b>: a linear model "
    "of words and word pairs.",
    "<b>Noise ceiling</b>: raters disagree; a model that knew the true scores would have this r "
    "with the mean of their ratings.",
    "<b>Pairwise</b>: share of pairs on one topic, with clearly different scores, that are put in "
    "the right order; .5 is chance.",
    "<b>ECE</b>: mean distance between prediction and score over ten groups of texts; 0 is "
    "perfect, and noise keeps it a little above.",
    "<b>Sensitivity</b>: good held-out texts are degraded. The judge decides whether a text became "
    "worse; we count how often the reward model agrees.",
    "<b>Judge</b>: its scores train no model. The limits of the checks are rules of thumb, not "
    "proofs.",
    "Passing these checks guarantees nothing off-distribution: fine-tuning moves away from these "
    "texts, and the judge must score the result again.",
)
# Keys of a predictor's measures, their names and digits.
MEASURES = (
    ("mse", "MSE", 4),
    ("pearson", "Pearson r", 3),
    ("spearman", "Spearman r", 3),
    ("pairwise", "pairwise", 3),
    ("ece", "ECE", 3),
)


def write_page(path: Path, card: dict) -> None:
    """Write the page. `card` is what `evaluation.report_card.report_card` returns. Atomic."""
    checks = card["checks"]
    passed = sum(check["passed"] for check in checks)
    title = f"Reward model for {card['task']}: {passed} of {len(checks)} checks passed"
    with style.context(STYLE, after_reset=True):
        body = "".join(
            [
                _verdict(card),
                _baselines(card),
                _calibration(card),
                _sensitivity(card["sensitivity"]),
                _worst(card["worst"]),
                f"<h2>How to read this page</h2>{bullets(HOW_TO_READ)}",
            ]
        )
    atomic_write(path, html_page(title, body))


# --- sections -------------------------------------------------------------------------------------


def _verdict(card: dict) -> str:
    rows = []
    for check in card["checks"]:
        mark = "✓" if check["passed"] else "<b>✗</b>"
        rows.append([mark, escape(check["question"]), escape(check["answer"])])
    source = escape(RATERS.get(card["raters"], f"Raters: {card['raters']}."))
    return (
        f'<section class="verdict"><p><b>Good enough to train on?</b></p>{table([], rows)}'
        f"<p><b>{source}</b> Learned from {card['n_train']:,} texts ({card['loss']} loss), tested "
        f"on {card['n_heldout']:,}. Judge: {escape(card['judge_name'])}.</p></section>"
    )


def _baselines(card: dict) -> str:
    rows = []
    for name, values in card["predictors"].items():
        cells = [number(values[key], digits) for key, _, digits in MEASURES]
        rows.append([escape(name), *cells])
    if card["ceiling"]:
        rows.append(["noise ceiling", "", number(card["ceiling"]["mean"], 3), "", "", ""])
    heads = ["held-out feedback"] + [name for _, name, _ in MEASURES]
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    _draw_bars(figure, card)
    html = "<h2>Against three baselines</h2>"
    html += svg(figure, "Error and correlation of the reward model and the baselines")
    html += table(heads, rows, "numbers")
    if not card["ceiling"]:
        html += (
            "<p class=small>No noise ceiling: the file does not hold several ratings of the same "
            "texts.</p>"
        )
    model = card["predictors"]["reward model"]
    pearson = correlation_words(model, "pearson", card["n_heldout"])
    html += f"<p class=small>Pearson r of the reward model, with its 95% interval: {pearson}.</p>"
    html += (
        f"<p class=small>Pairwise: {card['n_pairs']:,} pairs, scores at least {card['min_gap']:g} "
        "apart.</p>"
    )
    return html


def _calibration(card: dict) -> str:
    figure = Figure(figsize=(9, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_reliability(left, card["calibration"])
    left.set_title("Reliability diagram")
    _draw_curve(right, card)
    picture = svg(figure, "Reliability diagram, and error by number of triples")
    return f"<h2>Calibration and learning curve</h2>{picture}"


def _sensitivity(rows: list[dict]) -> str:
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    _draw_sensitivity(figure.subplots(), rows)
    heads = [
        "check",
        "texts",
        "reward model falls",
        "mean change",
        "judge falls",
        "falls where the judge falls [95%]",
    ]
    cells = []
    for row in rows:
        agreement = MISSING
        if row["falls_with_judge"] is not None:
            bounds = f"[{_share(row['low'])}, {_share(row['high'])}]"
            agreement = f"{_share(row['falls_with_judge'])} {bounds}"
        cells.append(
            [
                escape(row["check"]),
                number(row["n"], 0),
                _share(row["falls"]),
                number(row["change"], 3),
                _share(row["judge_falls"]),
                agreement,
            ]
        )
    return (
        "<h2>Does the score fall when a text is degraded?</h2>"
        + svg(figure, "Share of degraded texts whose score fell")
        + table(heads, cells, "numbers")
    )


def _worst(rows: list[dict]) -> str:
    cells = []
    for row in rows:
        facts = f"scored {row['score']:.2f} · predicted {row['predicted']:.2f}"
        if row["ratings"]:
            ratings = ", ".join(f"{rating:g}" for rating in row["ratings"])
            facts += f" · ratings {ratings}"
        text = f"<div class=text>{escape(row['text'])}</div><small>{facts}</small>"
        cells.append([escape(row["topic"]), text])
    return "<h2>The ten largest errors</h2>" + table(["topic", "text"], cells, "samples")


def _share(value: float | None) -> str:
    return MISSING if value is None else f"{value:.0%}"


# --- figures --------------------------------------------------------------------------------------


def _draw_bars(figure: Figure, card: dict) -> None:
    """MSE, Pearson r and pairwise accuracy of each predictor; the reward model comes last."""
    names = list(card["predictors"])
    colours = [MUTED] * (len(names) - 1) + [REWARD]
    axes = dict(zip(("mse", "pearson", "pairwise"), figure.subplots(1, 3), strict=True))
    titles = ("MSE (lower is better)", "Pearson r", "pairwise accuracy")
    for (key, axis), title in zip(axes.items(), titles, strict=True):
        values = [card["predictors"][name][key] or 0 for name in names]
        axis.barh(range(len(names)), values, color=colours)
        axis.set_yticks(range(len(names)), names if key == "mse" else [""] * len(names))
        axis.invert_yaxis()
        axis.set_title(title)
        axis.grid(axis="y", visible=False)
        if key != "mse":
            axis.set_xlim(min(0, *values), 1)
    axes["pairwise"].axvline(0.5, color=MUTED, linestyle=":", linewidth=1)  # chance
    if card["ceiling"]:
        ceiling = card["ceiling"]["mean"]
        axes["pearson"].axvline(ceiling, color=JUDGE, linestyle="--", linewidth=1.2)
        axes["pearson"].annotate(
            "noise ceiling",
            (ceiling, -0.42),
            (-3, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=8,
            color=JUDGE,
        )


def _draw_curve(axis: Axes, card: dict) -> None:
    """Held-out error by number of training triples, with two baselines that saw them all."""
    triples = [row["triples"] for row in card["curve"]]
    errors = [row["mse"] for row in card["curve"]]
    axis.plot(triples, errors, "-o", color=REWARD, label="reward model", markersize=4)
    for name, colour, line in (("constant", MUTED, ":"), ("tf-idf ridge", OTHER, "--")):
        error, label = card["predictors"][name]["mse"], f"{name}, all triples"
        axis.axhline(error, color=colour, linestyle=line, linewidth=1.2, label=label)
    axis.set_xscale("log", base=2)
    axis.set_xticks(triples, [f"{count:,}" for count in triples])
    axis.minorticks_off()
    axis.set(xlabel="training triples", ylabel="held-out MSE", ylim=(0, None))
    axis.set_title("Learning curve")
    axis.legend(fontsize=8.5)


def _draw_sensitivity(axis: Axes, rows: list[dict]) -> None:
    """For each perturbation, how often the reward model's and the judge's score fell."""
    places = np.arange(len(rows))
    model_falls = [row["falls"] or 0 for row in rows]
    judge_falls = [row["judge_falls"] or 0 for row in rows]
    axis.barh(places - 0.19, model_falls, 0.36, color=REWARD, label="reward model falls")
    axis.barh(places + 0.19, judge_falls, 0.36, color=JUDGE, label="judge falls")
    axis.set_yticks(places, [row["check"] for row in rows])
    axis.invert_yaxis()
    axis.set(xlim=(0, 1), xlabel="share of the texts")
    axis.grid(axis="y", visible=False)
    axis.legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(1.01, 1))
