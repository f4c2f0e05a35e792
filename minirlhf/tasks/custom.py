"""Your own scored texts as a task (`--feedback FILE.jsonl`).

Nobody can look into your raters' heads, so the judge is made of their scores too: a ridge regression on words and word pairs,
fitted on scores that the reward model never sees: all on the held-out topics, and a third of those on the others. Other texts and
another kind of model: what the reward model gets wrong, this judge has no reason to get wrong in the same way.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable

import numpy as np

from minirlhf.feedback.records import (
    Comparison,
    FeedbackError,
    Triple,
    holds_comparisons,
    read_comparisons,
    read_triples,
)
from minirlhf.feedback.splits import split_comparisons, split_triples, triples_of_comparisons
from minirlhf.tasks.openings import task as openings
from minirlhf.tasks.task import Task

FEATURES = 4096  # words and word pairs are hashed into so many counts
LEAST = 30  # triples; with fewer, a third of them says nothing


def load(path: str | os.PathLike[str], score_range: tuple[float, float], seed: int) -> Task:
    """The task of the triples in a file. A fifth of the topics is held out if there are five or more.

    The policy is pretrained on the `openings` corpus and on your texts, each of them often enough to be a third of the whole.
    A file of comparisons will do as well: a text's score is then the share of its comparisons that it won.
    Raises FeedbackError naming every bad line, or saying that there are too few triples.
    """
    compared = holds_comparisons(path)
    comparisons = read_comparisons(path) if compared else []
    triples = triples_of_comparisons(comparisons) if compared else read_triples(path, score_range)
    if len(triples) < LEAST:
        raise FeedbackError(
            f"{path}: expected at least {LEAST} triples to learn from and to judge by, found {len(triples)}"
        )
    topics = list(dict.fromkeys(triple.topic for triple in triples))
    if compared:
        try:
            return _load_comparisons(triples, comparisons, seed)
        except ValueError as error:
            raise FeedbackError(f"{path}: {error}") from None
    notes = [
        "the judge is a word regression fitted on a part of your own scores, which the reward model never saw"
    ]
    if len(topics) >= 5:
        known, unseen = split_triples(triples, 0.2, seed, by="topic")
        heldout_prompts = list(dict.fromkeys(triple.topic for triple in unseen))
    else:
        known, unseen, heldout_prompts = triples, [], topics
        notes.append(
            "fewer than five topics: none is held out, and 'held-out topics' are the training topics again"
        )
    feedback, for_judge = split_triples(known, 1 / 3, seed)
    corpus, corpus_heldout = _corpus(triples, seed)
    return Task(
        "own",
        [topic for topic in topics if topic not in heldout_prompts or len(topics) < 5],
        heldout_prompts,
        corpus,
        corpus_heldout,
        feedback,
        [],
        fit_judge(for_judge + unseen),
        "word regression on held-out scores",
        notes=tuple(notes),
    )


def _load_comparisons(triples: list[Triple], comparisons: list[Comparison], seed: int) -> Task:
    """The task of texts that were compared: a text's score is the share of its comparisons that it won."""
    learned, for_judge = split_comparisons(comparisons, 1 / 3, seed)
    train, heldout = split_comparisons(learned, 0.2, seed)
    topics = list(dict.fromkeys(triple.topic for triple in triples))
    corpus, corpus_heldout = _corpus(triples, seed)
    return Task(
        "own",
        topics,
        topics,
        corpus,
        corpus_heldout,
        triples_of_comparisons(train),
        [],
        fit_judge(triples_of_comparisons(for_judge)),
        "word regression on held-out comparisons",
        heldout_feedback=triples_of_comparisons(heldout),
        comparisons=train,
        heldout_comparisons=heldout,
        notes=(
            "the judge is a word regression on a third of your own comparisons, which the reward model never saw",
            "no topic is held out, and 'held-out topics' are the training topics again",
            "the score of a text is the share of its comparisons that it won",
        ),
    )


def _corpus(
    triples: list[Triple], seed: int
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(texts to pretrain on: the openings corpus, and your own texts as a third of the whole; a tenth of yours, held out)."""
    base = openings.load(seed)
    own, heldout = (
        [(triple.topic, triple.text) for triple in part]
        for part in split_triples(triples, 0.1, seed)
    )
    return base.corpus + own * max(1, len(base.corpus) // (2 * len(own))), heldout


def fit_judge(triples: list[Triple], penalty: float = 0.3) -> Callable[[str, str], float]:
    """Ridge regression of the score on hashed words, word pairs and the length, clipped to [0, 1]."""
    inputs = np.stack([_features(triple.topic, triple.text) for triple in triples])
    scores = np.array([triple.score for triple in triples])
    mean = scores.mean()
    # The dual form: as many equations as texts, not as features.
    duals = np.linalg.solve(inputs @ inputs.T + penalty * np.eye(len(triples)), scores - mean)
    weights = inputs.T @ duals
    return lambda topic, text: float(np.clip(_features(topic, text) @ weights + mean, 0.0, 1.0))


def _features(topic: str, text: str) -> np.ndarray:
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    known = set(re.findall(r"\w+", topic.lower()))
    terms = words + [f"{a} {b}" for a, b in zip(["^", *words], [*words, "$"])]
    terms += ["<on topic>"] * any(word in known for word in words)
    vector = np.zeros(FEATURES + 1)
    for term in terms:
        vector[
            int.from_bytes(hashlib.blake2b(term.encode(), digest_size=4).digest(), "big") % FEATURES
        ] += 1
    vector /= max(1.0, np.linalg.norm(vector))
    vector[FEATURES] = math.log2(max(1, len(words))) / 10  # a long text is not more of every word
    return vector
