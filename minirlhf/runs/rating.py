"""A rating session on a run's policy: sample texts, choose the questions, open the file."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from minirlhf.feedback.answers import AnswerFile
from minirlhf.feedback.checks import COMPARISONS, SCORES
from minirlhf.feedback.session import RatingSession, make_items, make_queue
from minirlhf.runs import run_models, run_task
from minirlhf.runs.folder import Run
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.ratings import sample_to_rate

ENOUGH_TOPICS = 256  # where a task has thousands of conversations, texts for so many will do


@dataclass(frozen=True)
class Questions:
    """What a rater is asked. Raters who are to be compared must have the same seed."""

    pairs: bool  # which of two texts is better; else the score of one
    count: int
    repeat_share: float = 0.1  # of the questions, asked twice
    seed: int = 0  # of the texts and their order


def open_session(run: Run, path: Path, questions: Questions, rater: str) -> RatingSession:
    """A session on samples of the run's policy, from before and (if it is tuned) after fine-tuning.

    Raises ValueError if the run is not pretrained, or if the file at `path` holds anything but
    answers of this kind (scores or comparisons).
    """
    if not run.is_done("pretrain"):
        raise ValueError(
            f"{run.path}: nothing here writes texts yet; "
            f"run: python -m minirlhf pretrain {run.words} --resume"
        )
    pairs, count, seed = questions.pairs, questions.count, questions.seed
    file = AnswerFile(path, COMPARISONS if pairs else SCORES)
    task, tokenizer = run_task.task_of(run), Tokenizer.load(run.path / "tokenizer.json")
    models = {"before": run_models.model_for_sampling(run, tokenizer, tuned=False)}
    if run.is_done("finetune"):
        models["after"] = run_models.model_for_sampling(run, tokenizer, tuned=True)
    topics = list(dict.fromkeys([*task.train_prompts, *task.heldout_prompts]))
    random.Random(seed).shuffle(topics)
    topics = topics[: max(count, ENOUGH_TOPICS)]
    wanted = count
    if pairs:
        wanted = 2 * count
        # A comparison needs two texts on one topic, so few questions must use few topics.
        topics = topics[: max(1, count // 2)]
    number = max(2 * len(topics), wanted)
    length = run.config.finetune.max_new_tokens
    texts = sample_to_rate(models, tokenizer, topics, number, length, seed)
    items = make_items(texts, pairs, count, seed)
    if not items:
        missing = "two texts on one topic" if pairs else "whole text"
        raise ValueError(f"{run.path}: the policy wrote no {missing} to rate; train it longer")
    queue = make_queue(items, questions.repeat_share, seed, rater)
    return RatingSession(queue, file, rater)
