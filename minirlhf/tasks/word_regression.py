"""Ridge regression of a text's score on its words and word pairs.

Used twice, with one solver (`ridge`) and features of its own each time:

- `tfidf_ridge` is the baseline that a reward model must beat: tf-idf of the terms that occur in the
  training texts, with an intercept and a penalty chosen by validation. It ignores the topic.
- `fit_judge` is the judge of your own feedback (custom.py): hashed counts, the length and
  whether the text names its topic. It has to score any text, so no word is outside its vocabulary.

numpy only; tests hold the baseline to scikit-learn's.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from minirlhf.feedback.conversation import Prompt, in_words
from minirlhf.feedback.records import Triple
from minirlhf.feedback.splits import split_triples
from minirlhf.linear_algebra import conjugate_gradient

Predictor = Callable[[Sequence[Triple]], np.ndarray]  # triples (n) to scores (n,) in [0, 1]

WORD = re.compile(r"[\w']+|[.,;:!?]")  # terms of the baseline
TERM = re.compile(r"\w+|[^\w\s]")  # terms of the judge: every mark counts
PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0)  # candidates for the baseline
JUDGE_PENALTY = 0.3
HASHED_TERMS = 4096  # the judge's words and word pairs share this many counts
# Conjugate gradient, with the squared error relative to the target's. The baseline sees thousands
# of texts and needs three digits; the judge is fitted once, and its scores should not depend on the
# solver.
BASELINE_TOLERANCE, JUDGE_TOLERANCE, MAX_STEPS = 1e-16, 1e-28, 1000


@dataclass(frozen=True)
class SparseMatrix:
    """A matrix (texts, terms): `values[i]` stands at (`rows[i]`, `columns[i]`), zero elsewhere."""

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    shape: tuple[int, int]

    def times(self, weights: np.ndarray) -> np.ndarray:
        """X w: (terms,) to (texts,)."""
        return np.bincount(self.rows, self.values * weights[self.columns], self.shape[0])

    def transposed_times(self, errors: np.ndarray) -> np.ndarray:
        """X^T e: (texts,) to (terms,)."""
        return np.bincount(self.columns, self.values * errors[self.rows], self.shape[1])

    def column_means(self) -> np.ndarray:
        return np.bincount(self.columns, self.values, self.shape[1]) / self.shape[0]


def ridge(
    inputs: SparseMatrix, scores: np.ndarray, penalty: float, means: np.ndarray, tolerance: float
) -> np.ndarray:
    """The weights w (terms,) that minimise |y - mean(y) - (X - means) w|^2 + penalty |w|^2.

    `scores` y is (texts,). `means` is what to subtract from each column of X: its mean, which fits
    an intercept, or 0. X - means is not sparse, so it is never written out: only its products are
    needed.
    """

    def forward(weights: np.ndarray) -> np.ndarray:  # (X - means) w
        return inputs.times(weights) - means @ weights

    def backward(errors: np.ndarray) -> np.ndarray:  # (X - means)^T e
        return inputs.transposed_times(errors) - means * errors.sum()

    def normal_equations(weights: np.ndarray) -> np.ndarray:
        return backward(forward(weights)) + penalty * weights

    return conjugate_gradient(
        normal_equations, backward(scores - scores.mean()), steps=MAX_STEPS, tolerance=tolerance
    )


# --- the baseline ---------------------------------------------------------------------------------


class TfIdf:
    """Words and word pairs of at least two training texts; (1 + ln count) * idf, texts of length 1.

    idf = 1 + ln((1 + n) / (1 + number of texts with the term)), as in scikit-learn.
    """

    def __init__(self, texts: Sequence[str]):
        texts_with = Counter(term for text in texts for term in set(terms_of(text)))
        kept = sorted(term for term, count in texts_with.items() if count >= 2)
        self.terms = {term: index for index, term in enumerate(kept)}
        n = len(texts)
        self.idf = np.array([1 + math.log((1 + n) / (1 + texts_with[term])) for term in kept])

    def transform(self, texts: Sequence[str]) -> SparseMatrix:
        """The features of each text: (texts, terms)."""
        rows, columns, counts = [], [], []
        for row, text in enumerate(texts):
            for term, count in Counter(terms_of(text)).items():
                if term in self.terms:
                    rows.append(row)
                    columns.append(self.terms[term])
                    counts.append(count)
        row_of, column_of = np.array(rows, dtype=int), np.array(columns, dtype=int)
        values = (1 + np.log(np.array(counts, dtype=float))) * self.idf[column_of]
        norms = np.sqrt(np.bincount(row_of, values**2, len(texts)))
        shape = (len(texts), len(self.terms))
        return SparseMatrix(row_of, column_of, values / norms[row_of], shape)


def terms_of(text: str) -> list[str]:
    """The words of a text and its pairs of neighbouring words, lower-cased."""
    words = WORD.findall(text.lower())
    return words + [f"{a} {b}" for a, b in itertools.pairwise(words)]


def tfidf_ridge(train: Sequence[Triple], seed: int = 0) -> Predictor:
    """Ridge regression on tf-idf; the penalty is chosen on a fifth of the training texts."""
    penalty = 1.0
    if len({(triple.topic, triple.text) for triple in train}) >= 10:
        fitting, validation = split_triples(train, 0.2, seed)
        scores = _scores(validation)
        errors = {}
        for candidate in PENALTIES:
            predicted = fit_tfidf_ridge(fitting, candidate)(validation)
            errors[candidate] = np.mean((predicted - scores) ** 2)
        penalty = min(errors, key=lambda candidate: errors[candidate])
    return fit_tfidf_ridge(train, penalty)


def fit_tfidf_ridge(train: Sequence[Triple], penalty: float) -> Predictor:
    """The regression for one penalty, with an intercept; predictions are clipped to [0, 1]."""
    features = TfIdf([triple.text for triple in train])
    inputs, scores = features.transform([triple.text for triple in train]), _scores(train)
    means = inputs.column_means()
    weights = ridge(inputs, scores, penalty, means, BASELINE_TOLERANCE)

    def predict(triples: Sequence[Triple]) -> np.ndarray:
        inputs = features.transform([triple.text for triple in triples])
        return np.clip(inputs.times(weights) - means @ weights + scores.mean(), 0, 1)

    return predict


def _scores(triples: Sequence[Triple]) -> np.ndarray:
    return np.array([triple.score for triple in triples])


# --- the judge of your own feedback ---------------------------------------------------------------


def fit_judge(
    triples: Sequence[Triple], penalty: float = JUDGE_PENALTY
) -> Callable[[Prompt, str], float]:
    """A judge (topic, text) -> score in [0, 1], fitted to the scores of these triples."""
    scores = _scores(triples)
    inputs = hashed_terms([(in_words(triple.topic), triple.text) for triple in triples])
    not_centred = np.zeros(inputs.shape[1])
    weights = ridge(inputs, scores, penalty, not_centred, JUDGE_TOLERANCE)
    mean = scores.mean()

    def judge(topic: Prompt, text: str) -> float:
        predicted = hashed_terms([(in_words(topic), text)]).times(weights)[0] + mean
        return float(np.clip(predicted, 0.0, 1.0))

    return judge


def hashed_terms(pairs: Sequence[tuple[str, str]]) -> SparseMatrix:
    """Hashed counts of words and word pairs, and the length, of (topic, text) pairs.

    The counts of a text are scaled to length 1, and the last column is its length in words on a log
    scale: a long text does not have more of every word.
    """
    rows, columns, values = [], [], []
    for row, (topic, text) in enumerate(pairs):
        words = TERM.findall(text.lower())
        topic_words = set(re.findall(r"\w+", topic.lower()))
        terms = words + [f"{a} {b}" for a, b in zip(["^", *words], [*words, "$"], strict=True)]
        if any(word in topic_words for word in words):
            terms.append("<on topic>")
        counts = Counter(_hash(term) for term in terms)
        norm = max(1.0, math.sqrt(sum(count**2 for count in counts.values())))
        columns += [*counts, HASHED_TERMS]
        values += [count / norm for count in counts.values()]
        values.append(math.log2(max(1, len(words))) / 10)
        rows += [row] * (len(counts) + 1)
    shape = (len(pairs), HASHED_TERMS + 1)
    return SparseMatrix(np.array(rows), np.array(columns), np.array(values), shape)


def _hash(term: str) -> int:
    """The column of a term, the same on every machine; different terms may share one."""
    digest = hashlib.blake2b(term.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % HASHED_TERMS
