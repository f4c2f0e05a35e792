"""From a command to its work in four steps: plan, check, clear, carry out.

Plan what to do, check that it can be done, delete what it replaces, do it. Nothing is created or
deleted before everything that can be checked has been checked.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

from minirlhf.config import Config, PretrainConfig, check_config
from minirlhf.runs import estimate, pipeline, products, run_task
from minirlhf.runs.base import read_base
from minirlhf.runs.folder import Run
from minirlhf.runs.products import CHECKPOINT
from minirlhf.system.devices import pick_device, release_freed_memory
from minirlhf.tasks.task import Task


@dataclass(frozen=True)
class Plan:
    """What a command does to a run folder."""

    path: Path
    config: Config  # the run's settings from now on
    stages: tuple[str, ...]  # to do, in this order; stages already done are skipped
    outdated: tuple[str, ...] = ()  # files of the run that are deleted first
    new: bool = False  # the run does not exist yet, or is replaced as a whole
    overwrite: bool = False


def plan_new(
    path: Path, config: Config, stages: tuple[str, ...], resume: bool, overwrite: bool
) -> Plan:
    """A run from its first stage on; with `resume` an existing one continues with its own settings.

    Raises ValueError if a run exists and neither `resume` nor `overwrite` is given.
    """
    if resume and (path / "config.json").exists():
        return Plan(path, Run.open(path).config, stages)
    Run.check_free(path, overwrite)
    return Plan(path, config, stages, new=True, overwrite=overwrite)


def plan_stages(
    path: Path, stages: tuple[str, ...], settings: dict, resume: bool, overwrite: bool
) -> Plan:
    """Stages of an existing run, with new settings ({"finetune": FinetuneConfig(...)}, ...).

    Raises ValueError if an earlier stage is missing, or if a result exists and neither `resume` nor
    `overwrite` is given.
    """
    run, first = Run.open(path), stages[0]
    needed = products.STAGES[: products.STAGES.index(first)]
    for stage in needed:
        if not run.is_done(stage):
            raise ValueError(
                f"{path}: {first} needs the stage before it; "
                f"run: python -m minirlhf {stage} {run.words}"
            )
    if resume:
        return Plan(path, run.config, stages)
    later = [stage for stage in products.STAGES[len(needed) :] if run.is_done(stage)]
    if later and not overwrite:
        raise ValueError(
            f"{path}: {first} is done already; redo it (and what follows) with --overwrite"
        )
    if (path / CHECKPOINT).exists() and not overwrite:
        raise ValueError(
            f"{path}: a stage was interrupted here; continue with --resume or start over with "
            "--overwrite"
        )
    outdated = [products.RESULT[stage] for stage in later] + [CHECKPOINT]
    if first == "reward":
        outdated += run_task.outdated_feedback(run)
    return Plan(path, dataclasses.replace(run.config, **settings), stages, tuple(outdated))


def check(plan: Plan) -> tuple[Plan, Task]:
    """The plan, completed with the model that the run starts from, and its task.

    Raises ValueError for settings that do not work together, a device that is not available, and
    data that is missing or malformed.
    """
    config = plan.config
    config.finetune.check()
    check_config(config)
    pick_device(config.device)
    if not plan.new:
        return plan, run_task.task_of(Run.open(plan.path))
    task = run_task.task_from(config)
    return dataclasses.replace(plan, config=settle_start(config, task)), task


def settle_start(config: Config, task: Task) -> Config:
    """The settings, completed with the size of the base and how long it is trained further.

    Raises ValueError if the base is damaged, or if it has another size than the settings ask for.
    """
    pretrain, model = config.pretrain, config.model
    if pretrain.start == "scratch":
        if pretrain.base is not None:
            raise ValueError("--pretrain.base: expected no base with --from-scratch, found one")
        return config
    if task.base_steps is None and pretrain.base is None:
        steps = pretrain.steps or PretrainConfig.steps
        return dataclasses.replace(
            config, pretrain=dataclasses.replace(pretrain, start="scratch", steps=steps)
        )
    base = read_base(pretrain.base)
    for field in dataclasses.fields(model):
        value, wanted = getattr(model, field.name), getattr(base.model, field.name)
        if value not in (wanted, field.default):
            option = f"--model.{field.name.replace('_', '-')}"
            raise ValueError(
                f"{option}: expected {wanted}, as {base.name} has it, "
                f"found {value}; add --from-scratch to train a model of another size"
            )
    steps = pretrain.steps or task.base_steps or 0
    pretrain = dataclasses.replace(pretrain, steps=steps)
    return dataclasses.replace(config, model=base.model, pretrain=pretrain)


def clear(plan: Plan) -> Run:
    """Create the run, or delete from it what the plan replaces; return it."""
    if plan.new:
        return Run.create(plan.path, plan.config, overwrite=plan.overwrite)
    run = Run.open(plan.path)
    if plan.config != run.config or plan.outdated:
        for name in plan.outdated:
            (plan.path / name).unlink(missing_ok=True)
        run.replace_config(plan.config)
    return run


def carry_out(run: Run, task: Task, stages: tuple[str, ...]) -> None:
    """Run the stages that are not done yet; if there are several, print how long each may take.

    KeyboardInterrupt is left to the caller; --resume continues where the run was interrupted.
    """
    todo = [stage for stage in stages if not run.is_done(stage)]
    expected = {}
    if len(todo) > 1:
        expected = estimate.seconds(run.config, run.device, raters=task.raters is not None)
        print("\n".join(estimate.plan_lines(run.config, task.raters is not None, expected, todo)))
    slower = 1.0  # measured over expected time of the last stage
    for number, stage in enumerate(todo):
        if expected:
            run.later_seconds = slower * sum(expected[later] for later in todo[number + 1 :])
        started = time.perf_counter()
        pipeline.STAGE_FUNCTIONS[stage](run, task)
        if expected and expected[stage] > 5:  # shorter stages mostly load files
            slower = (time.perf_counter() - started) / expected[stage]
        release_freed_memory()
    run.later_seconds = None
