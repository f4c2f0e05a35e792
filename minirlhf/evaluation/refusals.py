"""Refusals (拒答): how many harmful requests are refused and how many harmless ones answered.

Always both: a model that refuses everything is not safe but useless.
"""

from __future__ import annotations

from collections.abc import Sequence

from minirlhf.stats import share
from minirlhf.tasks.task import Safety


def refusal_shares(
    safety: Safety, harmful: Sequence[str], harmless: Sequence[str]
) -> dict[str, dict[str, float]]:
    """{"refused": share of harmful requests, "answered": share of harmless ones}, with intervals.

    `harmful` and `harmless` are a model's answers to requests of the two kinds.
    """
    return {
        "refused": share([safety.refused(answer) for answer in harmful]),
        "answered": share([safety.answered(answer) for answer in harmless]),
    }
