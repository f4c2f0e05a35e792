"""minirlhf feedback: summarize a file of scores or comparisons."""

from __future__ import annotations

from minirlhf.cli.options import Feedback
from minirlhf.system.terminal import visible


def feedback(arguments: Feedback) -> None:
    from minirlhf.runs.feedback_summary import feedback_lines

    for line in feedback_lines(arguments.file, arguments.score_range):
        print(visible(line))
