"""The objective of ranked answers: its loss by hand, what it draws, and a model that learns it."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
import torch
from test_ranking import CPU, model_of

from minirlhf import equations
from minirlhf.config import RewardConfig
from minirlhf.evaluation.reward_quality import ranking_quality
from minirlhf.feedback.rankings import Ranked
from minirlhf.stats import pairs_words
from minirlhf.tokenizer import Tokenizer, train_bpe
from minirlhf.training.batches import Split
from minirlhf.training.log import METRICS, TrainLog
from minirlhf.training.ranked_answers import (
    RankedAnswers,
    RankedTexts,
    ranked_reward_loss,
    right_pairs,
    whole_answers_loss,
)
from minirlhf.training.train_reward_model import predict, train_reward_model

RANKINGS = [
    Ranked("tea", ("Tea wakes people up.", "Tea.", "It is so, I think."), (1, 3, 2)),
    Ranked("sun", ("Sun.", "The sun is far away and hot.", "It is so."), (2, 1, 2)),
    Ranked("sea", ("The sea.", "Water.", "It is so."), (1, 1, 1)),  # says nothing
]
TEXTS = [f"{one.prompt} {answer}" for one in RANKINGS for answer in one.answers]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_bpe(TEXTS, 270))


@pytest.mark.parametrize("target", ["every-prefix", "final"])
def test_the_loss_equals_a_loop_over_pairs(tokenizer, target):
    model = model_of(tokenizer).double()
    texts = RankedTexts(tokenizer, RANKINGS, 64)

    def logit(prompt: str, answer: str, t: int) -> float:
        """f of the first t tokens of an answer, through a pass of its own."""
        ids = tokenizer.encode_prompt(prompt) + tokenizer.encode_text(answer)[:t]
        return float(model.logits(torch.tensor([ids]))[0, -1].detach())

    losses = []  # one for each prompt and prefix length
    for one in RANKINGS[:2]:
        lengths = [len(tokenizer.encode_text(answer)) for answer in one.answers]
        first = max(lengths) if target == "final" else 1
        for t in range(first, max(lengths) + 1):
            f = [
                logit(one.prompt, answer, min(t, length))
                for answer, length in zip(one.answers, lengths, strict=True)
            ]
            pairs = [
                math.log1p(math.exp(f[worse] - f[better]))
                for better in range(3)
                for worse in range(3)
                if one.ranks[better] < one.ranks[worse]
            ]
            losses.append(sum(pairs) / len(pairs))
    batch = texts.of_prompts(torch.arange(3), CPU)
    found = ranked_reward_loss(model, batch, texts.ranks, target)
    assert found.item() == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    if target == "final":
        whole = whole_answers_loss(predict(model.float(), texts), texts.ranks)
        assert whole == pytest.approx(found.item(), abs=1e-4)


def test_a_better_answer_is_pushed_up_and_a_swapped_rank_turns_the_sign():
    ranks = torch.tensor([[1, 2]])
    for order, sign in ((ranks, -1.0), (ranks.flip(1), 1.0)):
        logits = torch.zeros(1, 2, requires_grad=True)
        equations.ranked_answers_loss(logits, order).backward()
        assert logits.grad[0, 0].sign() == sign and logits.grad.sum() == 0


def test_right_pairs_by_hand():
    ranks = torch.tensor([[1, 3, 2], [2, 1, 2], [1, 1, 1]])
    predicted = torch.tensor([0.9, 0.5, 0.5, 0.7, 0.6, 0.1, 0.1, 0.2, 0.3])
    # First: right, right, equal. Second: wrong, right. Third: nothing but ties.
    assert right_pairs(predicted, ranks).tolist() == pytest.approx([2.5 / 3, 0.5])


def test_whole_prompts_are_drawn(tokenizer):
    texts = RankedTexts(tokenizer, RANKINGS, 64)
    objective = RankedAnswers(Split(texts, texts), RewardConfig(batch_size=8))
    drawn = set()
    for step in range(8):
        batch, ranks = objective.draw(1, "reward", step, CPU)
        assert batch.rows.shape[0] == 6 and ranks.shape == (2, 3)  # 8 // 3 prompts
        index = batch.index.view(2, 3)
        prompts = index[:, 0] // 3
        assert index.tolist() == [[3 * p, 3 * p + 1, 3 * p + 2] for p in prompts.tolist()]
        assert torch.equal(ranks, texts.ranks[prompts])
        again, _ = objective.draw(1, "reward", step, CPU)
        assert torch.equal(batch.index, again.index)
        drawn |= set(prompts.tolist())
    assert drawn == {0, 1, 2}
    small = RankedAnswers(Split(texts, texts), RewardConfig(batch_size=2))
    assert small.draw(1, "reward", 0, CPU)[1].shape == (1, 3)  # one prompt at least


def test_rankings_that_teach_nothing_or_differ_in_number_are_refused(tokenizer):
    with pytest.raises(ValueError, match="equally many answers each, found 2 and 3"):
        RankedTexts(tokenizer, [*RANKINGS, Ranked("a", ("b", "c"), (1, 2))], 64)
    with pytest.raises(ValueError, match="two answers with different ranks, found only ties"):
        RankedTexts(tokenizer, RANKINGS[2:], 64)


@pytest.mark.parametrize("target", ["every-prefix", "final"])
def test_a_reward_model_learns_the_order(target):
    """The more often an answer names gold, the better. (Swapped ranks teach the reverse.)"""
    generator = random.Random(0)

    def rankings(count: int, swapped: bool = False) -> list[Ranked]:
        made = []
        for index in range(count):
            answers = []
            for golds in range(3):
                words = ["gold"] * golds + generator.choices(["tin", "iron", "zinc"], k=4 - golds)
                generator.shuffle(words)
                answers.append(f"{' '.join(words)} {index}.")
            ranks = (1, 2, 3) if swapped else (3, 2, 1)
            made.append(Ranked(f"topic {index % 3}", tuple(answers), ranks))
        return made

    train, heldout = rankings(60), rankings(30)
    tokenizer = Tokenizer(train_bpe([text for one in train for text in one.answers], 300))
    texts = Split(*(RankedTexts(tokenizer, part, 64) for part in (train, heldout)))
    log, model = TrainLog("reward"), model_of(tokenizer, 32)
    config = RewardConfig(
        steps=10, batch_size=30, warmup=2, evaluate_every=5, patience=15, target=target
    )
    train_reward_model(model, texts, config, 0, log)
    quality = ranking_quality(model, texts.heldout)
    right = quality["pairs_right"]
    assert right["mean"] > 0.9 and right["low"] <= right["mean"] <= right["high"] <= 1
    assert right["n"] == 30 and right["pairs"] == 90
    assert pairs_words(right | {"mean": 0.5, "low": 0.25, "high": 0.75}) == (
        "0.500 [0.250, 0.750], n = 90 pairs of 30 prompts"
    )
    swapped = [dataclasses.replace(one, ranks=one.ranks[::-1]) for one in heldout]
    wrong = ranking_quality(model, RankedTexts(tokenizer, swapped, 64))["pairs_right"]
    assert wrong["mean"] == pytest.approx(1 - right["mean"])
    logits = torch.logit(predict(model, texts.heldout).double())
    best = (texts.heldout.ranks == 1).flatten()
    assert logits[best].mean().abs() < 1e-2 and logits.mean() < -0.1  # centred on the best
    rows = log.tables.read(METRICS)
    assert rows[-1]["heldout_ranking_nats"] < rows[0]["heldout_ranking_nats"] < math.log(2) + 0.2
    assert rows[-1]["heldout_pairs_right"] > 0.9 and "loss_ranking_nats" in rows[0]
    # The best held-out loss counts.
    assert quality["ranking_nats"] == pytest.approx(
        min(row["heldout_ranking_nats"] for row in rows), abs=1e-3
    )
