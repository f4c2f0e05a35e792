"""Your own scored texts as a task (`--feedback FILE.jsonl`).

Your data has no independent judge, so one is fitted to held-out scores: a ridge regression on words
and word pairs (word_regression.py). It learns from scores that the reward model never sees: all on
the held-out topics, and a third of those on the others. Other texts and another kind of model: the
judge has no reason to share the reward model's errors.
"""

from __future__ import annotations

import os

from minirlhf.feedback.records import (
    Comparison,
    FeedbackError,
    Triple,
    read_feedback,
)
from minirlhf.feedback.splits import split_comparisons, split_triples, triples_of_comparisons
from minirlhf.tasks.openings import task as openings
from minirlhf.tasks.task import Task
from minirlhf.tasks.word_regression import fit_judge

MIN_TEXTS = 30  # with fewer, a third of them is too few to fit a judge
MIN_TOPICS = 5  # with fewer, none is held out
HELDOUT_TOPICS = 0.2
FOR_JUDGE = 1 / 3  # share of the texts on the training topics
NO_HELDOUT_TOPIC = "'held-out topics' are the training topics again"


def load(path: str | os.PathLike[str], score_range: tuple[float, float], seed: int) -> Task:
    """The task of the triples in a file. With five topics or more, a fifth of them is held out.

    The policy is pretrained on the `openings` corpus and on your texts, each of them repeated until
    they are a third of the corpus. The file may also hold comparisons: a text's score is then the
    share of its comparisons that it won. Raises FeedbackError naming every bad line, or saying that
    there are too few triples.
    """
    feedback = read_feedback(path, score_range)
    if comparisons := feedback.comparisons:
        triples = triples_of_comparisons(comparisons)
        _check_count(path, triples)
        try:
            return _task_of_comparisons(triples, comparisons, seed)
        except ValueError as error:
            raise FeedbackError(f"{path}: {error}") from None
    _check_count(path, feedback.triples)
    return _task_of_scores(feedback.triples, seed)


def _check_count(path: str | os.PathLike[str], triples: list[Triple]) -> None:
    if len(triples) < MIN_TEXTS:
        raise FeedbackError(
            f"{path}: expected at least {MIN_TEXTS} triples to learn from and to judge by, "
            f"found {len(triples)}"
        )


def _task_of_scores(triples: list[Triple], seed: int) -> Task:
    topics = _topics(triples)
    notes = [
        "the judge is a word regression fitted to a part of your own scores, "
        "which the reward model never saw"
    ]
    if len(topics) >= MIN_TOPICS:
        known, unseen = split_triples(triples, HELDOUT_TOPICS, seed, by="topic")
        heldout_prompts = _topics(unseen)
        train_prompts = [topic for topic in topics if topic not in heldout_prompts]
    else:
        known, unseen = triples, []
        train_prompts = heldout_prompts = topics
        notes.append(f"fewer than five topics: none is held out, and {NO_HELDOUT_TOPIC}")
    feedback, for_judge = split_triples(known, FOR_JUDGE, seed)
    corpus, corpus_heldout = _corpus(triples, seed)
    return Task(
        name="own",
        train_prompts=train_prompts,
        heldout_prompts=heldout_prompts,
        corpus=corpus,
        corpus_heldout=corpus_heldout,
        feedback=feedback,
        handwritten=[],
        judge=fit_judge(for_judge + unseen),
        judge_name="word regression on held-out scores",
        notes=tuple(notes),
    )


def _task_of_comparisons(triples: list[Triple], comparisons: list[Comparison], seed: int) -> Task:
    """`triples`: the texts of all comparisons, scored by the share of comparisons that they won."""
    for_reward_model, for_judge = split_comparisons(comparisons, FOR_JUDGE, seed)
    train, heldout = split_comparisons(for_reward_model, 0.2, seed)
    topics = _topics(triples)
    corpus, corpus_heldout = _corpus(triples, seed)
    return Task(
        name="own",
        train_prompts=topics,
        heldout_prompts=topics,
        corpus=corpus,
        corpus_heldout=corpus_heldout,
        feedback=triples_of_comparisons(train),
        heldout_feedback=triples_of_comparisons(heldout),
        comparisons=train,
        heldout_comparisons=heldout,
        handwritten=[],
        judge=fit_judge(triples_of_comparisons(for_judge)),
        judge_name="word regression on held-out comparisons",
        notes=(
            "the judge is a word regression fitted to a third of your own comparisons, "
            "which the reward model never saw",
            f"no topic is held out, and {NO_HELDOUT_TOPIC}",
            "the score of a text is the share of its comparisons that it won",
        ),
    )


def _topics(triples: list[Triple]) -> list[str]:
    """The different topics, in the order in which they first occur."""
    return list(dict.fromkeys(triple.topic for triple in triples))


def _corpus(
    triples: list[Triple], seed: int
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(texts to pretrain on, held-out texts), each a list of (topic, text).

    The first is the openings corpus, and nine tenths of your texts repeated to a third of the
    whole; the other tenth is the second.
    """
    train, heldout = split_triples(triples, 0.1, seed)
    own_texts = [(triple.topic, triple.text) for triple in train]
    corpus = openings.load(seed).corpus
    repeats = max(1, len(corpus) // (2 * len(own_texts)))
    return corpus + own_texts * repeats, [(triple.topic, triple.text) for triple in heldout]
