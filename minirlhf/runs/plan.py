"""What a command does to a run folder: planned and checked before anything is made or deleted.

Stages whose results exist are done again in a folder of their own (redo.py), so that the old
results stand until the new ones do. workplace.py makes room for a plan, and carry_out runs it.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from minirlhf.config import Config
from minirlhf.runs import estimate, pipeline, redo, run_feedback, run_task
from minirlhf.runs.folder import Run, read_config, run_words
from minirlhf.runs.products import (
    CHECKPOINT,
    DEMONSTRATIONS,
    FEEDBACK,
    SFT,
    command_of,
    is_done,
    is_run,
    made_by,
    stages_before,
    stages_from,
)
from minirlhf.runs.run_comparisons import check_comparisons
from minirlhf.runs.settings import differing, with_absolute_paths
from minirlhf.runs.start import settle_start
from minirlhf.system.devices import DeviceName, pick_device, release_freed_memory
from minirlhf.tasks.task import Task


@dataclass(frozen=True)
class Plan:
    """What a command does to a run folder."""

    path: Path
    config: Config  # the run's settings from now on
    stages: tuple[str, ...]  # to do, in this order; stages already done are skipped
    new: bool = False  # the run does not exist yet
    redo: bool = False  # the stages work in .redo; the old results are replaced at the end
    resume: bool = False

    @property
    def work(self) -> Path:
        """The folder in which the stages work."""
        return self.path / redo.REDO if self.redo else self.path


def plan_new(
    path: Path, config: Config, stages: tuple[str, ...], resume: bool, overwrite: bool
) -> Plan:
    """A run from its first stage on; with `resume` an existing one continues with its own settings.

    Raises ValueError if a run exists and neither `resume` nor `overwrite` is given, or if `config`
    differs from the settings of a run that is to continue.
    """
    check_choice(resume, overwrite)
    if resume and is_run(path):
        return plan_resume(path, config, stages)
    Run.check_free(path, overwrite)
    exists = is_run(path)
    return Plan(path, with_absolute_paths(config), stages, new=not exists, redo=exists)


def plan_stages(
    path: Path,
    stages: tuple[str, ...],
    settings: dict,
    resume: bool,
    overwrite: bool,
    device: DeviceName = "auto",
) -> Plan:
    """Stages of an existing run, with new settings ({"finetune": FinetuneConfig(...)}, ...).

    Raises ValueError if an earlier stage is missing, if a result exists and neither `resume` nor
    `overwrite` is given, or if `settings` differ from those of a run that is to continue.
    """
    check_choice(resume, overwrite)
    own, first = read_config(path), stages[0]
    is_interrupted = (path / CHECKPOINT).exists()
    for stage in stages_before(first):
        if stage != SFT and not is_done(path, stage):  # check() looks whether SFT is needed
            again = " --resume" if stage == "pretrain" or is_interrupted else ""
            raise ValueError(missing_words(path, first, stage) + again)
    if resume:
        own = read_config(redo.resumed(path))
        return plan_resume(path, dataclasses.replace(own, device=device, **settings), stages)
    config = dataclasses.replace(own, device=device, **settings)
    config = dataclasses.replace(config, sft=with_absolute_paths(config).sft)
    redone = has_products(path, first)
    if overwrite:
        return Plan(path, config, stages, redo=redone)
    if redo.is_pending(path):
        raise ValueError(f"{path}: {pending_words(path)} or start over with --overwrite")
    done = [stage for stage in stages_from(first) if is_done(path, stage)]
    if done and done[0] == first:
        raise ValueError(
            f"{path}: {first} is done already; redo it (and what follows) with --overwrite"
        )
    if done:
        raise ValueError(
            f"{path}: {done[0]}, which comes after {first}, is done already; --overwrite removes "
            "it (and what follows)"
        )
    if is_interrupted:
        raise ValueError(
            f"{path}: a stage was interrupted here; continue with --resume or start over with "
            "--overwrite"
        )
    return Plan(path, config, stages, redo=redone)


def missing_words(path: Path, first: str, stage: str) -> str:
    """How to make the result of the stage before the first one that was asked for."""
    return (
        f"{path}: {first} needs the stage before it; "
        f"run: python -m minirlhf {stage} {run_words(path)}"
    )


def has_products(path: Path, first: str) -> bool:
    """Whether this stage or a later one has left files, finished or not.

    The copy of the user's feedback counts for the reward model, which reads the original again.
    """
    names = [*made_by(stages_from(first)), CHECKPOINT]
    if first == "reward":
        names.append(FEEDBACK)
    return any((path / name).exists() for name in names)


def plan_resume(path: Path, config: Config, stages: tuple[str, ...]) -> Plan:
    """Go on where the run was interrupted; of `config` only the device and precision are new.

    Raises ValueError if other settings differ from the run's, or if other stages were interrupted
    while they were done again.
    """
    pending = redo.is_pending(path)
    if pending and redo.pending_stages(path) != stages:
        raise ValueError(f"{path}: {pending_words(path)} or start over with --overwrite")
    own = read_config(redo.resumed(path))
    given, kept = with_absolute_paths(config), with_absolute_paths(own)
    given = dataclasses.replace(given, device=kept.device, precision=kept.precision)
    if names := differing(given, kept):
        found = ", ".join(f"--{name.replace('_', '-')}" for name in names)
        raise ValueError(
            "--resume: expected the settings with which the run was started, found other values of "
            f"{found}; leave them out, or start over with --overwrite"
        )
    own = dataclasses.replace(own, device=config.device, precision=config.precision)
    return Plan(path, own, stages, redo=pending, resume=True)


def pending_words(path: Path) -> str:
    command = command_of(redo.pending_stages(path))
    return (
        f"{command} was interrupted here; go on with: python -m minirlhf {command} "
        f"{run_words(path)} --resume, go back to what was there by deleting {path / redo.REDO},"
    )


def check_choice(resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise ValueError("--resume and --overwrite: expected at most one of the two, found both")


def check(plan: Plan) -> tuple[Plan, Task]:
    """The plan, completed with the model that the run starts from, and its task.

    Raises ValueError for a device that is not available, and for data that is missing or malformed.
    """
    config = plan.config
    pick_device(config.device)
    if plan.new or ((plan.redo or plan.stages[0] == SFT) and not plan.resume):
        files = feedback_file(plan), demonstrations_file(plan)
        task = run_task.task_from(run_task.reading(config, *files))
    else:
        task = run_task.task_of(Run.open(plan.work, config.device))
    if plan.stages[0] in ("pretrain", "reward") and not plan.resume:
        run_feedback.check_feedback(config, task)
        check_comparisons(config, task)
    check_demonstrations(plan, task)
    if task.ranker is not None and "finetune" in plan.stages and config.finetune.rounds > 1:
        print(
            f"note: answers of the task {task.name} are ranked once, before fine-tuning, so it has "
            f"one round; --finetune.rounds {config.finetune.rounds} changes nothing",
            file=sys.stderr,
        )
    if plan.stages[0] == "pretrain" and not plan.resume:
        for warning in task.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        plan = dataclasses.replace(plan, config=settle_start(config, task))
    check_soft_prompts(plan, task)
    return plan, task


def check_soft_prompts(plan: Plan, task: Task) -> None:
    """Raise SettingError if a soft prompt leaves no room, or would change its length."""
    config = plan.config
    room = config.model.context - config.finetune.max_new_tokens
    for stage in plan.stages:
        if stage not in ("sft", "finetune") or getattr(config, stage).tune == "all":
            continue
        length = getattr(config, stage).soft_prompt.length
        expected = f"less than {room}, beside {config.finetune.max_new_tokens} tokens of text"
        expected += f" in a context of {config.model.context}"
        config.require(length < room, f"{stage}.soft_prompt.length", expected)
    learned = bool(task.demonstrations) and config.sft.tune != "all"
    if learned and "finetune" in plan.stages and config.finetune.tune != "all":
        length = config.sft.soft_prompt.length
        same = config.finetune.soft_prompt.length == length
        words = f"{length}, as the soft prompt of sft has it"
        config.require(same, "finetune.soft_prompt.length", words)


def feedback_file(plan: Plan) -> Path | None:
    """The file with the user's own feedback that the stages read. None: the task's is used."""
    config, kept = plan.config, plan.path / FEEDBACK
    if plan.stages[0] == "pretrain" or config.feedback is None:
        return config.feedback  # as it was given
    if plan.stages[0] == "reward" or not kept.exists():
        return run_task.feedback_again(plan.path, config)
    return kept


def demonstrations_file(plan: Plan) -> Path | None:
    """The file with the user's own demonstrations that the stages read, as `feedback_file`."""
    original, kept = plan.config.sft.demonstrations, plan.path / DEMONSTRATIONS
    return original if original is None or SFT in plan.stages or not kept.exists() else kept


