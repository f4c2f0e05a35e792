"""minirlhf feedback: summarize a file of scores or comparisons."""

from __future__ import annotations

from minirlhf.cli.options import Feedback
from minirlhf.system.terminal import visible


def feedback(arguments: Feedback) -> None:
    from minirlhf.feedback import summary as summaries
    from minirlhf.feedback.records import holds_comparisons, read_comparisons, read_triples

    if holds_comparisons(arguments.file):
        summary = summaries.summarise_comparisons(read_comparisons(arguments.file))
    else:
        summary = summaries.summarise_scores(
            read_triples(arguments.file, arguments.score_range), arguments.score_range
        )
    print(visible(summaries.in_words(summary)))
