"""minirlhf rate: a person scores or compares texts of a run."""

from __future__ import annotations

from minirlhf.cli.options import Rate


def rate(arguments: Rate) -> None:
    from minirlhf.feedback.screens import rate_in_terminal
    from minirlhf.runs.folder import Run, run_path
    from minirlhf.runs.rating import Questions, open_session

    run = Run.open(run_path(arguments.runs, arguments.run), arguments.device)
    pairs = arguments.mode == "pair"
    path = arguments.output or run.path / ("comparisons.jsonl" if pairs else "ratings.jsonl")
    questions = Questions(pairs, arguments.count, arguments.repeats, arguments.seed)
    rate_in_terminal(open_session(run, path, questions, arguments.rater))
