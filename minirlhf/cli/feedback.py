"""minirlhf feedback: summarize a file of scores or comparisons."""

from __future__ import annotations

from minirlhf.cli.options import Feedback


def feedback(arguments: Feedback) -> None:
    from minirlhf.feedback import summary as summaries
    from minirlhf.feedback.records import read_feedback

    found = read_feedback(arguments.file, arguments.score_range)
    if found.comparisons:
        summary = summaries.summarise_comparisons(found.comparisons)
    else:
        summary = summaries.summarise_scores(found.triples, arguments.score_range)
    print(summaries.in_words(summary))
