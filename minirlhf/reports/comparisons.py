"""Sections of a run's report that compare its models: wins, kinds of instruction, refusals, tax.

Each reads its part of summary.json. A part that is not there has no section: older runs have none
of them, and many tasks know no kinds and no harmful requests.
"""

from __future__ import annotations

from html import escape

from minirlhf.reports.comparison_figures import (
    kinds_figure,
    losses_figure,
    refusals_figure,
    wins_figure,
)
from minirlhf.reports.figures import svg
from minirlhf.reports.html import interval, number, table
from minirlhf.reports.judged import REQUESTS, SPLITS, evaluated_splits, has_base, model_names

LOSSES = {
    "base": "pretrained base",
    "sft": "after supervised fine-tuning",
    "tuned": "after feedback",
}


def sections(summary: dict) -> dict[str, str]:
    """Title -> HTML of each section that the summary has something for."""
    found = {
        "Against the model before": _wins(summary),
        "Kinds of instruction": _kinds(summary),
        "Refusals": _refusals(summary),
        "Alignment tax": _losses(summary),
    }
    return {title: html for title, html in found.items() if html}


def _wins(summary: dict) -> str:
    splits = [split for split in evaluated_splits(summary) if "win_rate" in summary[split]]
    if not splits:
        return ""
    names = model_names(has_base(summary))
    rows = []
    for split in splits:
        part = summary[split]
        scores = [interval(part.get(f"judge_{when}")) for when in names]
        n = number(part["win_rate"]["n"], 0)
        rows.append([SPLITS[split], *scores, interval(part["win_rate"]), n])
    heads = ["mean [95% interval]", *(f"judge, {name}" for name in names.values())]
    heads += [f"win rate of {names['after']} against {names['before']}", "prompts"]
    return (
        f"<p>The {names['before']} model and the {names['after']} model answer the same prompts, "
        "and the judge says which answer is better. A tie counts half: 0.5 means no better and "
        "no worse.</p>"
        + svg(wins_figure(summary, splits), "Win rate on each split")
        + table(heads, rows, "numbers")
    )


def _kinds(summary: dict) -> str:
    splits = [split for split in evaluated_splits(summary) if summary[split].get("kinds")]
    if not splits:
        return ""
    names = model_names(has_base(summary))
    html = "<p>The judge's score of each kind of instruction (0 to 1).</p>"
    html += svg(kinds_figure(summary, splits, names), "Judge by kind of instruction")
    for split in splits:
        rows = []
        for kind, part in summary[split]["kinds"].items():
            scores = [interval(part.get(when)) for when in names]
            rows.append([escape(kind), *scores, number(part["n"], 0)])
        heads = ["kind", *names.values(), "answers"]
        html += f"<h3>{SPLITS[split].capitalize()}</h3>{table(heads, rows, 'numbers')}"
    return html


def _refusals(summary: dict) -> str:
    refusals = summary.get("refusals")
    if not refusals:
        return ""
    names = model_names("base" in refusals)
    rows = []
    for key, label in REQUESTS.items():
        shares = [interval(refusals[when][key]) for when in names]
        rows.append([label, *shares, number(refusals["after"][key]["n"], 0)])
    return (
        "<p>Harmful requests should be refused and harmless ones in the same words answered. "
        "Neither share says anything without the other: a model that refuses everything has the "
        "first at 1 and the second at 0. None of these requests was used in tuning.</p>"
        + svg(refusals_figure(refusals, names, REQUESTS), "Shares of requests")
        + table(["share [95% interval]", *names.values(), "answers each"], rows, "numbers")
    )


def _losses(summary: dict) -> str:
    losses = summary.get("corpus_loss")
    if not losses:
        return ""
    rises, rows = summary.get("corpus_loss_rise", {}), []
    for name, loss in losses.items():
        rows.append([LOSSES[name], interval(loss, 3), interval(rises.get(name), 3)])
    heads = ["nats per token [95% interval]", "loss", "rise over the line above"]
    texts = number(next(iter(losses.values()))["n"], 0)
    return (
        f"<p>The loss on {texts} held-out texts of the pretraining corpus. What rises here, the "
        "model has forgotten of its pretraining while it learned to please. The rise is measured "
        "on the same texts, so its interval is narrower than those of the losses.</p>"
        + svg(losses_figure(losses, LOSSES), "Loss on the pretraining corpus")
        + table(heads, rows, "numbers")
    )
