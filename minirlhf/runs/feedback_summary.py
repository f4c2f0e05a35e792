"""What to know of a file of scores or comparisons before a run learns from it, line by line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from minirlhf.config import RewardConfig
from minirlhf.feedback import summary as summaries
from minirlhf.feedback.duplicates import remarks, with_one_name_per_topic
from minirlhf.feedback.measurable_split import split_to_measure
from minirlhf.feedback.records import read_feedback
from minirlhf.tasks.custom import shared_out


def feedback_lines(path: Path, score_range: tuple[float, float]) -> Iterator[str]:
    """The summary, and then what a run on this file (demo --feedback) would say of it.

    `score_range`: the lowest and the highest score. Raises ValueError for a malformed file.
    """
    found = read_feedback(path, score_range, conversations=True)
    if found.comparisons:
        summary = summaries.summarise_comparisons(found.comparisons)
    else:
        summary = summaries.summarise_scores(found.triples, score_range)
    yield summaries.in_words(summary)
    for remark in remarks(found):
        yield f"warning: {remark}"
    try:
        shares = shared_out(with_one_name_per_topic(found), seed=0)
    except ValueError as error:
        yield f"Cannot be trained on: {error}"
        return
    if found.triples:
        settings = RewardConfig()
        try:
            split_to_measure(shares.model, settings.heldout_share, 0, settings.min_gap)
        except ValueError as error:
            yield f"warning: {error}"
