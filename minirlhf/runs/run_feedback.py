"""What the reward model of a run learns from: the task's feedback, and rated samples.

Where answers are ranked it learns from rankings alone (run_rankings.py), and there are no scores.
"""

from __future__ import annotations

from minirlhf.config import Config
from minirlhf.feedback.conversation import Prompt
from minirlhf.feedback.measurable_split import split_to_measure
from minirlhf.feedback.records import Triple, read_triples, write_triples
from minirlhf.feedback.splits import split_triples, without
from minirlhf.runs.folder import Run
from minirlhf.runs.products import FIRST_RATINGS
from minirlhf.runs.run_models import model_for_sampling, tokenizer_of
from minirlhf.runs.run_rankings import check_rankings
from minirlhf.system.files import atomic_write
from minirlhf.tasks.task import Task, rated
from minirlhf.training.ratings import sample_to_rate

# Texts by the authors are repeated this often in training: there are few of them, and they are the
# only feedback in words that no program composed.
AUTHORS_COUNT = 2
MIN_SPLIT = 20  # up to this many rated samples, none is held out


def split_feedback(run: Run, task: Task) -> tuple[list[Triple], list[Triple]]:
    """Training and held-out triples. A task may bring its own held-out feedback (held-out films).

    Texts scored by the authors and rated samples of the policy are trained on too; the held-out
    triples are only the task's own. Both are empty for a task with rankings.
    """
    if task.ranker is not None:
        return [], []
    train, heldout = task.feedback, task.heldout_feedback
    if not heldout:
        train, heldout = split_task_feedback(run.config, task)
    own_train, own_heldout = split_own_texts(run, task)
    train = train + AUTHORS_COUNT * task.authors_feedback + own_train
    return without(train, heldout + own_heldout), heldout


def split_task_feedback(config: Config, task: Task) -> tuple[list[Triple], list[Triple]]:
    """The task's feedback, split into training and held-out triples.

    Raises ValueError if one side would lack what the loss needs.
    """
    min_gap = config.reward.min_gap if config.reward.loss == "ranking" else None
    return split_to_measure(task.feedback, config.reward.heldout_share, config.seed, min_gap)


def check_feedback(config: Config, task: Task) -> None:
    """Raise ValueError if the reward model cannot learn from the task's feedback."""
    if task.ranker is not None:
        check_rankings(task)
    elif not task.heldout_feedback:
        split_task_feedback(config, task)


def split_own_texts(run: Run, task: Task) -> tuple[list[Triple], list[Triple]]:
    """The rated samples of the pretrained policy: training and held-out (none if there are few)."""
    first = first_ratings(run, task)
    if len(first) <= MIN_SPLIT:
        return first, []
    return split_triples(first, run.config.reward.heldout_share, run.config.seed)


def first_ratings(run: Run, task: Task) -> list[Triple]:
    """Ratings of samples from the pretrained policy, kept in first_ratings.jsonl.

    Step 1 of section 3.2 of the article. Empty if the task has no raters or has rankings. Truncated
    samples are not rated, so there may be fewer than `reward.own_texts`.
    """
    path, count = run.path / FIRST_RATINGS, run.config.reward.own_texts
    if task.ranker is not None or task.raters is None or count == 0:
        return []
    if not path.exists():
        texts = first_samples(run, task, count)
        if texts:
            ratings = [rated(task, topic, text, run.config.seed) for topic, text in texts]
            write_triples(path, ratings, task.rating_range)
        else:
            atomic_write(path, "")
    return read_triples(path, task.rating_range, conversations=True) if path.stat().st_size else []


def first_samples(run: Run, task: Task, count: int) -> list[tuple[Prompt, str]]:
    """At most `count` different (topic, text) pairs sampled from the pretrained policy."""
    tokenizer = tokenizer_of(run, task)
    models = {"before": model_for_sampling(run, tokenizer, tuned=False)}
    number = count + count // 8  # some are truncated, empty or repeated
    length, seed = run.config.finetune.max_new_tokens, run.config.seed
    samples = sample_to_rate(models, tokenizer, task.train_prompts, number, length, seed)
    texts = dict.fromkeys((topic, text) for topic, text, _ in samples if text.strip())
    return list(texts)[:count]
