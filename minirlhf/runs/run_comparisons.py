"""The comparisons that DPO learns from: the same feedback that the reward model learns from."""

from __future__ import annotations

from minirlhf.config import Config
from minirlhf.runs.folder import Run
from minirlhf.runs.run_feedback import split_feedback, split_task_feedback
from minirlhf.runs.run_models import tokenizer_of
from minirlhf.tasks.task import Task
from minirlhf.training.batches import Split
from minirlhf.training.ranking import pairs_from_scores
from minirlhf.training.reward_objectives import ScoredTexts


def comparisons_of(run: Run, task: Task) -> Split[ScoredTexts]:
    """Texts with the comparisons between them, to train on and held out.

    Where people compared, their comparisons; else those that the scores make within a topic.
    """
    tokenizer, context = tokenizer_of(run, task), run.config.model.context
    train, heldout = split_feedback(run, task)
    return Split(
        ScoredTexts(tokenizer, train, context, task.comparisons),
        ScoredTexts(tokenizer, heldout, context, task.heldout_comparisons),
    )


def check_comparisons(config: Config, task: Task) -> None:
    """Raise ValueError if DPO is chosen and no two texts of the feedback can be compared."""
    if config.finetune.algorithm != "dpo" or task.comparisons:
        return
    train = task.feedback if task.heldout_feedback else split_task_feedback(config, task)[0]
    pairs_from_scores(train, config.reward.min_gap)
