"""Your own scored texts as a task (`--feedback FILE.jsonl`).

Your data has no independent judge, so one is fitted to held-out scores: a ridge regression on words
and word pairs (word_regression.py). It learns from scores that the reward model never sees: all on
the held-out topics, and a third of those on the others. Other texts and another kind of model: the
judge has no reason to share the reward model's errors.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from minirlhf.feedback.conversation import Prompt
from minirlhf.feedback.duplicates import normal_key, remarks, with_one_name_per_topic
from minirlhf.feedback.records import Comparison, Feedback, FeedbackError, Triple, read_feedback
from minirlhf.feedback.splits import split_comparisons, split_triples, triples_of_comparisons
from minirlhf.tasks.assistant import task as assistant
from minirlhf.tasks.openings import task as openings
from minirlhf.tasks.task import Task
from minirlhf.tasks.word_regression import fit_judge

MIN_TEXTS = 30  # with fewer, a third of them is too few to fit a judge
MIN_TOPICS = 5  # with fewer, none is held out
HELDOUT_TOPICS = 0.2
FOR_JUDGE = 1 / 3  # share of the texts on the training topics
HELDOUT_COMPARISONS = 0.2
BASE_STEPS = 500  # of further pretraining, where the base knows the language
NO_HELDOUT_TOPIC = "'held-out topics' are the training topics again"


@dataclass(frozen=True)
class Shares:
    """Who learns from what. The triples of `judge` and of `model` have no text in common."""

    triples: list[Triple]  # all; of comparisons: each text with the share of them that it won
    model: list[Triple]  # for the reward model
    judge: list[Triple]
    train_topics: list[Prompt]
    heldout_topics: list[Prompt]
    # If people compared: what the reward model learns from, and what it is measured on.
    comparisons: list[Comparison]
    heldout_comparisons: list[Comparison]


def load(path: str | os.PathLike[str], score_range: tuple[float, float], seed: int) -> Task:
    """The task of the triples in a file. With five topics or more, a fifth of them is held out.

    The policy is pretrained on the `openings` corpus (if the topics are conversations: on that of
    `assistant`) and on your texts, each of them repeated until they are a third of the corpus. The
    file may also hold comparisons: a text's score is then the share of its comparisons that it won.
    Raises FeedbackError naming every bad line, or saying why nothing can be learned from the file.
    """
    as_written = read_feedback(path, score_range, conversations=True)
    feedback = with_one_name_per_topic(as_written)
    try:
        shares = shared_out(feedback, seed)
    except ValueError as error:
        raise FeedbackError(f"{path}: {error}") from None
    notes = _notes_on_comparisons() if feedback.comparisons else _notes_on_scores(shares)
    of_topics = isinstance(shares.triples[0].topic, str)  # else all are conversations
    shipped = openings.load(seed) if of_topics else assistant.load(seed)
    corpus, corpus_heldout = _corpus(shipped.corpus, shares.triples, seed)
    return Task(
        name="own",
        train_prompts=shares.train_topics,
        heldout_prompts=shares.heldout_topics,
        corpus=corpus,
        corpus_heldout=corpus_heldout,
        feedback=shares.model,
        heldout_feedback=triples_of_comparisons(shares.heldout_comparisons),
        comparisons=shares.comparisons,
        heldout_comparisons=shares.heldout_comparisons,
        learn_prompts=shipped.learn_prompts,
        context=shipped.context,
        base=shipped.base,
        base_steps=BASE_STEPS,
        base_must_know_texts=True,
        judge=fit_judge(shares.judge),
        judge_name=f"word regression on held-out {_kind(feedback)}",
        notes=notes,
        warnings=tuple(f"{path}: {remark}" for remark in remarks(as_written)),
    )


def shared_out(feedback: Feedback, seed: int) -> Shares:
    """Divide feedback between reward model and judge.

    Raises ValueError if there is too little, or if nothing can be learned from it.
    """
    triples = feedback.triples or triples_of_comparisons(feedback.comparisons)
    texts = len({normal_key((triple.topic, triple.text)) for triple in triples})
    if texts < MIN_TEXTS:
        raise ValueError(
            f"expected at least {MIN_TEXTS} triples of different texts to learn from and to judge "
            f"by, found {texts}"
        )
    _check_differences(triples, "all")
    if feedback.comparisons:
        shares = _of_comparisons(triples, feedback.comparisons, seed)
    else:
        shares = _of_scores(triples, seed)
    _check_differences(shares.model, "the reward model's")
    _check_differences(shares.judge, "the judge's")
    return shares


def _check_differences(triples: Sequence[Triple], whose: str) -> None:
    """A reward model learns from differences."""
    if len({triple.score for triple in triples}) < 2:
        raise ValueError(
            f"expected scores that differ, found {whose} {len(triples):,} equal: "
            "which of two texts "
            "is better cannot be learned from them"
        )


def _of_scores(triples: list[Triple], seed: int) -> Shares:
    topics = _topics(triples)
    known: list[Triple] = triples
    unseen: list[Triple] = []
    train_topics = heldout_topics = topics
    if len(topics) >= MIN_TOPICS:
        known, unseen = split_triples(triples, HELDOUT_TOPICS, seed, by="topic")
        heldout_topics = _topics(unseen)
        train_topics = [topic for topic in topics if topic not in heldout_topics]
    model, for_judge = split_triples(known, FOR_JUDGE, seed)
    return Shares(triples, model, for_judge + unseen, train_topics, heldout_topics, [], [])


def _of_comparisons(triples: list[Triple], comparisons: list[Comparison], seed: int) -> Shares:
    """Three parts without a text in common, since comparisons link the texts."""
    for_model, for_judge = split_comparisons(comparisons, FOR_JUDGE, seed)
    train, heldout = split_comparisons(for_model, HELDOUT_COMPARISONS, seed)
    topics = _topics(triples)
    model, judge = triples_of_comparisons(train), triples_of_comparisons(for_judge)
    return Shares(triples, model, judge, topics, topics, train, heldout)


def _kind(feedback: Feedback) -> str:
    return "comparisons" if feedback.comparisons else "scores"


def _notes_on_scores(shares: Shares) -> tuple[str, ...]:
    note = (
        "the judge is a word regression fitted to a part of your own scores, "
        "which the reward model never saw"
    )
    if len(_topics(shares.triples)) >= MIN_TOPICS:
        return (note,)
    return note, f"fewer than five topics: none is held out, and {NO_HELDOUT_TOPIC}"


def _notes_on_comparisons() -> tuple[str, ...]:
    return (
        "the judge is a word regression fitted to a third of your own comparisons, "
        "which the reward model never saw",
        f"no topic is held out, and {NO_HELDOUT_TOPIC}",
        "the score of a text is the share of its comparisons that it won",
    )


def _topics(triples: list[Triple]) -> list[Prompt]:
    """The different topics, in the order in which they first occur."""
    return list(dict.fromkeys(triple.topic for triple in triples))


def _corpus(
    shipped: Sequence[tuple[Prompt, str]], triples: list[Triple], seed: int
) -> tuple[list[tuple[Prompt, str]], list[tuple[Prompt, str]]]:
    """(texts to pretrain on, held-out texts), each a list of (topic, text).

    The first is the shipped corpus, and nine tenths of your texts repeated to a third of the whole;
    the other tenth is the second.
    """
    train, heldout = split_triples(triples, 0.1, seed)
    own_texts = [(triple.topic, triple.text) for triple in train]
    repeats = max(1, len(shipped) // (2 * len(own_texts)))
    return [*shipped, *own_texts * repeats], [(triple.topic, triple.text) for triple in heldout]
