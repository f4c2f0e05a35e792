"""How good the reward model is on feedback that it never saw."""

from __future__ import annotations

from minirlhf import equations
from minirlhf.stats import calibration, correlation, correlation_facts, interval, ranks
from minirlhf.training.ranked_answers import (
    RankedTexts,
    is_pair,
    right_pairs,
    whole_answers_loss,
)
from minirlhf.training.reward_objectives import ScoredTexts, predict
from minirlhf.training.rollout import AnyReward


def quality(model: AnyReward, train: ScoredTexts, heldout: ScoredTexts) -> dict:
    """Errors, correlations and calibration on `heldout`; "mse_constant" predicts the mean score.

    Correlations have 95% intervals ("pearson_low", "pearson_high", ...), and are None where there
    are too few texts to say.
    """
    predicted, scores = predict(model, heldout), heldout.scores
    n = len(scores)
    by_rank = correlation(ranks(predicted), ranks(scores))
    constant = train.scores.mean().expand_as(scores)
    return {
        "mse": equations.mse_reward_loss(predicted, scores).item(),
        "mse_constant": equations.mse_reward_loss(constant, scores).item(),
        **correlation_facts("pearson", correlation(predicted, scores), n),
        **correlation_facts("spearman", by_rank, n, of_ranks=True),
        "n": n,
        "calibration": calibration(predicted.numpy(), scores.numpy()),
    }


def ranking_quality(model: AnyReward, heldout: RankedTexts) -> dict:
    """Loss and share of pairs in the right order on ranked answers that the model never saw.

    "pairs_right" is the mean over the n prompts with the 95% interval of that mean: the pairs of
    one prompt share their answers, so they are no independent cases. "pairs" counts them all.
    """
    predicted = predict(model, heldout)
    shares = right_pairs(predicted, heldout.ranks)
    right = interval(shares.tolist())
    right |= {"low": max(right["low"], 0.0), "high": min(right["high"], 1.0)}
    return {
        "ranking_nats": whole_answers_loss(predicted, heldout.ranks),
        "pairs_right": right | {"pairs": int(is_pair(heldout.ranks).sum())},
    }
