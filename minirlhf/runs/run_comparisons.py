"""The comparisons that DPO learns from: the same feedback that the reward model learns from."""

from __future__ import annotations

from minirlhf.config import Config
from minirlhf.feedback.rankings import pairs_of_rankings
from minirlhf.feedback.splits import triples_of_comparisons
from minirlhf.runs.folder import Run
from minirlhf.runs.run_feedback import split_feedback, split_task_feedback
from minirlhf.runs.run_models import tokenizer_of
from minirlhf.runs.run_rankings import split_rankings
from minirlhf.tasks.task import Task
from minirlhf.training.batches import Split
from minirlhf.training.ranking import pairs_from_scores
from minirlhf.training.reward_objectives import ScoredTexts


def comparisons_of(run: Run, task: Task) -> Split[ScoredTexts]:
    """Texts with the comparisons between them, to train on and held out.

    Where answers are ranked, each pair of them that is no tie. Where people compared, their
    comparisons. Else those that the scores make within a topic.
    """
    tokenizer, context = tokenizer_of(run, task), run.config.model.context
    if task.ranker is not None:
        parts = [pairs_of_rankings(rankings) for rankings in split_rankings(run, task)]
        train, heldout = (
            ScoredTexts(tokenizer, triples_of_comparisons(pairs), context, pairs) for pairs in parts
        )
        return Split(train, heldout)
    train_triples, heldout_triples = split_feedback(run, task)
    return Split(
        ScoredTexts(tokenizer, train_triples, context, task.comparisons),
        ScoredTexts(tokenizer, heldout_triples, context, task.heldout_comparisons),
    )


def check_comparisons(config: Config, task: Task) -> None:
    """Raise ValueError if DPO is chosen and no two texts of the feedback can be compared."""
    if config.finetune.algorithm != "dpo" or task.comparisons or task.ranker is not None:
        return
    train = task.feedback if task.heldout_feedback else split_task_feedback(config, task)[0]
    pairs_from_scores(train, config.reward.min_gap)
