"""TODO"""

from __future__ import annotations

import random
from pathlib import Path

from minirlhf.feedback.answers import AnswerFile
from minirlhf.feedback.session import RatingSession, make_items, make_queue
from minirlhf.runs import pipeline
from minirlhf.runs.folder import Run
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.ratings import sample_texts


def open_session(
    run: Run,
    path: Path,
    pairs: bool,
    count: int,
    rater: str,
    repeat_share: float = 0.1,
    seed: int = 0,
) -> RatingSession:
    """A session on texts of the run's policy, before and after fine-tuning if it is tuned. One seed, one set of texts: raters
    who are to be compared use the same. Raises ValueError if the run is not pretrained or the file holds the other form."""
    if not pipeline.is_done(run, "pretrain"):
        raise ValueError(
            f"{run.path}: nothing here writes texts yet; run: python -m minirlhf pretrain --run {run.path.name}"
        )
    file = AnswerFile(path)
    if any(("better" in record) != pairs for record in file.records()):
        raise ValueError(
            f"{path}: holds {'scores' if pairs else 'comparisons'}; give another file with --output"
        )
    task, tokenizer = pipeline.task_of(run), Tokenizer.load(run.path / "tokenizer.json")
    names = {"before": False} | ({"after": True} if pipeline.is_done(run, "finetune") else {})
    models = {
        name: pipeline.model_for_sampling(run, tokenizer, tuned) for name, tuned in names.items()
    }
    topics = list(dict.fromkeys([*task.train_prompts, *task.heldout_prompts]))
    random.Random(seed).shuffle(topics)
    topics = (
        topics[: max(1, count // 2)] if pairs else topics
    )  # few questions, few topics: the texts must find partners
    wanted = 2 * count if pairs else count
    texts = sample_texts(
        models,
        tokenizer,
        topics,
        max(2 * len(topics), wanted),
        run.config.finetune.max_new_tokens,
        seed,
    )
    items = make_items(texts, pairs, count, seed)
    if not items:
        raise ValueError(
            f"{run.path}: the policy wrote no {'two texts on one topic' if pairs else 'whole text'} to rate; "
            "train it longer"
        )
    return RatingSession(make_queue(items, repeat_share, seed, rater), file, rater)
