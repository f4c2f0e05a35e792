"""What a reward model can learn from: scores (E7, regression) or comparisons (E8, ranking).
Rankings of K answers: ranked_answers.py.

Each is three things for the one loop in train_reward_model.py: a batch, its loss, and how well it
does on held-out texts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from minirlhf import equations
from minirlhf.config import RewardConfig
from minirlhf.feedback.records import Comparison, Triple
from minirlhf.models.encoder import EncoderReward
from minirlhf.models.reward_model import RewardEnsemble, RewardModel
from minirlhf.stats import correlation
from minirlhf.system.devices import autocast
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.batches import Batch, EncodedTexts, Split
from minirlhf.training.ranking import (
    Pairs,
    pair_batch,
    pairs_as_given,
    pairs_from_scores,
    ranking_reward_loss,
    tied_ranking_loss,
)
from minirlhf.training.rollout import AnyReward


class ScoredTexts(EncodedTexts):
    """Encoded texts with their scores (n,) in [0, 1], and comparisons if people compared."""

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
        if self.comparisons:
            return pairs_as_given(self.triples, self.comparisons)
        return pairs_from_scores(self.triples, min_gap)


class Regression:
    """Learn the scores themselves (E7)."""

    loss_name, stops_on = "loss_mse", "heldout_mse"
    meaning = "held-out MSE {heldout_mse:.4f}, r {heldout_pearson:.3f}"  # of a row, in words

    def __init__(self, texts: Split[ScoredTexts], settings: RewardConfig):
        self.texts, self.target, self.batch_size = texts, settings.target, settings.batch_size

    def draw(self, seed: int, name: str, step: int, device: torch.device) -> tuple[Batch, Tensor]:
        """Texts at random, and their scores (batch,)."""
        batch = self.texts.train.random_batch(self.batch_size, seed, name, step, device)
        return batch, self.texts.train.scores[batch.index.cpu()].to(device)

    def loss(self, model: RewardModel | EncoderReward, batch: Batch, scores: Tensor) -> Tensor:
        return reward_loss(model, batch, scores, self.target)

    def heldout(self, predicted: Tensor) -> dict[str, float]:
        """predicted (n,): the scores of the held-out texts by the model."""
        scores = self.texts.heldout.scores
        return {
            "heldout_mse": equations.mse_reward_loss(predicted, scores).item(),
            "heldout_pearson": correlation(predicted, scores),
        }

    def finish(self, member: RewardModel | EncoderReward) -> None:
        """Nothing to do: the level of the scores was learned."""


class Ranking:
    """Learn which of two texts on a topic is better (E8)."""

    loss_name, stops_on = "loss_ranking_nats", "heldout_ranking_nats"
    meaning = Regression.meaning

    def __init__(self, texts: Split[ScoredTexts], settings: RewardConfig):
        self.texts, self.target, self.batch_size = texts, settings.target, settings.batch_size
        self.pairs = texts.train.pairs(settings.min_gap)
        self.heldout_pairs = texts.heldout.pairs(settings.min_gap)
        self.regression = Regression(texts, settings)  # the held-out errors are logged, too

    def draw(self, seed: int, name: str, step: int, device: torch.device) -> tuple[Batch, Tensor]:
        """Pairs at random as a `pair_batch`, and which of them are ties (batch / 2,)."""
        drawn = self.pairs.random(self.batch_size // 2, seed, name, step)
        return pair_batch(self.texts.train, drawn, device), drawn.tie.to(device)

    def loss(self, model: RewardModel | EncoderReward, batch: Batch, tie: Tensor) -> Tensor:
        return ranking_reward_loss(model, batch, tie, self.target)

    def heldout(self, predicted: Tensor) -> dict[str, float]:
        errors = self.regression.heldout(predicted)
        return errors | {
            "heldout_ranking_nats": heldout_ranking_loss(predicted, self.heldout_pairs)
        }

    def finish(self, member: RewardModel | EncoderReward) -> None:
        """Comparisons leave the level of the scores open."""
        centre(member, self.texts.train)


def reward_loss(
    model: RewardModel | EncoderReward, batch: Batch, scores: Tensor, target: str
) -> Tensor:
    """E7 over whole texts ("final"), or over every prefix too: its target is the final score.

    A text has one end and some 25 other prefixes. So that its end, the one score that all is about,
    is not lost among them, the two means count alike. The best prediction at a prefix is the mean
    final score all the same.
    """
    if target == "every-prefix" and model.config.causal:
        time = batch.tokens.shape[1]
        _, prefix = model.prefix_scores(batch.rows, batch.prompt_lengths, time)  # (batch, time)
        whole = prefix.gather(1, batch.mask.sum(1, keepdim=True) - 1).squeeze(1)  # (batch,)
        every_prefix = equations.mse_reward_loss(prefix, scores, batch.mask)
        return every_prefix + equations.mse_reward_loss(whole, scores)
    lengths = batch.prompt_lengths + batch.mask.sum(1)
    whole = model.text_scores(batch.rows, lengths, batch.prompt_lengths)
    return equations.mse_reward_loss(whole, scores)


def heldout_ranking_loss(predicted: Tensor, pairs: Pairs) -> float:
    """E8 of whole texts, from their scores (n,)."""
    logits = torch.logit(predicted.double(), eps=1e-9)
    return tied_ranking_loss(logits[pairs.better], logits[pairs.worse], pairs.tie).item()


@torch.inference_mode()
def predict(model: AnyReward, texts: EncodedTexts) -> Tensor:
    """r_phi(x, y) of whole texts: (n,), in the order of the data, on the CPU.

    Of an ensemble always the plain mean.
    """
    if isinstance(model, RewardEnsemble):
        return torch.stack([predict(member, texts) for member in model.members]).mean(0)
    device = model.device
    result = torch.empty(len(texts))
    for batch in texts.in_order(256, device):
        with autocast(device):
            lengths = batch.prompt_lengths + batch.mask.sum(1)
            scores = model.text_scores(batch.rows, lengths, batch.prompt_lengths)
        result[batch.index.cpu()] = scores.cpu()
    return result


@torch.no_grad()
def centre(
    model: RewardModel | EncoderReward, texts: EncodedTexts, chosen: Tensor | None = None
) -> None:
    """Shift all logits alike so that their mean over `texts` is 0, or over the `chosen` of them.

    chosen: (n_texts,) bool.
    """
    logits = torch.logit(predict(model, texts).double(), eps=1e-9)
    if chosen is not None:
        logits = logits[chosen]
    model.score.bias.sub_(logits.mean().to(model.score.bias))


def cut_at_random(batch: Batch, generator: torch.Generator) -> Batch:
    """Each text cut to a random prefix, of 1 to all of its tokens.

    For a model that scores one prefix per pass: so it learns them all in turn.
    """
    lengths = batch.mask.sum(1)
    share = torch.rand(len(lengths), generator=generator).to(lengths.device)
    kept = (share * lengths).long() + 1  # share < 1
    columns = torch.arange(batch.mask.shape[1], device=kept.device)
    return dataclasses.replace(batch, mask=batch.mask & (columns < kept[:, None]))


def hide_tokens(batch: Batch, share: float, generator: torch.Generator) -> Tensor:
    """The rows, a random share of the texts' tokens replaced by token 0, against overfitting."""
    columns = torch.arange(batch.rows.shape[1], device=batch.rows.device)
    is_text = columns >= batch.prompt_lengths[:, None]
    hidden = torch.rand(batch.rows.shape, generator=generator).to(batch.rows.device) < share
    return batch.rows.masked_fill(hidden & is_text, 0)
