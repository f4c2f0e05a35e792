"""Step 2 of section 3.2: fit the reward model (奖励模型训练) to human scores by regression (E7, section 4.3).

Also by ranking (E8; ranking.py has its loss and its batches), and all members of an ensemble at once.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from minirlhf import equations
from minirlhf.config import RewardConfig
from minirlhf.feedback.records import Comparison, Triple
from minirlhf.models.encoder import EncoderReward
from minirlhf.models.reward_model import RewardEnsemble, RewardModel
from minirlhf.runs.checkpoints import Checkpoints
from minirlhf.runs.folder import Run
from minirlhf.stats import calibration, correlation, ranks
from minirlhf.system.devices import autocast
from minirlhf.system.weights import load_weights, weights
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.batches import Batch, EncodedTexts
from minirlhf.training.optimizers import linear_schedule, muon_and_adamw, scale_learning_rates
from minirlhf.training.ranking import (
    Pairs,
    pair_batch,
    pairs_as_given,
    pairs_from_scores,
    ranking_reward_loss,
    tied_ranking_loss,
)

AnyReward = RewardModel | EncoderReward | RewardEnsemble


class ScoredTexts(EncodedTexts):
    """Encoded texts with their scores (n,) in [0, 1], and comparisons between them if people compared."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        triples: list[Triple],
        context: int,
        comparisons: Sequence[Comparison] = (),
    ):
        super().__init__(tokenizer, [(triple.topic, triple.text) for triple in triples], context)
        self.scores = torch.tensor([triple.score for triple in triples], dtype=torch.float32)
        self.triples, self.comparisons = triples, comparisons

    def pairs(self, min_gap: float) -> Pairs:
        """The comparisons given, or else those that the scores make within a topic."""
        return (
            pairs_as_given(self.triples, self.comparisons)
            if self.comparisons
            else pairs_from_scores(self.triples, min_gap)
        )


def reward_loss(
    model: RewardModel | EncoderReward, batch: Batch, scores: Tensor, target: str
) -> Tensor:
    """E7 over whole texts ("final"), or over every prefix too, each with the text's final score as its target.

    A text has one end and some 25 other prefixes. So that its end, the one score that all is about, is not lost among them, the
    two means count alike; at each prefix the best prediction is the mean final score all the same.
    """
    if target == "every-prefix" and model.config.causal:
        _, prefix = model.prefix_scores(
            batch.rows, batch.prompt_lengths, batch.tokens.shape[1]
        )  # (batch, time)
        whole = prefix.gather(1, batch.mask.sum(1, keepdim=True) - 1).squeeze(1)  # (batch,)
        return equations.mse_reward_loss(prefix, scores, batch.mask) + equations.mse_reward_loss(
            whole, scores
        )
    return equations.mse_reward_loss(
        model.text_scores(batch.rows, batch.prompt_lengths + batch.mask.sum(1)), scores
    )


@torch.inference_mode()
def predict(model: AnyReward, texts: EncodedTexts) -> Tensor:
    """r_phi(x, y) of whole texts: (n,), in the order of the data, on the CPU. Of an ensemble always the plain mean."""
    if isinstance(model, RewardEnsemble):
        return torch.stack([predict(member, texts) for member in model.members]).mean(0)
    device = model.device
    result = torch.empty(len(texts))
    for batch in texts.in_order(256, device):
        with autocast(device):
            scores = model.text_scores(batch.rows, batch.prompt_lengths + batch.mask.sum(1))
        result[batch.index.cpu()] = scores.cpu()
    return result


