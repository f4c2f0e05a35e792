"""minirlhf feedback: summarize a file of scores or comparisons."""

from __future__ import annotations

from minirlhf.cli.options import Feedback
from minirlhf.system.terminal import visible


def feedback(arguments: Feedback) -> None:
    from minirlhf.config import RewardConfig
    from minirlhf.feedback import summary as summaries
    from minirlhf.feedback.duplicates import remarks, with_one_name_per_topic
    from minirlhf.feedback.measurable_split import split_to_measure
    from minirlhf.feedback.records import read_feedback
    from minirlhf.tasks.custom import shared_out

    found = read_feedback(arguments.file, arguments.score_range, conversations=True)
    if found.comparisons:
        summary = summaries.summarise_comparisons(found.comparisons)
    else:
        summary = summaries.summarise_scores(found.triples, arguments.score_range)
    print(visible(summaries.in_words(summary)))
    # What a run on this file (demo --feedback) would say, by the same checks.
    for remark in remarks(found):
        print(visible(f"warning: {remark}"))
    try:
        shares = shared_out(with_one_name_per_topic(found), seed=0)
    except ValueError as error:
        print(visible(f"Cannot be trained on: {error}"))
        return
    if found.triples:
        settings = RewardConfig()
        try:
            split_to_measure(shares.model, settings.heldout_share, 0, settings.min_gap)
        except ValueError as error:
            print(visible(f"warning: {error}"))
