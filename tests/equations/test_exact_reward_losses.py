"""E7 and E8: what the losses of the reward model are minimised by, on finite data (float64)."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from minirlhf import equations

# Texts over {0, 1, 2} with scores: shared prefixes, different lengths, one text scored twice.
DATA = [
    ((0,), 0.9), ((0, 1), 0.2), ((0, 1), 0.6), ((0, 1, 2), 1.0), ((0, 2, 2, 1), 0.0),
    ((1,), 0.3), ((1, 1, 1, 1), 0.8), ((2, 0), 0.5),
]  # fmt: skip
PREFIXES = sorted({text[:t] for text, _ in DATA for t in range(1, len(text) + 1)})


def prefix_batch():
    """The index of every prefix (batch, time), the mask and the scores (batch,)."""
    time = max(len(text) for text, _ in DATA)
    index = torch.zeros(len(DATA), time, dtype=torch.long)
    mask = torch.zeros(len(DATA), time)
    for i, (text, _) in enumerate(DATA):
        for t in range(len(text)):
            index[i, t], mask[i, t] = PREFIXES.index(text[: t + 1]), 1
    return index, mask, torch.tensor([score for _, score in DATA], dtype=torch.float64)


def minimiser(loss, size: int) -> torch.Tensor:
    """Where a quadratic loss of `size` numbers is least: one exact Newton step from a random
    point."""
    start = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    hessian = torch.func.jacrev(torch.func.grad(loss))(start)
    assert torch.linalg.eigvalsh(hessian).min() > 1e-6  # strictly convex: there is only one minimum
    return start - torch.linalg.solve(hessian, torch.func.grad(loss)(start))


def test_e7_minimiser_is_the_mean_score_of_the_texts_that_continue_a_prefix():
    index, mask, scores = prefix_batch()
    best = minimiser(lambda r: equations.mse_reward_loss(r[index], scores, mask), len(PREFIXES))
    for prefix, value in zip(PREFIXES, best.tolist()):
        through = [score for text, score in DATA if text[: len(prefix)] == prefix]
        assert value == pytest.approx(sum(through) / len(through), abs=1e-10), prefix

    # The mean over a text's own prefixes first would weigh short texts more, and another answer
    # would win.
    def averaged(r):
        return (((r[index] - scores[:, None]).square() * mask).sum(dim=1) / mask.sum(dim=1)).mean()

    other = minimiser(averaged, len(PREFIXES))
    assert (other - best).abs().max() > 0.05


def test_e7_minimiser_of_whole_texts_is_their_mean_score():
    texts = sorted({text for text, _ in DATA})
    index = torch.tensor([texts.index(text) for text, _ in DATA])
    scores = prefix_batch()[2]
    best = minimiser(lambda r: equations.mse_reward_loss(r[index], scores), len(texts))
    for text, value in zip(texts, best.tolist()):
        same = [score for other, score in DATA if other == text]
        assert value == pytest.approx(sum(same) / len(same), abs=1e-10)
    # What is left is the variance that no model can explain: two raters who disagree by .4 on one
    # text of eight.
    assert equations.mse_reward_loss(best[index], scores).item() == pytest.approx(
        2 * 0.2**2 / len(DATA)
    )


def test_e8_gradient_by_hand():
    better = torch.tensor([1.0, -0.5, 3.0], dtype=torch.float64, requires_grad=True)
    worse = torch.tensor([0.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    equations.ranking_loss(better, worse).backward()
    for i, gap in enumerate((1.0, -2.5, 0.0)):
        wrong = 1 / (1 + math.exp(gap))  # probability that the model gives to the other order
        assert better.grad[i].item() == pytest.approx(-wrong / 3, abs=1e-14)
        assert worse.grad[i].item() == pytest.approx(wrong / 3, abs=1e-14)


def test_e8_ignores_a_common_shift_and_survives_large_gaps():
    generator = torch.Generator().manual_seed(0)
    better, worse = (torch.randn(20, generator=generator, dtype=torch.float64) for _ in range(2))
    found = equations.ranking_loss(better + 5, worse + 5)
    torch.testing.assert_close(found, equations.ranking_loss(better, worse))
    assert equations.ranking_loss(better, worse) != equations.ranking_loss(worse, better)
    huge = torch.full((1,), 2000.0, dtype=torch.float64)
    assert (
        equations.ranking_loss(-huge / 2, huge / 2).item() == 2000.0
    )  # a plain log of a sigmoid would be inf
    assert equations.ranking_loss(huge / 2, -huge / 2).item() == 0.0


def test_e8_recovers_known_bradley_terry_strengths():
    """Texts of strength 1 to 4 meet 420 times a pair; i wins in the share i / (i + j), exactly."""
    strengths = [1, 2, 3, 4]
    winners, losers = [], []
    for i, j in itertools.combinations(range(4), 2):
        wins = 420 * strengths[i] / (strengths[i] + strengths[j])
        assert wins == int(wins)
        winners += [i] * int(wins) + [j] * (420 - int(wins))
        losers += [j] * int(wins) + [i] * (420 - int(wins))
    winners, losers = torch.tensor(winners), torch.tensor(losers)

    def loss(free: torch.Tensor) -> torch.Tensor:
        scores = torch.cat(
            [free.new_zeros(1), free]
        )  # only differences count, so text 0 is the zero point
        return equations.ranking_loss(scores[winners], scores[losers])

    free = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    for _ in range(12):  # Newton
        free = free - torch.linalg.solve(
            torch.func.jacrev(torch.func.grad(loss))(free), torch.func.grad(loss)(free)
        )
    for found, strength in zip(free.tolist(), strengths[1:]):
        assert found == pytest.approx(math.log(strength), abs=1e-10)
