"""The task of a run, and whom to ask for ratings."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path

from minirlhf.config import Config
from minirlhf.feedback.answers import AnswerFile
from minirlhf.feedback.demonstrations import read_demonstrations
from minirlhf.feedback.person import PersonRaters
from minirlhf.feedback.session import SCORES
from minirlhf.runs.folder import Run
from minirlhf.runs.products import ANSWERS, DEMONSTRATIONS, FEEDBACK
from minirlhf.system import distributed
from minirlhf.system.files import reopenable, replacing
from minirlhf.tasks import custom
from minirlhf.tasks.load import load_task
from minirlhf.tasks.task import Task


def task_of(run: Run) -> Task:
    """The run's task, or one made from the user's own feedback.

    The feedback is read from a copy in the run folder: if answers were added to the original file,
    texts would move between the reward model's training data and the judge's.
    """
    keep_feedback(run)
    feedback, demonstrations = run.config.feedback, run.config.sft.demonstrations
    if feedback is not None and (run.path / FEEDBACK).exists():
        feedback = run.path / FEEDBACK
    if demonstrations is not None and (run.path / DEMONSTRATIONS).exists():
        demonstrations = run.path / DEMONSTRATIONS
    return task_from(reading(run.config, feedback, demonstrations))


def reading(config: Config, feedback: Path | None, demonstrations: Path | None) -> Config:
    """The settings with other files to read."""
    sft = dataclasses.replace(config.sft, demonstrations=demonstrations)
    return dataclasses.replace(config, feedback=feedback, sft=sft)


def keep_feedback(run: Run) -> None:
    """Copy the user's own feedback into the run folder, unless a copy is there."""
    _keep(run.config.feedback, run.path / FEEDBACK)


def keep_demonstrations(run: Run) -> None:
    """The same for the user's own demonstrations: a stage that is resumed reads the same ones."""
    _keep(run.config.sft.demonstrations, run.path / DEMONSTRATIONS)


def _keep(original: Path | None, kept: Path) -> None:
    if original is None or kept.exists() or not original.exists():
        return
    if distributed.rank() == 0:
        with replacing(kept) as temporary:
            shutil.copyfile(reopenable(original), temporary)


def feedback_again(path: Path, config: Config) -> Path | None:
    """The file to read when the reward model is fitted again: the user's own, else the run's copy.

    None if the run has no feedback of its own. Raises ValueError if neither file is there.
    """
    original, kept = config.feedback, path / FEEDBACK
    if original is None:
        return None
    # Older versions stored the path as it was typed, relative to a folder that nobody recorded.
    if original.is_absolute() and original.exists():
        return original
    if kept.is_file():
        print(
            f"note: {original} is not there any more; the run's copy of it is used", file=sys.stderr
        )
        return kept
    return original


def task_from(config: Config) -> Task:
    """The task that the settings name.

    Raises ValueError naming every fault of the user's own feedback and demonstrations.
    """
    if config.feedback is not None:
        task = custom.load(config.feedback, config.score_range, config.seed)
    else:
        task = load_task(config.task, config.seed, config.pretrain.corpus_texts)
    if config.sft.demonstrations is not None:
        own = read_demonstrations(config.sft.demonstrations)
        task = dataclasses.replace(task, demonstrations=own)
    return task


def with_raters(run: Run, task: Task, person: str | None) -> Task:
    """The task with a person at the terminal as its rater, or unchanged if `person` is None.

    Raises ValueError if there is nobody to ask, or if nobody is asked between rounds.
    """
    if person is not None:
        if task.ranker is not None:
            raise ValueError(
                f"--person: expected a task with scores, found {task.name}, whose answers are "
                "ranked"
            )
        config = run.config.finetune
        file = AnswerFile(run.path / ANSWERS[0], "scores")
        raters = PersonRaters(file, person, config.rounds * config.ratings_per_round)
        scale = float(SCORES[0]), float(SCORES[-1])
        task = dataclasses.replace(task, raters=raters, raters_are="people", rating_range=scale)
    if task.ranker is not None:
        raise ValueError(
            f"iterate: expected a task whose texts are rated in rounds, found {task.name}, whose "
            "answers are ranked once; run reward, finetune and evaluate instead"
        )
    if task.raters is None:
        raise ValueError(
            f"task {task.name}: no raters to ask between rounds; give the ratings yourself with "
            "--person NAME"
        )
    return task
