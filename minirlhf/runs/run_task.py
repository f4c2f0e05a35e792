"""The task of a run, and whom to ask for ratings."""

from __future__ import annotations

import dataclasses
import shutil

from minirlhf.config import Config
from minirlhf.feedback.answers import AnswerFile
from minirlhf.feedback.person import PersonRaters
from minirlhf.feedback.session import SCORES
from minirlhf.runs.folder import Run
from minirlhf.runs.products import ANSWERS, ENCODER, FEEDBACK, FIRST_RATINGS
from minirlhf.system.files import replacing
from minirlhf.tasks import custom
from minirlhf.tasks.load import load_task
from minirlhf.tasks.task import Task
from minirlhf.training.batches import Corpus


def task_of(run: Run) -> Task:
    """The run's task, or one made from the user's own feedback.

    The feedback is read from a copy in the run folder: if answers were added to the original file,
    texts would move between the reward model's training data and the judge's.
    """
    config, kept = run.config, run.path / FEEDBACK
    if config.feedback is None:
        return task_from(config)
    if not kept.exists() and config.feedback.exists():
        with replacing(kept) as temporary:
            shutil.copyfile(config.feedback, temporary)
    feedback = kept if kept.exists() else config.feedback
    return task_from(dataclasses.replace(config, feedback=feedback))


def task_from(config: Config) -> Task:
    """The task that the settings name.

    Raises ValueError naming every fault of the user's own feedback.
    """
    if config.feedback is not None:
        return custom.load(config.feedback, config.score_range, config.seed)
    return load_task(config.task, config.seed, config.pretrain.corpus_texts)


def outdated_feedback(run: Run) -> list[str]:
    """Files to delete before the reward model is fitted again.

    The policy's samples are rated again, an encoder is pretrained with the new settings, and the
    file of --feedback is read again (the original is never deleted).
    """
    names, original = [FIRST_RATINGS, ENCODER, FEEDBACK], run.config.feedback
    if original is None:
        return names
    return [name for name in names if (run.path / name).resolve() != original.resolve()]


def with_raters(run: Run, task: Task, person: str | None) -> Task:
    """The task with a person at the terminal as its rater, or unchanged if `person` is None.

    Raises ValueError if there is nobody to ask.
    """
    if person is not None:
        config = run.config.finetune
        file, total = AnswerFile(run.path / ANSWERS[0]), config.rounds * config.ratings_per_round
        raters = PersonRaters(file, person, total)
        scale = float(SCORES[0]), float(SCORES[-1])
        task = dataclasses.replace(task, raters=raters, raters_are="people", rating_range=scale)
    if task.raters is None:
        raise ValueError(
            f"task {task.name}: no raters to ask between rounds; give the ratings yourself with "
            "--person NAME"
        )
    return task


def corpus_of(task: Task) -> Corpus:
    return Corpus(task.corpus, task.corpus_heldout, task.match_topics)
