"""How far can feedback be trusted? Agreement between raters (评分者一致性), and the best that a reward model can reach."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from itertools import combinations

import numpy as np

from minirlhf.feedback.records import Comparison, Triple


def krippendorff_alpha(units: Sequence[Sequence[float]], level: str = "interval") -> float | None:
    """Krippendorff's alpha: 1 is full agreement, 0 what chance would give. None if no unit has two ratings or all are alike.

    `units` holds the ratings of each text, in any number and order; `level` is "nominal", "ordinal" or "interval".
    Source: Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011).
    """
    if level not in ("nominal", "ordinal", "interval"):
        raise ValueError(f'level: expected "nominal", "ordinal" or "interval", found {level!r}')
    pairable = [unit for unit in units if len(unit) > 1]
    values = np.unique([value for unit in pairable for value in unit])
    if len(values) < 2:
        return None
    counts = np.zeros((len(pairable), len(values)))  # (units, values)
    for row, unit in enumerate(pairable):
        np.add.at(counts[row], np.searchsorted(values, unit), 1)
    weighted = counts / (counts.sum(1, keepdims=True) - 1)
    together = weighted.T @ counts - np.diag(weighted.sum(0))  # coincidences (values, values)
    totals = counts.sum(0)
    if level == "nominal":
        distance = 1 - np.eye(len(values))
    elif level == "interval":
        distance = (values[:, None] - values) ** 2
    else:  # how many ratings lie between two values, half of their own included
        middle = totals.cumsum() - totals / 2
        distance = (middle[:, None] - middle) ** 2
    expected = (np.outer(totals, totals) * distance).sum() / (totals.sum() - 1)
    return float(1 - (together * distance).sum() / expected)


def cohens_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Cohen's kappa (1960) of two raters' answers to the same questions. None if chance alone would give full agreement."""
    if len(first) != len(second) or not first:
        raise ValueError(
            f"kappa: expected as many answers from both raters, found {len(first)} and {len(second)}"
        )
    n = len(first)
    chance = sum(first.count(answer) * second.count(answer) for answer in set(first)) / n**2
    agreed = sum(a == b for a, b in zip(first, second)) / n
    return (agreed - chance) / (1 - chance) if chance < 1 else None


def noise_ceiling(units: Sequence[Sequence[float]]) -> dict[str, float] | None:
    """The best Pearson r that any reward model can expect: {"one_rater", "mean", "reliability", "n"}; None without data.

    A rating is the text's true score plus noise, its raters drawn at random (so a rater's lenience counts as noise). With noise
    variance e from the spread within texts, the mean of k ratings varies by t + e / k, t of it true; a model that knows the true
    score has r = sqrt(t / (t + e)) with one rating and sqrt(t / (t + e/k)) with the mean. With k the same for all texts these
    are the roots of ICC(1,1) and ICC(1,k) of Shrout and Fleiss (1979). Uses the texts with two ratings or more.
    """
    rated = [np.asarray(unit, dtype=float) for unit in units if len(unit) > 1]
    if len(rated) < 2:
        return None
    within = sum(((unit - unit.mean()) ** 2).sum() for unit in rated) / sum(
        len(unit) - 1 for unit in rated
    )
    of_means = float(np.var([unit.mean() for unit in rated], ddof=1))
    noise = within * np.mean([1 / len(unit) for unit in rated])
    if of_means == 0:
        return None
    true = max(0.0, of_means - noise)
    return {
        "one_rater": math.sqrt(true / (true + within)) if true else 0.0,
        "mean": math.sqrt(true / of_means),
        "reliability": true / of_means,
        "n": len(rated),
    }


def by_rater(
    triples: Sequence[Triple], score_range: tuple[float, float]
) -> dict[tuple[str, str], dict[str, list[float]]]:
    """For each (topic, text), each rater's ratings in the order given. A line without `rater` holds raters of its own, one
    for each of its ratings; a line without `ratings` is one rating, its score."""
    low, high = score_range
    texts: dict[tuple[str, str], dict[str, list[float]]] = {}
    for number, triple in enumerate(triples):
        raters = texts.setdefault((triple.topic, triple.text), {})
        for index, rating in enumerate(triple.ratings or (low + triple.score * (high - low),)):
            raters.setdefault(triple.rater or f"line {number} rater {index}", []).append(rating)
    return texts


def summarise_scores(
    triples: Sequence[Triple], score_range: tuple[float, float] = (1.0, 5.0)
) -> dict:
    """Counts, histogram, agreement between raters, each rater with themselves, noise ceiling."""
    texts = by_rater(triples, score_range)
    units = [
        [ratings[0] for ratings in raters.values()] for raters in texts.values()
    ]  # a repeat is not another opinion
    repeats = [
        ratings for raters in texts.values() for ratings in raters.values() if len(ratings) > 1
    ]
    ratings = [
        rating for raters in texts.values() for values in raters.values() for rating in values
    ]
    several = any(len(unit) > 1 for unit in units)
    return {
        "kind": "scores",
        "lines": len(triples),
        "ratings": len(ratings),
        "texts": len(texts),
        "topics": len({triple.topic for triple in triples}),
        **_who(triples),
        "histogram": histogram(ratings, score_range),
        "mean": float(np.mean(ratings)),
        "ratings_a_text": len(ratings) / len(texts),
        "alpha_interval": krippendorff_alpha(units, "interval"),
        "alpha_ordinal": krippendorff_alpha(units, "ordinal"),
        "repeats": {
            "n": len(repeats),
            "same": float(np.mean([a[0] == a[1] for a in repeats])),
            "mean_difference": float(np.mean([abs(a[0] - a[1]) for a in repeats])),
        }
        if repeats
        else None,
        # One rater alone can be measured against themselves: then the ceiling is for predicting that rater.
        "ceiling": noise_ceiling(units if several else repeats),
        "ceiling_from": "raters" if several else "repeats",
    }


