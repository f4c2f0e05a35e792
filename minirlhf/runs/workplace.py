"""The folder in which a plan's stages work: made before, and at the end moved, kept or removed."""

from __future__ import annotations

import contextlib
from pathlib import Path

from minirlhf.runs import redo, run_task
from minirlhf.runs.folder import Run
from minirlhf.runs.plan import Plan, feedback_file
from minirlhf.runs.products import CHECKPOINT, PRODUCTS, SFT, is_done
from minirlhf.system import distributed


def make_folder(path: Path) -> None:
    """Make the folder of a new run, so that it can be locked.

    Raises ValueError if it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {error.strerror}") from None


def prepare(plan: Plan) -> Run:
    """Create the run, or the folder in which its stages are done again; return it."""
    config, is_writer = plan.config, distributed.rank() == 0
    if plan.new:
        run = Run.create(plan.path, config)
        run_task.keep_feedback(run)
        run_task.keep_demonstrations(run)
        return run
    if plan.redo and not plan.resume and is_writer:
        redo.begin(plan.path, config, plan.stages, feedback_file(plan))
    run = Run.open(plan.work, config.device)
    if config != run.config:
        run.replace_config(config)
    if SFT in plan.stages:
        run_task.keep_demonstrations(run)
    return run


def finish(plan: Plan) -> None:
    """The stages are done: their results take the place of the old ones."""
    if plan.redo and distributed.rank() == 0:
        redo.swap(plan.path)


def undo(plan: Plan) -> None:
    """After a failure: if nothing that is worth keeping was made, leave the folder as it was."""
    if plan.resume or distributed.rank() > 0 or (plan.work / CHECKPOINT).exists():
        return
    if any(is_done(plan.work, stage) for stage in plan.stages):
        return
    if plan.redo:
        redo.discard(plan.path)
    elif plan.new:
        for name in PRODUCTS:
            (plan.path / name).unlink(missing_ok=True)


def remove_if_empty(path: Path) -> None:
    """Remove the folder of a run that could not begin."""
    with contextlib.suppress(OSError):  # it may hold something
        path.rmdir()
