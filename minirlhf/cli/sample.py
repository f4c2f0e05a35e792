"""minirlhf sample: print texts of the tuned policy, or compare them with those before."""

from __future__ import annotations

import shutil
import sys
import textwrap

from minirlhf.cli.options import Sample
from minirlhf.system.terminal import visible

NARROWEST = 10  # characters of a column


def sample(arguments: Sample) -> None:
    from minirlhf.models.next_token import SamplingOptions
    from minirlhf.runs.folder import Run, run_path
    from minirlhf.runs.topic_texts import TextsWanted, TopicWriter

    run = Run.open(run_path(arguments.runs, arguments.run), arguments.device)
    writer = TopicWriter(run)
    for line in writer.advice(arguments.topic):
        print(f"note: {visible(line)}", file=sys.stderr)
    wanted = TextsWanted(
        arguments.topic,
        arguments.count,
        arguments.best_of,
        SamplingOptions(arguments.temperature, arguments.top_k, arguments.top_p),
        arguments.seed,
    )
    if arguments.compare:
        before, after = writer.texts(wanted, tuned=False), writer.texts(wanted)
        print_side_by_side([("BEFORE", "AFTER"), *zip(before, after, strict=True)])
    elif arguments.soft_prompt:
        names = arguments.soft_prompt.split(",")
        folders = [run_path(arguments.runs, name) for name in names]
        for name, texts in zip(names, writer.texts_behind(folders, wanted), strict=True):
            for text in texts:
                print(f"{name}: {visible(text)}")
    else:
        for text in writer.texts(wanted):
            print(visible(text))


def print_side_by_side(pairs: list[tuple[str, str]]) -> None:
    """Two columns as wide as the terminal allows, a line below each pair."""
    width = max(NARROWEST, (shutil.get_terminal_size().columns - 3) // 2)
    for pair in pairs:
        left, right = (textwrap.wrap(visible(text), width) or [""] for text in pair)
        for index in range(max(len(left), len(right))):
            line = [column[index] if index < len(column) else "" for column in (left, right)]
            print(f"{line[0]:{width}s} | {line[1]}".rstrip())
        print("-" * width + "-+-" + "-" * width)
