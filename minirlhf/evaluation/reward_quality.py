"""How good the reward model is on feedback that it never saw."""

from __future__ import annotations

from minirlhf import equations
from minirlhf.stats import calibration, correlation, ranks
from minirlhf.training.reward_objectives import ScoredTexts, predict
from minirlhf.training.rollout import AnyReward


def quality(model: AnyReward, train: ScoredTexts, heldout: ScoredTexts) -> dict:
    """Errors, correlations and calibration on `heldout`; "mse_constant" predicts the mean score."""
    predicted, scores = predict(model, heldout), heldout.scores
    constant = train.scores.mean().expand_as(scores)
    return {
        "mse": equations.mse_reward_loss(predicted, scores).item(),
        "mse_constant": equations.mse_reward_loss(constant, scores).item(),
        "pearson": correlation(predicted, scores),
        "spearman": correlation(ranks(predicted), ranks(scores)),
        "n": len(scores),
        "calibration": calibration(predicted.numpy(), scores.numpy()),
    }
