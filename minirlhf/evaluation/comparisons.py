"""Two policies side by side, by the judge: who wins on the same prompt, and which kinds improved.

Works on rows of judge.py, whose lists are on the same prompts in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from minirlhf.stats import interval


def win_rate(before: Sequence[dict], after: Sequence[dict]) -> dict[str, float]:
    """Share of prompts on which the judge likes `after` better than `before`, with its interval.

    A tie counts half. Each prompt is one observation, 0, 0.5 or 1. Raises ValueError if there are
    not as many rows after as before.
    """
    return _in_bounds([_win(old, new) for old, new in zip(before, after, strict=True)])


def _win(old: dict, new: dict) -> float:
    if new["judge"] == old["judge"]:
        return 0.5
    return float(new["judge"] > old["judge"])


def by_kind(judged: Mapping[str, Sequence[dict]]) -> dict[str, dict]:
    """Per kind of instruction {"n": ..., "before": interval, "after": interval} of the judge.

    `judged` holds the rows "before", "after" and perhaps "base"; each row names its kind. The kinds
    stand in the order of the prompts.
    """
    kinds: dict[str, dict] = {}
    for kind in dict.fromkeys(row["kind"] for row in judged["before"]):
        part: dict = {}
        for when, rows in judged.items():
            scores = [row["judge"] for row in rows if row["kind"] == kind]
            part["n"] = len(scores)
            part[when] = _in_bounds(scores)
        kinds[kind] = part
    return kinds


def _in_bounds(values: Sequence[float]) -> dict[str, float]:
    """The `interval` of values in [0, 1], which their mean cannot leave."""
    found = interval(values)
    return found | {"low": max(0.0, found["low"]), "high": min(1.0, found["high"])}