def fit_reward(
    run: Run,
    model: AnyReward,
    train: ScoredTexts,
    heldout: ScoredTexts,
    config: RewardConfig,
    stage: str = "reward",
) -> AnyReward:
    """Train `model` in place, all members of an ensemble side by side; stop early on the held-out loss of whole texts; keep the
    best weights seen.

    `stage` "reward" logs and checkpoints under that name; a refit ("refit 1", ...) happens inside fine-tuning and does not.
    """
    device, seed = run.device, run.config.seed
    optimizers = muon_and_adamw(
        model, config.learning_rate, config.muon_learning_rate, config.weight_decay
    )
    best_model = copy.deepcopy(model).requires_grad_(False)
    best = {"loss": float("inf"), "bad": 0}
    ranking = config.loss == "ranking"
    pairs, heldout_pairs = (
        part.pairs(config.min_gap) if ranking else None for part in (train, heldout)
    )
    start, logged = 0, stage == "reward"
    if logged:
        checkpoints = Checkpoints(run, stage, {"model": model, "best": best_model}, *optimizers)
        if resumed := checkpoints.resume():
            start, best = resumed["step"], resumed["best"]
            if best["bad"] >= config.patience:  # it had stopped early already
                start = config.steps

    losses = []
    bar = tqdm(
        range(start, config.steps),
        desc=stage,
        unit="step",
        initial=start,
        total=config.steps,
        leave=logged,
    )
    members = list(model.members)
    for step in bar:
        scale_learning_rates(optimizers, linear_schedule(step, config.steps, config.warmup))
        model.zero_grad()
        for number, member in enumerate(members):
            name = stage if number == 0 else f"{stage} member {number}"  # batches of its own
            if ranking:
                drawn = pairs.random(config.batch_size // 2, seed, name, step)
                batch = pair_batch(train, drawn, device)
            else:
                batch = train.random_batch(config.batch_size, seed, name, step, device)
            if config.target == "every-prefix" and not member.config.causal:
                batch = cut_at_random(batch, run.generator(f"{name} prefixes", step))
            if config.dropout:
                batch.rows = hide_tokens(
                    batch, config.dropout, run.generator(f"{name} dropout", step)
                )
            with autocast(device):
                if ranking:
                    loss = ranking_reward_loss(member, batch, drawn.tie.to(device), config.target)
                else:
                    loss = reward_loss(
                        member, batch, train.scores[batch.index.cpu()].to(device), config.target
                    )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(member.parameters(), 1.0)
            losses.append(loss.detach())
        for optimizer in optimizers:
            optimizer.step()

        done = step + 1
        if done % config.evaluate_every == 0 or done == config.steps:
            predicted = predict(model, heldout)
            heldout_mse = equations.mse_reward_loss(predicted, heldout.scores).item()
            heldout_loss = (
                heldout_ranking_loss(predicted, heldout_pairs) if ranking else heldout_mse
            )
            if heldout_loss < best["loss"]:
                best = {"loss": heldout_loss, "bad": 0}
                load_weights(best_model, weights(model), "best")
            else:
                best["bad"] += 1
            r = correlation(predicted, heldout.scores)
            bar.set_postfix_str(f"held-out MSE {heldout_mse:.4f}, r {r:.3f}")
            if logged:
                run.append(
                    "metrics.jsonl",
                    [
                        {
                            "stage": stage,
                            "step": done,
                            "seconds": round(checkpoints.seconds, 3),
                            "loss_ranking_nats" if ranking else "loss_mse": torch.stack(losses)
                            .mean()
                            .item(),
                            "heldout_mse": heldout_mse,
                            "heldout_pearson": r,
                            **({"heldout_ranking_nats": heldout_loss} if ranking else {}),
                        }
                    ],
                )
                checkpoints.maybe_save(done, best=best)
            losses.clear()
            if best["bad"] >= config.patience:
                break
    if not math.isfinite(best["loss"]):
        raise ValueError(
            f"{stage}: the held-out loss was never a finite number; lower --reward.learning-rate or "
            "--reward.muon-learning-rate"
        )
    load_weights(model, weights(best_model), "best")
    if ranking:
        for member in members:
            centre(member, train)
    return model


def heldout_ranking_loss(predicted: Tensor, pairs: Pairs) -> float:
    """E8 of whole texts, from their scores (n,)."""
    logits = torch.logit(predicted.double(), eps=1e-9)
    return tied_ranking_loss(logits[pairs.better], logits[pairs.worse], pairs.tie).item()


@torch.no_grad()
def centre(model: RewardModel, texts: EncodedTexts) -> None:
    """Shift all logits alike so that their mean over `texts` is 0: comparisons leave the level of the scores open."""
    model.score.bias -= (
        torch.logit(predict(model, texts).double(), eps=1e-9).mean().to(model.score.bias)
    )


def cut_at_random(batch: Batch, generator: torch.Generator) -> Batch:
    """Each text cut to a random prefix of 1 to all of its tokens: every prefix in turn, for a model that scores one in a pass."""
    lengths = batch.mask.sum(1)
    share = torch.rand(len(lengths), generator=generator).to(lengths.device)
    kept = (share * lengths).long() + 1  # share < 1
    return dataclasses.replace(
        batch,
        mask=batch.mask & (torch.arange(batch.mask.shape[1], device=kept.device) < kept[:, None]),
    )


def hide_tokens(batch: Batch, share: float, generator: torch.Generator) -> Tensor:
    """The rows with a random share of the text's tokens replaced by token 0, as a guard against learning by heart."""
    columns = torch.arange(batch.rows.shape[1], device=batch.rows.device)
    is_text = columns >= batch.prompt_lengths[:, None]
    hidden = torch.rand(batch.rows.shape, generator=generator).to(batch.rows.device) < share
    return batch.rows.masked_fill(hidden & is_text, 0)


def refit_config(config: RewardConfig, steps: int) -> RewardConfig:
    """A short run from the present weights: half the batch and half the learning rate, one evaluation at the end."""
    return dataclasses.replace(
        config,
        steps=steps,
        batch_size=max(2, config.batch_size // 2),
        warmup=min(10, steps),
        learning_rate=config.learning_rate / 2,
        muon_learning_rate=config.muon_learning_rate / 2,
        evaluate_every=steps,
    )


def quality(model: AnyReward, train: ScoredTexts, heldout: ScoredTexts) -> dict:
    """How good the reward model is on feedback that it never saw: errors, correlations, calibration."""
    predicted, scores = predict(model, heldout), heldout.scores
    return {
        "mse": equations.mse_reward_loss(predicted, scores).item(),
        "mse_constant": equations.mse_reward_loss(
            train.scores.mean().expand_as(scores), scores
        ).item(),
        "pearson": correlation(predicted, scores),
        "spearman": correlation(ranks(predicted), ranks(scores)),
        "n": len(scores),
        "calibration": calibration(predicted.numpy(), scores.numpy()),
    }
