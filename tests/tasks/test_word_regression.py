"""Word regression: the baseline against scikit-learn, the judge of own feedback against its closed
form."""

from __future__ import annotations

import numpy as np
import pytest

from minirlhf.feedback.records import Triple
from minirlhf.tasks import word_regression


@pytest.fixture(scope="module")
def triples(small_task) -> tuple[list[Triple], list[Triple]]:
    return small_task.feedback[:300], small_task.feedback[300:400]


@pytest.mark.parametrize("penalty", [0.1, 1.0, 10.0])
def test_tfidf_ridge_agrees_with_scikit_learn(triples, penalty):
    # Slow to load: only where they are used.
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge

    train, test = triples
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=2, token_pattern=word_regression.WORD.pattern
    )
    inputs = vectorizer.fit_transform([triple.text for triple in train])
    model = Ridge(alpha=penalty).fit(inputs, [triple.score for triple in train])
    expected = np.clip(model.predict(vectorizer.transform([triple.text for triple in test])), 0, 1)
    np.testing.assert_allclose(
        word_regression.fit_tfidf_ridge(train, penalty)(test), expected, atol=1e-4
    )
    ours = word_regression.TfIdf([triple.text for triple in train])
    assert list(ours.terms) == sorted(vectorizer.vocabulary_, key=vectorizer.vocabulary_.get)
    inputs = ours.transform([triple.text for triple in test])
    theirs = vectorizer.transform([triple.text for triple in test]).toarray()
    np.testing.assert_allclose(theirs[inputs.rows, inputs.columns], inputs.values, atol=1e-12)
    assert len(inputs.values) == np.count_nonzero(theirs)


def test_ridge_takes_the_penalty_that_validates_best(triples, monkeypatch):
    train, test = triples
    # The second penalty leaves nothing but the mean.
    monkeypatch.setattr(word_regression, "PENALTIES", (1.0, 1e6))
    np.testing.assert_allclose(
        word_regression.tfidf_ridge(train)(test), word_regression.fit_tfidf_ridge(train, 1.0)(test)
    )
    assert np.ptp(word_regression.fit_tfidf_ridge(train, 1e6)(test)) < 1e-3


def test_a_text_of_unknown_words_gets_the_mean_like_prediction():
    train = [Triple("t", f"good text {index % 2}", index % 2) for index in range(20)]
    found = word_regression.tfidf_ridge(train)([Triple("t", "zebra", 0.5), Triple("t", "", 0.5)])
    assert np.isfinite(found).all() and found[0] == found[1]


@pytest.mark.parametrize("count", [30, 300])
def test_the_judge_is_the_closed_form_of_ridge_regression(triples, count):
    """The dual form, X^T (X X^T + penalty)^-1 (y - mean), on the same features written out."""
    train, test = triples[0][:count], triples[1]
    judge = word_regression.fit_judge(train, penalty=0.3)
    inputs, others = (dense(word_regression.hashed_terms(pairs_of(part))) for part in (train, test))
    scores = np.array([triple.score for triple in train])
    gram = inputs @ inputs.T + 0.3 * np.eye(count)
    weights = inputs.T @ np.linalg.solve(gram, scores - scores.mean())
    expected = np.clip(others @ weights + scores.mean(), 0, 1)
    np.testing.assert_allclose([judge(*pair) for pair in pairs_of(test)], expected, atol=1e-10)


def test_hashed_terms_count_words_pairs_and_length():
    inputs = dense(word_regression.hashed_terms([("Tea", "Tea, tea!"), ("Tea", "")]))
    # tea twice; the marks; five pairs with the ends of the text; "on topic": 2^2 + 2 + 5 + 1.
    counts = np.sort(inputs[0, :-1][inputs[0, :-1] > 0])
    np.testing.assert_allclose(counts, np.array([1] * 8 + [2]) / 12**0.5)
    assert inputs[0, -1] == pytest.approx(np.log2(4) / 10)  # four words and marks
    assert inputs[1].sum() == 1  # one pair, of the start and the end


def pairs_of(triples) -> list[tuple[str, str]]:
    return [(triple.topic, triple.text) for triple in triples]


def dense(inputs: word_regression.SparseMatrix) -> np.ndarray:
    matrix = np.zeros(inputs.shape)
    matrix[inputs.rows, inputs.columns] = inputs.values
    return matrix