def check_demonstrations(plan: Plan, task: Task) -> None:
    """Raise ValueError if there are demonstrations that were not learned, or none to learn."""
    first = plan.stages[0]
    if first == SFT and not task.demonstrations:
        raise ValueError(
            f"--demonstrations: expected a file, as the task {task.name} has no demonstrations, "
            "found none"
        )
    if SFT in stages_before(first) and task.demonstrations and not is_done(plan.path, SFT):
        again = " --resume" if (plan.path / CHECKPOINT).exists() else ""
        raise ValueError(missing_words(plan.path, first, SFT) + again)


def judged_lists(task: Task) -> int:
    """How many lists of evaluate.samples samples are judged: one for each split and model.

    The requests of `safety` are two half lists.
    """
    models = 3 if task.demonstrations else 2  # with the base that the demonstrations were shown
    return models * (2 + len(task.more_prompts) + (task.safety is not None))


def workload(task: Task) -> estimate.Workload:
    """What the estimate of a run's time has to know of its task."""
    ranked = task.ranker is not None
    return estimate.Workload(
        raters=task.raters is not None and not ranked,
        demonstrations=bool(task.demonstrations),
        rankings=ranked,
        judged=judged_lists(task),
    )


def carry_out(run: Run, task: Task, stages: tuple[str, ...]) -> None:
    """Run the stages that are not done yet; if there are several, print how long each may take.

    KeyboardInterrupt is left to the caller; --resume continues where the run was interrupted.
    """
    todo = [stage for stage in stages if not run.is_done(stage)]
    if SFT in todo and not task.demonstrations:
        todo.remove(SFT)
    expected = {}
    if len(todo) > 1:
        load = workload(task)
        expected = estimate.seconds(run.config, run.device, load)
        print("\n".join(estimate.plan_lines(run.config, load, expected, todo)))
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
