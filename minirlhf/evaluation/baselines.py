"""What a reward model must beat: the mean score, the length of the text, and tf-idf ridge regression (words and word pairs).

All three are fitted on the same training triples. numpy alone; the ridge agrees with scikit-learn's (tests/test_report_card.py).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from minirlhf.feedback.records import Triple
from minirlhf.feedback.splits import split_triples

WORD = re.compile(r"[\w']+|[.,;:!?]")
PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0)
Predictor = Callable[
    [Sequence[Triple]], np.ndarray
]  # triples (n) to predicted scores (n,) in [0, 1]


def constant(train: Sequence[Triple]) -> Predictor:
    """Always the mean score of the training texts."""
    mean = _scores(train).mean()
    return lambda triples: np.full(len(triples), mean)


def length_only(train: Sequence[Triple]) -> Predictor:
    """A parabola through the scores over the number of words: is it only length that pays?"""
    coefficients = np.polyfit(
        _lengths(train), _scores(train), deg=min(2, len(set(_lengths(train))) - 1)
    )
    return lambda triples: np.clip(np.polyval(coefficients, _lengths(triples)), 0, 1)


def tfidf_ridge(train: Sequence[Triple], seed: int = 0) -> Predictor:
    """Ridge regression on tf-idf of words and word pairs; the penalty is chosen on a fifth of the training texts."""
    penalty = 1.0
    if len({(triple.topic, triple.text) for triple in train}) >= 10:
        fitting, validation = split_triples(train, 0.2, seed)
        errors = {}
        for candidate in PENALTIES:
            errors[candidate] = np.mean(
                (fit_ridge(fitting, candidate)(validation) - _scores(validation)) ** 2
            )
        penalty = min(errors, key=errors.get)
    return fit_ridge(train, penalty)


def fit_ridge(train: Sequence[Triple], penalty: float) -> Predictor:
    """The ridge regression for one penalty: ||y - mean - (X - mean) w||^2 + penalty ||w||^2, predictions cut to [0, 1]."""
    vectors = TfIdf([triple.text for triple in train])
    rows, columns, values = vectors.transform([triple.text for triple in train])
    n, features, scores = len(train), len(vectors.terms), _scores(train)
    means = np.bincount(columns, values, features) / n

    def forward(weights: np.ndarray) -> np.ndarray:  # (X - mean) w
        return np.bincount(rows, values * weights[columns], n) - means @ weights

    def backward(errors: np.ndarray) -> np.ndarray:  # (X - mean)^T e
        return np.bincount(columns, values * errors[rows], features) - means * errors.sum()

    weights = conjugate_gradient(
        lambda w: backward(forward(w)) + penalty * w, backward(scores - scores.mean())
    )

    def predict(triples: Sequence[Triple]) -> np.ndarray:
        rows, columns, values = vectors.transform([triple.text for triple in triples])
        found = (
            np.bincount(rows, values * weights[columns], len(triples))
            - means @ weights
            + scores.mean()
        )
        return np.clip(found, 0, 1)

    return predict


class TfIdf:
    """Words and word pairs of at least two training texts; (1 + ln count) * idf, each text scaled to length 1.

    idf = 1 + ln((1 + n) / (1 + texts that have the term)), as scikit-learn has it.
    """

    def __init__(self, texts: Sequence[str]):
        seen = Counter(term for text in texts for term in set(terms_of(text)))
        kept = sorted(term for term, count in seen.items() if count >= 2)
        self.terms = {term: index for index, term in enumerate(kept)}
        self.idf = np.array([1 + math.log((1 + len(texts)) / (1 + seen[term])) for term in kept])

    def transform(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A sparse matrix (texts, terms) as (rows, columns, values)."""
        rows, columns, counts = [], [], []
        for row, text in enumerate(texts):
            for term, count in Counter(terms_of(text)).items():
                if term in self.terms:
                    rows.append(row)
                    columns.append(self.terms[term])
                    counts.append(count)
        rows, columns = np.array(rows, dtype=int), np.array(columns, dtype=int)
        values = (1 + np.log(np.array(counts, dtype=float))) * self.idf[columns]
        norms = np.sqrt(np.bincount(rows, values**2, len(texts)))
        return rows, columns, values / norms[rows]


def terms_of(text: str) -> list[str]:
    words = WORD.findall(text.lower())
    return words + [f"{a} {b}" for a, b in zip(words, words[1:])]


def conjugate_gradient(
    matrix: Callable[[np.ndarray], np.ndarray], right: np.ndarray, tolerance: float = 1e-8
) -> np.ndarray:
    """Solve A x = b for a positive definite A given as a function (Hestenes and Stiefel, 1952)."""
    solution, residual = np.zeros_like(right), right.copy()
    direction, size = residual.copy(), residual @ residual
    least = tolerance**2 * size
    for _ in range(1000):
        if size <= least:
            break
        image = matrix(direction)
        step = size / (direction @ image)
        solution += step * direction
        residual -= step * image
        size, before = residual @ residual, size
        direction = residual + size / before * direction
    return solution


def _scores(triples: Sequence[Triple]) -> np.ndarray:
    return np.array([triple.score for triple in triples])


def _lengths(triples: Sequence[Triple]) -> np.ndarray:
    return np.array([len(triple.text.split()) for triple in triples], dtype=float)
