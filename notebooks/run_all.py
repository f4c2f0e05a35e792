"""Run the notebooks from top to bottom, each in a fresh kernel; fail on any error or warning.

python notebooks/run_all.py                     all of them
python notebooks/run_all.py 04 01 --save        these two, outputs saved
MINIRLHF_FAST=1 python notebooks/run_all.py     fewer steps: does the code run?
"""

from __future__ import annotations

import argparse
import copy
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent
LIMIT_SECONDS = (
    1800  # a cell that hangs; the promise to the reader (4 minutes) is for an idle machine
)


class Faulty(Exception):
    """A notebook raised an error or wrote to standard error."""


def notebooks(names: list[str] | None = None) -> list[Path]:
    """The notebooks, or those whose file names start with one of `names`. Raises ValueError for a name that fits none."""
    paths = sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))
    for name in names or []:
        if not any(path.name.startswith(name) for path in paths):
            raise ValueError(
                f"{name}: expected the start of a notebook's name, such as 04; there is none"
            )
    return [path for path in paths if not names or path.name.startswith(tuple(names))]


def tag_of(cell: NotebookNode, kind: str) -> int | None:
    """3 for a cell with the tag "answer-3" (kind "answer")."""
    numbers = [
        tag.removeprefix(f"{kind}-")
        for tag in cell.metadata.get("tags", [])
        if tag.startswith(f"{kind}-")
    ]
    return int(numbers[0]) if numbers else None


def solutions(path: Path) -> dict[int, str]:
    """Exercise number to code, from solutions/NAME.py: one part each, begun by a line "# %% exercise N"."""
    text = (FOLDER / "solutions" / f"{path.stem}.py").read_text(encoding="utf-8")
    parts = re.split(r"^# %% exercise (\d+)$", text, flags=re.MULTILINE)
    return {int(number): code for number, code in zip(parts[1::2], parts[2::2])}


def with_solutions(notebook: NotebookNode, path: Path) -> NotebookNode:
    """A copy in which each check is followed by the solution and by the same check again, tagged "recheck-N"."""
    notebook, answers = copy.deepcopy(notebook), solutions(path)
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        if (number := tag_of(cell, "check")) is not None:
            cells.append(nbformat.v4.new_code_cell(answers[number]))
            cells.append(
                nbformat.v4.new_code_cell(cell.source, metadata={"tags": [f"recheck-{number}"]})
            )
    notebook.cells = cells
    return notebook


def quick_source(cell: NotebookNode) -> str:
    """The cell's code with fewer steps: its metadata "quick" lists pairs (what to replace, by what).

    Kept there, and not in the code, since it is of no use to the reader.
    """
    source = cell.source
    for full, quick in cell.metadata.get("quick", []):
        source = source.replace(full, quick)
    return source


def execute(notebook: NotebookNode, fast: bool) -> None:
    """Run all cells in place. Raises Faulty, naming the cell, for an error or for anything on standard error."""
    environment = {**os.environ, "MINIRLHF_FAST": "1" if fast else "0", "TQDM_DISABLE": "1"}
    client = NotebookClient(
        notebook,
        timeout=LIMIT_SECONDS,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        extra_arguments=["--log-level=40"],
        resources={"metadata": {"path": str(FOLDER)}},
    )
    client.reset_execution_trackers()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            if fast:
                cell.source = quick_source(cell)
    try:
        client.execute(env=environment)
    except CellExecutionError as error:
        raise Faulty(str(error)) from None
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr":
                raise Faulty(f"standard error of the cell\n{cell.source}\n\n{output.text}")


def cpu_seconds() -> float:
    """Of all kernels that have ended (0 where the system does not say): unlike the clock, it does not mind a busy machine."""
    times = os.times()
    return times.children_user + times.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", help="starts of file names, such as 04; all if none is given"
    )
    parser.add_argument("--save", action="store_true", help="write the outputs into the notebooks")
    arguments = parser.parse_args()
    fast = os.environ.get("MINIRLHF_FAST") == "1"
    if fast and arguments.save:
        parser.error("--save: expected a full run, found MINIRLHF_FAST=1")
    try:
        paths = notebooks(arguments.names)
    except ValueError as error:
        parser.error(str(error))
    failed = []
    for path in paths:
        notebook, started, cpu_before = (
            nbformat.read(path, as_version=4),
            time.perf_counter(),
            cpu_seconds(),
        )
        try:
            execute(notebook, fast)
        except Faulty as fault:
            failed.append(path.name)
            print(f"{path.name}: FAILED\n{fault}", file=sys.stderr, flush=True)
            continue
        if arguments.save:
            notebook.metadata = {
                "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                "language_info": {"name": "python"},
            }
            temporary = path.with_suffix(".tmp")
            nbformat.write(notebook, temporary)
            os.replace(temporary, path)
        print(
            f"{path.name}: {time.perf_counter() - started:.0f} s, {cpu_seconds() - cpu_before:.0f} s of CPU"
            f"{', saved' if arguments.save else ''}",
            flush=True,
        )
    if failed:
        sys.exit(f"{len(failed)} of {len(paths)} failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
