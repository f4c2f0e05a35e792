"""Stages are done again beside their old results, which go away only when the new ones stand.

    begin   make the folder .redo in the run folder, with all that the stages before have made
    ...     the stages work in .redo, which is a run folder like any other
    swap    write down what takes whose place (swap.json), move it, delete what is outdated

Until swap.json is there, the run folder is as it was. From then on the new results count: whoever
opens the run after a crash finishes the swap (`recover`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

from minirlhf.config import Config
from minirlhf.config_file import to_json
from minirlhf.runs.products import (
    CHECKPOINT,
    CONFIG,
    FACTS,
    FEEDBACK,
    METRICS,
    PRODUCTS,
    PROGRESS,
    ROWS_OF,
    SAMPLES,
    SHARED,
    STAGES,
    is_run,
    made_by,
    stages_before,
    stages_from,
)
from minirlhf.system.files import atomic_write, read_json, read_jsonl, write_jsonl

REDO = ".redo"
STAGES_FILE = "stages.json"  # which stages are done again
SWAP = "swap.json"


def is_pending(path: Path) -> bool:
    """Whether the run at `path` has stages that are being done again."""
    return is_run(path / REDO)


def resumed(path: Path) -> Path:
    """The folder in which --resume goes on: .redo if there is one, else the run folder itself."""
    return path / REDO if is_pending(path) else path


def begin(path: Path, config: Config, stages: tuple[str, ...], feedback: Path | None) -> None:
    """Make the folder .redo. `feedback` is the user's own file, copied if it is read again.

    An earlier .redo is deleted. config.json comes last: without it .redo does not count.
    """
    work, kept = path / REDO, stages_before(stages[0])
    discard(path)
    work.mkdir(exist_ok=True)
    for name in made_by(kept):
        if (path / name).exists():
            _link(path / name, work / name)
    if feedback is not None and feedback.is_file():
        shutil.copyfile(feedback, work / FEEDBACK)
    for name in (METRICS, SAMPLES):
        rows = [row for row in read_jsonl(path / name) if _stage_of(row) in kept]
        if rows:
            write_jsonl(work / name, rows)
    if kept and (path / PROGRESS).exists():
        progress = _progress_of(read_json(path / PROGRESS), kept)
        atomic_write(work / PROGRESS, json.dumps(progress, indent=1) + "\n")
    atomic_write(work / STAGES_FILE, json.dumps(stages) + "\n")
    atomic_write(work / CONFIG, json.dumps(to_json(config), indent=1) + "\n")


def pending_stages(path: Path) -> tuple[str, ...]:
    """The stages that are being done again."""
    names = read_json(path / REDO / STAGES_FILE)
    if not isinstance(names, list) or not names or not set(names) <= set(STAGES):
        raise ValueError(f"{path / REDO / STAGES_FILE}: expected a list of stages")
    return tuple(names)


def swap(path: Path) -> None:
    """Put the results in .redo in the place of the old ones, and delete what is outdated."""
    work, changed = path / REDO, stages_from(pending_stages(path)[0])
    names = (*made_by(changed), *SHARED, CHECKPOINT)
    moved = [name for name in (*names, FEEDBACK, CONFIG) if (work / name).exists()]
    deleted = [name for name in names if name not in moved]
    atomic_write(work / SWAP, json.dumps({"move": moved, "delete": deleted}) + "\n")
    recover(path)


def recover(path: Path) -> None:
    """Finish the swap of a run, if one has begun. It can be repeated from any point.

    Raises ValueError if swap.json names anything but results of a run.
    """
    work = path / REDO
    if not (work / SWAP).exists():
        return
    steps = read_json(work / SWAP)
    moved, deleted = _names(steps, "move"), _names(steps, "delete")
    if moved is None or deleted is None:
        raise ValueError(f"{work / SWAP}: expected names of a run's files, found something else")
    for name in moved:
        with contextlib.suppress(FileNotFoundError):  # moved before the crash
            os.replace(work / name, path / name)
    for name in deleted:
        (path / name).unlink(missing_ok=True)
    discard(path)


def _names(steps: object, step: str) -> list[str] | None:
    """The names of files in one step of a swap, or None if it is no list of a run's files."""
    names = steps.get(step) if isinstance(steps, dict) else None
    good = isinstance(names, list) and all(name in PRODUCTS for name in names)
    return names if good else None


def discard(path: Path) -> None:
    """Delete .redo: what a run makes, and nothing else that may lie there.

    config.json goes first, so that half a .redo never counts; swap.json last, so that half a swap
    is always finished.
    """
    work = path / REDO
    if not work.is_dir():
        return
    for name in (CONFIG, *PRODUCTS, STAGES_FILE):
        (work / name).unlink(missing_ok=True)
    for temporary in work.glob(".*.tmp"):  # of a process that was killed while it wrote
        temporary.unlink(missing_ok=True)
    (work / SWAP).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # it may hold a file that is not ours
        work.rmdir()


def _link(source: Path, target: Path) -> None:
    """Weights are linked: they are large, and are only ever replaced as a whole. Else a copy."""
    if source.suffix == ".safetensors":
        try:
            os.link(source, target)
            return
        except OSError:
            pass  # a file system without links
    shutil.copyfile(source, target)


def _stage_of(row: dict) -> str:
    """The stage that a row of metrics or samples belongs to. (The judged samples name none.)"""
    stage = row.get("stage", "")
    return ROWS_OF.get(stage, stage)


def _progress_of(progress: object, stages: tuple[str, ...]) -> dict:
    """What progress.json says of these stages."""
    if not isinstance(progress, dict) or not isinstance(progress.get("seconds"), dict):
        return {"seconds": {}}
    facts = {name for stage in stages for name in FACTS[stage]} | {"peak_rss_mb"}
    found = {name: value for name, value in progress.items() if name in facts}
    seconds = progress["seconds"].items()
    return found | {"seconds": {stage: value for stage, value in seconds if stage in stages}}
