"""How good the reward model is on feedback that it never saw."""

from __future__ import annotations

from minirlhf import equations
from minirlhf.stats import calibration, correlation, correlation_facts, ranks
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
