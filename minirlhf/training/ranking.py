"""The reward model as a ranker (排序器, section 3.2 step 2): "this text is better than that" (E8).

A comparison says nothing about how good either text is, only about the difference; so it is the
logits f that are compared, not the scores sigmoid(f), whose differences shrink towards 0 and 1.
sigmoid(f(y+) - f(y-)) is the probability that y+ is preferred.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from minirlhf import equations
from minirlhf.feedback.conversation import in_words
from minirlhf.feedback.records import Comparison, Triple
from minirlhf.models.encoder import EncoderReward
from minirlhf.models.reward_model import RewardModel
from minirlhf.system.seeds import step_generator
from minirlhf.training.batches import Batch, EncodedTexts

ALL_PAIRS_UP_TO = 1500  # texts on one topic
PARTNERS = 128


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Comparisons between rows of a data set. Where there is a tie the order means nothing."""

    better: Tensor  # (n,) int64
    worse: Tensor  # (n,) int64
    tie: Tensor  # (n,) bool

    def __len__(self) -> int:
        return len(self.tie)

    def random(self, count: int, seed: int, stage: str, step: int) -> Pairs:
        """`count` of them, with replacement: a function of (seed, stage, step) alone."""
        chosen = torch.randint(
            len(self), (count,), generator=step_generator(seed, f"{stage} pairs", step)
        )
        return Pairs(self.better[chosen], self.worse[chosen], self.tie[chosen])


def pairs_from_scores(triples: Sequence[Triple], min_gap: float) -> Pairs:
    """All pairs of texts on one topic whose scores lie at least `min_gap` apart.

    With min_gap 0 equal scores are ties. Of a topic with more than ALL_PAIRS_UP_TO texts, whose
    pairs would be millions: each text with the PARTNERS that follow it. Raises ValueError if there
    is no such pair.
    """
    scores = np.array([triple.score for triple in triples])
    _, texts = np.unique([triple.text for triple in triples], return_inverse=True)
    _, topics = np.unique([in_words(triple.topic) for triple in triples], return_inverse=True)
    parts = []
    for topic in range(topics.max() + 1):
        rows = np.flatnonzero(topics == topic)
        if len(rows) <= ALL_PAIRS_UP_TO:
            first, second = np.triu_indices(len(rows), k=1)
        else:
            first = np.arange(len(rows)).repeat(PARTNERS)
            second = (first + np.tile(np.arange(1, PARTNERS + 1), len(rows))) % len(rows)
        parts.append(np.stack([rows[first], rows[second]]))
    first, second = np.concatenate(parts, axis=1)
    gap = scores[first] - scores[second]
    kept = (np.abs(gap) >= min_gap - 1e-9) & (
        texts[first] != texts[second]
    )  # .75 - .625 is a little under .125 to a computer
    first, second, gap = first[kept], second[kept], gap[kept]
    if not len(gap):
        raise ValueError(
            f"feedback: expected two texts on one topic with scores {min_gap} apart (--min-gap), "
            "found none"
        )
    better, worse = np.where(gap >= 0, first, second), np.where(gap >= 0, second, first)
    return Pairs(torch.from_numpy(better), torch.from_numpy(worse), torch.from_numpy(gap == 0))


def pairs_as_given(triples: Sequence[Triple], comparisons: Sequence[Comparison]) -> Pairs:
    """The comparisons as rows of the triples. Raises ValueError for a text that is not there."""
    rows = {(triple.topic, triple.text): index for index, triple in enumerate(triples)}
    try:
        better, worse = (
            [rows[one.topic, getattr(one, side)] for one in comparisons]
            for side in ("better", "worse")
        )
    except KeyError as error:
        raise ValueError(
            f"comparisons: expected texts that are among the triples, found {str(error)[:80]}"
        ) from None
    return Pairs(
        torch.tensor(better), torch.tensor(worse), torch.tensor([one.tie for one in comparisons])
    )


def pair_batch(texts: EncodedTexts, pairs: Pairs, device: torch.device) -> Batch:
    """The better texts, then the worse ones, as one batch of 2n rows."""
    return texts.batch(torch.cat([pairs.better, pairs.worse]), device)


def tied_ranking_loss(better: Tensor, worse: Tensor, tie: Tensor) -> Tensor:
    """E8, all (n,). A tie is half a win for either side, so it pulls the two logits together."""
    turned_better, turned_worse = torch.where(tie, worse, better), torch.where(tie, better, worse)
    return (
        equations.ranking_loss(better, worse) + equations.ranking_loss(turned_better, turned_worse)
    ) / 2


def ranking_reward_loss(
    model: RewardModel | EncoderReward, batch: Batch, tie: Tensor, target: str
) -> Tensor:
    """E8 over a `pair_batch`: whole texts ("final"), or all their prefixes ("every-prefix").

    Then the difference at t learns the log-odds that the one text *will* be preferred, given the
    first t tokens of both. Past the end of the shorter text, the whole of it is compared with the
    longer one's prefixes. Raises ValueError for all prefixes with an encoder, which has no such
    scores in one pass.
    """
    if target != "every-prefix":
        better, worse = model.text_logits(
            batch.rows, batch.prompt_lengths + batch.mask.sum(1), batch.prompt_lengths
        ).chunk(2)
        return tied_ranking_loss(better, worse, tie)
    if not isinstance(model, RewardModel):
        raise ValueError("target: expected final with an encoder that ranks, found every-prefix")
    time = batch.tokens.shape[1]
    logits = model.prefix_logits(batch.rows, batch.prompt_lengths, time)  # (2n, time)
    last = batch.mask.sum(1, keepdim=True) - 1  # (2n, 1)
    columns = torch.arange(time, device=logits.device)
    better, worse = logits.gather(1, columns.minimum(last)).chunk(2)  # (n, time) each
    longer = torch.maximum(*last.chunk(2))
    real = columns <= longer
    return tied_ranking_loss(better[real], worse[real], tie[:, None].expand_as(real)[real])


def warning_of_cut_pairs(texts: EncodedTexts, pairs: Pairs) -> str:
    """How many comparisons say nothing, since their two texts are the same once they are cut.

    One line; empty if there are none.
    """
    if not texts.cut:
        return ""
    same = int((texts.rows[pairs.better] == texts.rows[pairs.worse]).all(1).sum())
    if not same:
        return ""
    return (
        f"{same:,} of {len(pairs):,} comparisons are between texts that differ only after the "
        "tokens that fit the context, so nothing can be learned from them; shorten the texts, or "
        "train from scratch with a larger --model.context"
    )


def pairwise_accuracy(predicted: Tensor, pairs: Pairs) -> float:
    """Share of the pairs, but for ties, whose better text is predicted (n_texts,) to be better.

    Equal predictions count half.
    """
    better, worse = predicted[pairs.better[~pairs.tie]], predicted[pairs.worse[~pairs.tie]]
    return ((better > worse).double() + 0.5 * (better == worse).double()).mean().item()
