"""The reward model's report card (奖励模型体检): is it good enough to train on?

Everything is measured on held-out feedback (which also decided when training stopped, and nothing
else), beside three baselines and the noise ceiling: the best r that raters who disagree leave
possible. The page that shows it is reports/report_card_page.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from minirlhf.config import Config
from minirlhf.evaluation import baselines
from minirlhf.evaluation.perturbations import sensitivity
from minirlhf.feedback.agreement import by_rater, first_ratings, noise_ceiling
from minirlhf.feedback.conversation import Prompt, in_words
from minirlhf.feedback.records import Triple
from minirlhf.feedback.splits import merged
from minirlhf.stats import (
    calibration,
    correlation,
    correlation_facts,
    correlation_words,
    expected_calibration_error,
    ranks,
)
from minirlhf.system.seeds import step_generator
from minirlhf.tasks.task import Task
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.batches import EncodedTexts, Split
from minirlhf.training.ranking import Pairs, pairs_from_scores, pairwise_accuracy
from minirlhf.training.train_reward_model import AnyReward, ScoredTexts, predict

MODEL, TFIDF = "reward model", "tf-idf ridge"
CURVE = (0.125, 0.25, 0.5)  # shares of the training triples; the model itself learned from them all
WORST = 10
# The limits of the checks are rules of thumb.
MIN_AGREEMENT = (
    0.8  # where the judge's score of a degraded text falls, how often the model's must too
)
NEAR_CEILING = 0.8  # of the r that the raters' noise leaves possible
MIN_TOPICS = 10  # with fewer, the bootstrap resamples texts and not topics

# Fits a new reward model, from the start that the measured one had: (train, heldout) -> model.
Fit = Callable[[ScoredTexts, ScoredTexts], AnyReward]


def report_card(
    model: AnyReward,
    tokenizer: Tokenizer,
    task: Task,
    feedback: Split[list[Triple]],
    config: Config,
    fit: Fit | None = None,
) -> dict:
    """Measure a reward model that was fitted to `feedback.train`; return the card.

    Its training was stopped by `feedback.heldout`, on which it is measured here.
    `config` holds the settings that it was trained with. `fit` draws the learning curve, which
    trains three more reward models; None leaves it out. The card is JSON: numbers, texts, lists and
    dicts.
    """
    train, heldout = feedback.train, merged(feedback.heldout)
    ratings = first_ratings(by_rater(feedback.heldout, task.rating_range))
    scores = np.array([triple.score for triple in heldout])
    seed, context = config.seed, config.model.context

    def scores_of(pairs: list[tuple[Prompt, str]]) -> np.ndarray:
        return predict(model, EncodedTexts(tokenizer, pairs, context)).double().numpy()

    predictions = {
        "constant": baselines.constant(train)(heldout),
        "length only": baselines.length_only(train)(heldout),
        TFIDF: baselines.tfidf_ridge(train, seed)(heldout),
        MODEL: scores_of([(triple.topic, triple.text) for triple in heldout]),
    }
    try:
        pairs = pairs_from_scores(heldout, config.reward.min_gap)
    except ValueError:
        pairs = None  # too few texts per topic to compare any

    card: dict = {
        "task": config.task if config.feedback is None else config.feedback.name,
        "raters": train[0].provenance,
        "judge_name": task.judge_name,
        "n_train": len(train),
        "n_heldout": len(heldout),
        "n_pairs": len(pairs) if pairs else 0,
        "min_gap": config.reward.min_gap,
        "loss": config.reward.loss,
        "ceiling": noise_ceiling(ratings),
        "predictors": {},
    }
    for name, predicted in predictions.items():
        card["predictors"][name] = measures(predicted, scores, pairs)
    card["gain"] = gain(predictions[MODEL], predictions[TFIDF], scores, heldout, seed)
    card["calibration"] = calibration(predictions[MODEL], scores)
    card["worst"] = worst(predictions[MODEL], heldout)
    card["sensitivity"] = sensitivity(scores_of, task.judge, heldout, task.train_prompts, seed)
    card["curve"] = []
    if fit is not None:
        card["curve"] = learning_curve(fit, tokenizer, task, Split(train, heldout), config)
    whole = card["predictors"][MODEL]
    card["curve"].append({"triples": len(train), "mse": whole["mse"], "pearson": whole["pearson"]})
    card["checks"] = checks(card)
    return card


def measures(predicted: np.ndarray, scores: np.ndarray, pairs: Pairs | None) -> dict:
    """MSE, Pearson, Spearman, pairwise accuracy within topics and ECE of predictions (n,).

    Equal predictions count as half a right order; without pairs, "pairwise" is None. Correlations
    have 95% intervals, and are None where there are too few texts to say.
    """
    a, b = torch.from_numpy(predicted), torch.from_numpy(scores)
    n = len(scores)
    return {
        "mse": float(np.mean((predicted - scores) ** 2)),
        **correlation_facts("pearson", correlation(a, b), n),
        **correlation_facts("spearman", correlation(ranks(a), ranks(b)), n, of_ranks=True),
        "pairwise": pairwise_accuracy(a, pairs) if pairs else None,
        "ece": expected_calibration_error(predicted, scores),
    }


def gain(
    predicted: np.ndarray,
    baseline: np.ndarray,
    scores: np.ndarray,
    triples: Sequence[Triple],
    seed: int,
    draws: int = 1000,
) -> dict:
    """How much lower the MSE is than the baseline's: {"mse", "low", "high"}, all predictions (n,).

    The 95% interval is a bootstrap over whole topics, since texts on one topic err alike (over
    single texts if there are fewer than ten topics).
    """
    better = (baseline - scores) ** 2 - (predicted - scores) ** 2
    topics = np.array([in_words(triple.topic) for triple in triples])
    names = sorted(set(topics.tolist()))
    if len(names) >= MIN_TOPICS:
        groups = [np.flatnonzero(topics == name) for name in names]
    else:
        groups = list(np.arange(len(triples))[:, None])
    sums = np.array([better[group].sum() for group in groups])
    counts = np.array([len(group) for group in groups])
    drawn = np.random.default_rng(seed).integers(len(groups), size=(draws, len(groups)))
    low, high = np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), [2.5, 97.5])
    return {"mse": float(better.mean()), "low": float(low), "high": float(high)}


def worst(predicted: np.ndarray, triples: Sequence[Triple], count: int = WORST) -> list[dict]:
    """The held-out texts with the largest errors."""
    errors = np.abs(predicted - [triple.score for triple in triples])
    rows = []
    for index in np.argsort(-errors, kind="stable")[:count]:
        triple = triples[index]
        rows.append(
            {
                "topic": in_words(triple.topic),
                "text": triple.text,
                "score": triple.score,
                "predicted": float(predicted[index]),
                "ratings": list(triple.ratings),
            }
        )
    return rows


def learning_curve(
    fit: Fit,
    tokenizer: Tokenizer,
    task: Task,
    feedback: Split[list[Triple]],
    config: Config,
) -> list[dict]:
    """Held-out error of reward models that learned from a part of the triples only."""
    context, train = config.model.context, feedback.train
    test = ScoredTexts(tokenizer, feedback.heldout, context, task.heldout_comparisons)
    order = torch.randperm(len(train), generator=step_generator(config.seed, "curve", 0)).tolist()
    rows = []
    for share in CURVE:
        part = [train[index] for index in sorted(order[: round(share * len(train))])]
        kept = {(triple.topic, triple.text) for triple in part}
        comparisons = []  # those with both texts among the part
        for one in task.comparisons:
            if (one.topic, one.better) in kept and (one.topic, one.worse) in kept:
                comparisons.append(one)
        if len(part) < 2 or (task.comparisons and not comparisons):
            continue
        model = fit(ScoredTexts(tokenizer, part, context, comparisons), test)
        predicted = predict(model, test)
        rows.append(
            {
                "triples": len(part),
                "mse": float((predicted - test.scores).square().mean()),
                "pearson": correlation(predicted, test.scores),
            }
        )
    return rows


def checks(card: dict) -> list[dict]:
    """What to look at before training on the model: {"question", "answer", "passed"} each."""
    model, ceiling, won = card["predictors"][MODEL], card["ceiling"], card["gain"]
    found = [
        {
            "question": "Is it better than tf-idf ridge?",
            "answer": f"MSE lower by {won['mse']:.4f} [{won['low']:.4f}, {won['high']:.4f}]",
            "passed": won["low"] > 0,
        }
    ]
    if ceiling:
        found.append(
            {
                "question": f"Does r reach {NEAR_CEILING:.0%} of the noise ceiling?",
                "answer": f"{correlation_words(model, 'pearson')} of {ceiling['mean']:.3f}",
                "passed": (model["pearson"] or 0.0) >= NEAR_CEILING * ceiling["mean"],
            }
        )
    for row in card["sensitivity"]:
        share = row["falls_with_judge"]
        if share is None:  # the judge's score never fell
            continue
        bounds = f"[{row['low']:.0%}, {row['high']:.0%}]"
        found.append(
            {
                "question": f"Does the score fall where the judge's falls: {row['check']}?",
                "answer": f"in {share:.0%} {bounds} of {row['judge_n']} texts",
                "passed": share >= MIN_AGREEMENT,
            }
        )
    return found
