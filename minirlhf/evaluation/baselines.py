"""What a reward model must beat: the mean score, the text's length, and tf-idf ridge regression.

All three are fitted on the same training triples. The regression is in tasks/word_regression.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minirlhf.feedback.records import Triple
from minirlhf.tasks.word_regression import Predictor, tfidf_ridge

__all__ = ["Predictor", "constant", "length_only", "tfidf_ridge"]


def constant(train: Sequence[Triple]) -> Predictor:
    """Always the mean score of the training texts."""
    mean = _scores(train).mean()
    return lambda triples: np.full(len(triples), mean)


def length_only(train: Sequence[Triple]) -> Predictor:
    """A parabola over the number of words; tests whether length alone predicts the score."""
    lengths = _lengths(train)
    degree = min(2, len(set(lengths)) - 1)
    coefficients = np.polyfit(lengths, _scores(train), deg=degree)
    return lambda triples: np.clip(np.polyval(coefficients, _lengths(triples)), 0, 1)


def _scores(triples: Sequence[Triple]) -> np.ndarray:
    return np.array([triple.score for triple in triples])


def _lengths(triples: Sequence[Triple]) -> np.ndarray:
    return np.array([len(triple.text.split()) for triple in triples], dtype=float)