def histogram(ratings: Sequence[float], score_range: tuple[float, float]) -> dict[str, int]:
    """How often each value occurs; in ten equal bins, each under its middle, if there are more than ten values."""
    values, counts = np.unique(ratings, return_counts=True)
    if len(values) > 10:
        counts, edges = np.histogram(ratings, bins=10, range=score_range)
        values = (edges[1:] + edges[:-1]) / 2
    return {f"{value:.3g}": int(count) for value, count in zip(values, counts)}


def summarise_comparisons(comparisons: Sequence[Comparison]) -> dict:
    """Counts, agreement between raters, each rater with themselves."""
    answers: dict[
        tuple[str, ...], dict[str, list[str]]
    ] = {}  # question: rater: answers (the better text, or "" for a tie)
    for number, one in enumerate(comparisons):
        question = answers.setdefault((one.topic, *sorted((one.better, one.worse))), {})
        question.setdefault(one.rater or f"line {number}", []).append("" if one.tie else one.better)
    repeats = [given for raters in answers.values() for given in raters.values() if len(given) > 1]
    names = sorted({one.rater for one in comparisons if one.rater})
    kappas = {}
    for a, b in combinations(names, 2):
        both = [
            (key, raters[a][0], raters[b][0])
            for key, raters in answers.items()
            if a in raters and b in raters
        ]
        if (
            both
        ):  # an answer is "first", "second" or "tie", the two texts in one order for both raters
            sides = [
                [_side(key, answer) for key, answer in zip([k for k, _, _ in both], given)]
                for given in ([x for _, x, _ in both], [y for _, _, y in both])
            ]
            agreed = float(np.mean([x == y for x, y in zip(*sides)]))
            kappas[f"{a}, {b}"] = {"n": len(both), "agreed": agreed, "kappa": cohens_kappa(*sides)}
    units = [
        [
            {"first": 0.0, "second": 1.0, "tie": 2.0}[_side(key, given[0])]
            for given in raters.values()
        ]
        for key, raters in answers.items()
    ]
    return {
        "kind": "comparisons",
        "lines": len(comparisons),
        "questions": len(answers),
        "texts": len(
            {(one.topic, text) for one in comparisons for text in (one.better, one.worse)}
        ),
        "topics": len({one.topic for one in comparisons}),
        **_who(comparisons),
        "ties": sum(one.tie for one in comparisons),
        "kappa": kappas,
        "alpha_nominal": krippendorff_alpha(units, "nominal"),
        "repeats": {"n": len(repeats), "same": float(np.mean([a[0] == a[1] for a in repeats]))}
        if repeats
        else None,
    }


def _side(key: tuple[str, ...], answer: str) -> str:
    return "tie" if answer == "" else "first" if answer == key[1] else "second"


def _who(lines: Sequence[Triple] | Sequence[Comparison]) -> dict:
    raters: dict[str, int] = {}
    sources: dict[str, int] = {}
    for line in lines:
        raters[line.rater or "(no name)"] = raters.get(line.rater or "(no name)", 0) + 1
        sources[line.provenance] = sources.get(line.provenance, 0) + 1
    return {"raters": raters, "provenance": sources}


def in_words(summary: dict) -> str:
    """The summary as lines of text."""

    def number(value: float | None) -> str:
        return (
            "not defined (too few ratings of the same texts)" if value is None else f"{value:.3f}"
        )

    counted = ("lines", "ratings", "questions", "texts", "topics")
    lines = [
        ", ".join(f"{summary[key]:,} {key}" for key in counted if key in summary),
        "Given by: "
        + ", ".join(f"{name} {count:,}" for name, count in summary["provenance"].items()),
        "Raters: " + ", ".join(f"{name} {count:,}" for name, count in summary["raters"].items()),
    ]
    if summary["kind"] == "scores":
        most = max(summary["histogram"].values())
        lines += [
            f"{value:>6} {count:7,} {'#' * math.ceil(40 * count / most)}"
            for value, count in summary["histogram"].items()
        ]
        lines += [
            f"Mean {summary['mean']:.2f}, {summary['ratings_a_text']:.1f} ratings a text",
            f"Krippendorff's alpha: interval {number(summary['alpha_interval'])}, "
            f"ordinal {number(summary['alpha_ordinal'])}",
        ]
    else:
        lines.append(f"Ties: {summary['ties']:,}")
        lines += [
            f"Cohen's kappa of {pair}: {number(value['kappa'])} ({value['n']} questions in common, "
            f"agreed on {value['agreed']:.0%})"
            for pair, value in summary["kappa"].items()
        ]
        lines.append(f"Krippendorff's alpha, nominal: {number(summary['alpha_nominal'])}")
    if repeats := summary["repeats"]:
        apart = (
            f", mean difference {repeats['mean_difference']:.2f}"
            if "mean_difference" in repeats
            else ""
        )
        lines.append(
            f"Same rater, same question again: {repeats['n']} times, same answer {repeats['same']:.0%}{apart}"
        )
    if summary["kind"] == "scores":
        ceiling = summary["ceiling"]
        source = {"raters": "raters", "repeats": "answers of one rater"}[summary["ceiling_from"]]
        lines.append(
            "Noise ceiling: not known (no two texts have several ratings)"
            if ceiling is None
            else f"Noise ceiling, the best r that any reward model can expect ({ceiling['n']:,} texts with several "
            f"{source}): {ceiling['one_rater']:.3f} against one rating, {ceiling['mean']:.3f} against their mean"
        )
    return "\n".join(lines)
