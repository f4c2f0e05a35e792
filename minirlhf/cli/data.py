"""minirlhf data: download or rebuild the data of a task."""

from __future__ import annotations

from minirlhf.cli.options import Data
from minirlhf.system.terminal import visible_line


def data(arguments: Data) -> None:
    if arguments.what == "reviews":
        from minirlhf.tasks.reviews import task as reviews

        reviews.fetch()
    else:
        from minirlhf.tasks.openings import task as openings

        path = arguments.output or openings.DATA / "openings.jsonl"
        openings.build_feedback(path)
        print(f"wrote {visible_line(str(path))}")
