"""The bar for the reward model on `reviews`: ridge regression on tf-idf of words and word pairs.

    python -m minirlhf data reviews && python -m benchmarks.reviews_baseline

Same films held out as in the task. The penalty alpha is chosen on validation films, a fifth of the
training films; the held-out films are scored once, by the model refitted on all training texts.
Prints r, Spearman and MSE, with 95% intervals from resampling the held-out films (2,000 times):
sentences about one film are not independent.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from minirlhf.feedback.records import Triple
from minirlhf.feedback.splits import split_triples
from minirlhf.tasks.reviews import task as reviews
from minirlhf.tasks.reviews.judges import judge

ALPHAS = (0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0, 10.0)


def fit_predict(train: list[Triple], test: list[Triple], alpha: float) -> np.ndarray:
    """Scores in [0, 1] for the test texts. (tests,)"""
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=2, token_pattern=r"[\w']+|[!?]"
    )
    inputs = vectorizer.fit_transform([triple.text for triple in train])
    model = Ridge(alpha=alpha).fit(inputs, scores_of(train))
    return np.clip(model.predict(vectorizer.transform([triple.text for triple in test])), 0, 1)


def scores_of(triples: list[Triple]) -> np.ndarray:
    return np.array([triple.score for triple in triples])


def measures(predicted: np.ndarray, scores: np.ndarray) -> tuple[float, float, float]:
    """(Pearson r, Spearman r, MSE)."""
    return (
        float(np.corrcoef(predicted, scores)[0, 1]),
        float(spearmanr(predicted, scores)[0]),
        float(np.mean((predicted - scores) ** 2)),
    )


def report(name: str, predicted: np.ndarray, test: list[Triple], draws: int = 2000) -> None:
    scores = scores_of(test)
    _, films = np.unique([triple.topic for triple in test], return_inverse=True)
    rows = [np.flatnonzero(films == film) for film in range(films.max() + 1)]
    generator = np.random.default_rng(0)
    samples = (
        np.concatenate([rows[film] for film in generator.integers(len(rows), size=len(rows))])
        for _ in range(draws)
    )
    low, high = np.percentile(
        [np.corrcoef(predicted[rows_], scores[rows_])[0, 1] for rows_ in samples], [2.5, 97.5]
    )
    r, rho, mse = measures(predicted, scores)
    print(f"{name:48s} r {r:.3f} ({low:.3f} to {high:.3f})  Spearman {rho:.3f}  MSE {mse:.4f}")


def noise_ceiling(triples: list[Triple]) -> tuple[float, float]:
    """The share of the variance of the mean ratings that is not rater noise, and its root.

    The root is the r of a perfect predictor.

    The noise in a mean of k ratings has variance s^2 / k, with s^2 the unbiased variance among its
    raters. It treats a sentence's raters as drawn at random.
    """
    noise = (
        np.mean([np.var(triple.ratings, ddof=1) / len(triple.ratings) for triple in triples]) / 64
    )  # scale -4..4
    reliability = 1 - noise / np.var(scores_of(triples), ddof=1)
    return float(reliability), float(reliability**0.5)


def main() -> None:
    train, heldout = reviews.heldout_split()
    other = reviews.other_triples()
    reliability, ceiling = noise_ceiling(heldout)
    print(
        f"training films: {len(train):,} texts; other domains: {len(other):,}; "
        f"held-out films: {len(heldout):,}"
    )
    print(
        f"held-out mean ratings: reliability {reliability:.3f}, "
        f"so a perfect predictor has r {ceiling:.3f}"
    )
    fitting, validation = split_triples(train, 0.2, seed=0, by="topic")
    for name, extra in (
        ("tf-idf ridge, films", []),
        ("tf-idf ridge, films and other domains", other),
    ):
        validated = {
            alpha: measures(fit_predict(fitting + extra, validation, alpha), scores_of(validation))[
                2
            ]
            for alpha in ALPHAS
        }
        alpha = min(validated, key=validated.get)
        print(
            "  validation MSE by alpha: "
            + ", ".join(f"{key:g}: {mse:.4f}" for key, mse in validated.items())
        )
        report(f"{name} (alpha {alpha:g})", fit_predict(train + extra, heldout, alpha), heldout)
    report(
        "VADER's rules (no training)",
        np.array([judge("", triple.text) for triple in heldout]),
        heldout,
    )
    scores = scores_of(heldout)
    constant = np.mean((scores - scores_of(train).mean()) ** 2)
    print(f"{'constant: mean training score':48s} MSE {constant:.4f}")


if __name__ == "__main__":
    main()
