"""Summarises a file of feedback: counts, agreement between raters, noise ceiling."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from minirlhf.feedback.agreement import (
    by_rater,
    cohens_kappa,
    first_ratings,
    krippendorff_alpha,
    noise_ceiling,
)
from minirlhf.feedback.conversation import Prompt
from minirlhf.feedback.records import Comparison, Triple

NOMINAL = {"first": 0.0, "second": 1.0, "tie": 2.0}  # answers as numbers, for alpha
BAR = 40  # characters of the longest bar of a histogram

Question = tuple[Prompt, ...]  # a topic and two texts in alphabetical order


def summarise_scores(
    triples: Sequence[Triple], score_range: tuple[float, float] = (1.0, 5.0)
) -> dict:
    """Counts, histogram, agreement between raters and of raters with themselves, noise ceiling."""
    texts = by_rater(triples, score_range)
    given = [ratings for raters in texts.values() for ratings in raters.values()]
    ratings = [rating for one in given for rating in one]
    repeats = [one for one in given if len(one) > 1]
    units = first_ratings(texts)
    several = any(len(unit) > 1 for unit in units)
    return {
        "kind": "scores",
        "lines": len(triples),
        "ratings": len(ratings),
        "texts": len(texts),
        "topics": len({triple.topic for triple in triples}),
        **_sources(triples),
        "histogram": histogram(ratings, score_range),
        "mean": float(np.mean(ratings)),
        "ratings_per_text": len(ratings) / len(texts),
        "alpha_interval": krippendorff_alpha(units, "interval"),
        "alpha_ordinal": krippendorff_alpha(units, "ordinal"),
        "repeats": _score_repeats(repeats),
        # A single rater can only be compared with themselves: the ceiling for predicting that
        # rater.
        "ceiling": noise_ceiling(units if several else repeats),
        "ceiling_from": "raters" if several else "repeats",
    }


def _score_repeats(repeats: list[list[float]]) -> dict | None:
    """How well raters agree with themselves: their first two ratings of the same text."""
    if not repeats:
        return None
    same = [ratings[0] == ratings[1] for ratings in repeats]
    differences = [abs(ratings[0] - ratings[1]) for ratings in repeats]
    return {
        "n": len(repeats),
        "same": float(np.mean(same)),
        "mean_difference": float(np.mean(differences)),
    }


def histogram(ratings: Sequence[float], score_range: tuple[float, float]) -> dict[str, int]:
    """How often each value occurs; for more than ten values, ten equal bins by their middle."""
    values, counts = np.unique(ratings, return_counts=True)
    if len(values) > 10:
        counts, edges = np.histogram(ratings, bins=10, range=score_range)
        values = (edges[1:] + edges[:-1]) / 2
    return {f"{value:.3g}": int(count) for value, count in zip(values, counts, strict=True)}


def summarise_comparisons(comparisons: Sequence[Comparison]) -> dict:
    """Counts, agreement between raters and of each rater with themselves."""
    answers = _answers(comparisons)
    names = sorted({one.rater for one in comparisons if one.rater})
    kappas = {}
    for first, second in combinations(names, 2):
        agreement = _pair_agreement(answers, first, second)
        if agreement is not None:
            kappas[f"{first}, {second}"] = agreement
    units = [[NOMINAL[given[0]] for given in raters.values()] for raters in answers.values()]
    repeats = [given for raters in answers.values() for given in raters.values() if len(given) > 1]
    own_agreement = None
    if repeats:
        same = [given[0] == given[1] for given in repeats]
        own_agreement = {"n": len(repeats), "same": float(np.mean(same))}
    texts = {(one.topic, text) for one in comparisons for text in (one.better, one.worse)}
    return {
        "kind": "comparisons",
        "lines": len(comparisons),
        "questions": len(answers),
        "texts": len(texts),
        "topics": len({one.topic for one in comparisons}),
        **_sources(comparisons),
        "ties": sum(one.tie for one in comparisons),
        "kappa": kappas,
        "alpha_nominal": krippendorff_alpha(units, "nominal"),
        "repeats": own_agreement,
    }


def _answers(comparisons: Sequence[Comparison]) -> dict[Question, dict[str, list[str]]]:
    """Question -> rater -> answers: "first" or "second" text of the question is better, or "tie".

    A comparison without `rater` counts as a new rater.
    """
    answers: dict[Question, dict[str, list[str]]] = {}
    for number, one in enumerate(comparisons):
        question = (one.topic, *sorted((one.better, one.worse)))
        if one.tie:
            answer = "tie"
        elif one.better == question[1]:
            answer = "first"
        else:
            answer = "second"
        raters = answers.setdefault(question, {})
        raters.setdefault(one.rater or f"line {number}", []).append(answer)
    return answers


def _pair_agreement(
    answers: dict[Question, dict[str, list[str]]], first: str, second: str
) -> dict | None:
    """Agreement of two raters (first answers) on the questions that both answered, if any."""
    common = [raters for raters in answers.values() if first in raters and second in raters]
    if not common:
        return None
    of_first = [raters[first][0] for raters in common]
    of_second = [raters[second][0] for raters in common]
    return {
        "n": len(common),
        "agreed": float(np.mean([a == b for a, b in zip(of_first, of_second, strict=True)])),
        "kappa": cohens_kappa(of_first, of_second),
    }


def _sources(lines: Sequence[Triple] | Sequence[Comparison]) -> dict:
    """Number of lines by rater and by provenance."""
    raters = Counter(line.rater or "(no name)" for line in lines)
    provenance = Counter(line.provenance for line in lines)
    return {"raters": dict(raters), "provenance": dict(provenance)}


def in_words(summary: dict) -> str:
    """The summary as lines of text."""
    counted = ("lines", "ratings", "questions", "texts", "topics")
    lines = [
        ", ".join(f"{summary[key]:,} {key}" for key in counted if key in summary),
        f"Given by: {_counts_in_words(summary['provenance'])}",
        f"Raters: {_counts_in_words(summary['raters'])}",
    ]
    of_scores = summary["kind"] == "scores"
    lines += _score_lines(summary) if of_scores else _comparison_lines(summary)
    if repeats := summary["repeats"]:
        line = f"Same rater, same question again: {repeats['n']} times"
        line += f", same answer {repeats['same']:.0%}"
        if "mean_difference" in repeats:
            line += f", mean difference {repeats['mean_difference']:.2f}"
        lines.append(line)
    if of_scores:
        lines.append(_ceiling_line(summary))
    return "\n".join(lines)


def _counts_in_words(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _score_lines(summary: dict) -> list[str]:
    most = max(summary["histogram"].values())
    lines = []
    for value, count in summary["histogram"].items():
        lines.append(f"{value:>6} {count:7,} {'#' * math.ceil(BAR * count / most)}")
    lines.append(f"Mean {summary['mean']:.2f}, {summary['ratings_per_text']:.1f} ratings per text")
    interval, ordinal = _number(summary["alpha_interval"]), _number(summary["alpha_ordinal"])
    lines.append(f"Krippendorff's alpha: interval {interval}, ordinal {ordinal}")
    return lines


def _comparison_lines(summary: dict) -> list[str]:
    lines = [f"Ties: {summary['ties']:,}"]
    for pair, value in summary["kappa"].items():
        common = f"{value['n']} questions in common, agreed on {value['agreed']:.0%}"
        lines.append(f"Cohen's kappa of {pair}: {_number(value['kappa'])} ({common})")
    lines.append(f"Krippendorff's alpha, nominal: {_number(summary['alpha_nominal'])}")
    return lines


def _ceiling_line(summary: dict) -> str:
    ceiling = summary["ceiling"]
    if ceiling is None:
        return "Noise ceiling: not known (no two texts have several ratings)"
    source = "raters" if summary["ceiling_from"] == "raters" else "answers of one rater"
    return (
        "Noise ceiling, the best r that any reward model can expect "
        f"({ceiling['n']:,} texts with several {source}): "
        f"{ceiling['one_rater']:.3f} against one rating, {ceiling['mean']:.3f} against their mean"
    )


def _number(value: float | None) -> str:
    return "not defined (too few ratings of the same texts)" if value is None else f"{value:.3f}"
