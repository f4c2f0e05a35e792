"""E8 for K ranked answers, E10 and E12: against brute force and exact sums (float64)."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from minirlhf import equations
from minirlhf.enumeration import (
    World,
    build_world,
    final_reward,
    gradient,
    random_table,
    row_probs,
    text_probs,
)

BETA = 0.4


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def table_of(world: World, probs: Tensor) -> Tensor:
    """Logits (states, vocab) of the policy that gives each row the probability `probs` (rows,)."""
    weights = torch.zeros(len(world.state_prompts) * world.vocab, dtype=torch.float64)
    keys = (world.states * world.vocab + world.tokens)[world.mask]
    weights.index_add_(0, keys, probs[:, None].expand_as(world.states)[world.mask])
    return weights.view(-1, world.vocab).log()


def row_log_probs(world: World, logits: Tensor) -> Tensor:
    """log p(y | x) of every row, (rows,), by E3."""
    chosen = equations.token_log_probs(logits[world.states], world.tokens, world.mask)
    return equations.sequence_log_prob(chosen, world.mask)


# E8 for K answers ---------------------------------------------------------------------------------


def test_ranked_answers_equal_the_mean_over_their_pairs():
    scores = normal(3, 4)
    ranks = torch.tensor(
        [[2, 1, 4, 3], [1, 2, 2, 3], [1, 1, 1, 1]]
    )  # no tie, one tie, nothing else
    means = []
    for row, order in zip(scores, ranks.tolist(), strict=True):
        pairs = [(j, k) for j, k in itertools.permutations(range(4), 2) if order[j] < order[k]]
        if pairs:
            better, worse = (torch.tensor(side) for side in zip(*pairs, strict=True))
            means.append(equations.ranking_loss(row[better], row[worse]))
    assert len(means) == 2
    torch.testing.assert_close(
        equations.ranked_answers_loss(scores, ranks), torch.stack(means).mean()
    )


def test_two_ranked_answers_are_one_comparison():
    scores = normal(5, 2, seed=1)
    ranks = torch.tensor([[1, 2]]).expand(5, 2)
    expected = equations.ranking_loss(scores[:, 0], scores[:, 1])
    torch.testing.assert_close(equations.ranked_answers_loss(scores, ranks), expected)
    assert equations.ranked_answers_loss(scores, ranks.flip(1)) != expected


def test_answers_that_are_all_tied_teach_nothing():
    scores = normal(2, 3).requires_grad_()
    loss = equations.ranked_answers_loss(scores, torch.ones(2, 3, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0 and scores.grad.abs().max() == 0


def test_the_gradient_raises_the_best_answer_and_lowers_the_last():
    scores = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    equations.ranked_answers_loss(scores, torch.tensor([[1, 2, 3, 4]])).backward()
    # Each pair pulls by 1/2; the best of four wins three pairs of six,
    # the second two and loses one.
    expected = torch.tensor([[-3, -1, 1, 3]], dtype=torch.float64) / 12
    torch.testing.assert_close(scores.grad, expected)


@pytest.mark.parametrize(
    "scores, ranks, words",
    [
        (torch.zeros(2, 1), torch.ones(2, 1, dtype=torch.long), "at least 2"),
        (torch.zeros(2, 3), torch.ones(2, 2, dtype=torch.long), "ranks"),
        (torch.zeros(2, 3), torch.ones(2, 3), "integer"),
    ],
)
def test_ranked_answers_check_their_arguments(scores: Tensor, ranks: Tensor, words: str):
    with pytest.raises(ValueError, match=words):
        equations.ranked_answers_loss(scores, ranks)


# E10 ----------------------------------------------------------------------------------------------


def test_the_expected_gradient_of_demonstrations_is_zero_only_at_their_own_distribution():
    world = build_world(vocab=3, max_length=3, prompt_probs=(0.4, 0.6))
    teacher, student = random_table(world, seed=1), random_table(world, seed=2)
    demonstrations = row_probs(world, teacher)  # how often each (x, y) is demonstrated

    def expected_gradient(logits: Tensor) -> Tensor:
        logits = logits.clone().requires_grad_()
        total = logits.new_zeros(())
        for row, probability in enumerate(demonstrations):
            states, tokens, mask = (
                part[row : row + 1] for part in (world.states, world.tokens, world.mask)
            )
            chosen = equations.token_log_probs(logits[states], tokens, mask)
            total = total + probability * equations.demonstration_loss(chosen, mask)
        return torch.autograd.grad(total, logits)[0]

    # Minus the gradient of sum q log p, written with products of softmax outputs instead.
    exact = -gradient_of_cross_entropy(world, student, demonstrations)
    torch.testing.assert_close(expected_gradient(student), exact)
    assert expected_gradient(student).norm() > 0.1
    assert expected_gradient(teacher).norm() < 1e-12


def gradient_of_cross_entropy(world: World, logits: Tensor, weights: Tensor) -> Tensor:
    logits = logits.clone().requires_grad_()
    return torch.autograd.grad((weights * text_probs(world, logits).log()).sum(), logits)[0]


def test_demonstrations_teach_no_padding():
    log_probs = normal(2, 3).requires_grad_()
    mask = torch.tensor([[True, True, False], [True, True, True]])
    poisoned = torch.where(mask, log_probs, torch.nan)
    loss = equations.demonstration_loss(poisoned, mask)
    loss.backward()
    torch.testing.assert_close(loss.detach(), -(log_probs.detach() * mask).sum() / 2)
    torch.testing.assert_close(log_probs.grad, -mask.double() / 2)


# E12 ----------------------------------------------------------------------------------------------


def test_dpo_is_least_at_the_policy_that_balances_reward_and_kl():
    """Exact preferences between all pairs of texts, by Bradley-Terry from a known reward."""
    world = build_world(vocab=3, max_length=3, prompt_probs=(0.4, 0.6))
    reference = random_table(world, seed=3)
    reward = final_reward(world, random_table(world, seed=4))  # (rows,)
    first, second = (
        torch.tensor(side)
        for side in zip(
            *[
                (i, j)
                for i, j in itertools.permutations(range(len(reward)), 2)
                if world.prompts[i] == world.prompts[j]
            ],
            strict=True,
        )
    )
    preferred = (reward[first] - reward[second]).sigmoid()  # how often the first one wins
    reference_log_probs = row_log_probs(world, reference)

    def expected_loss(logits: Tensor) -> Tensor:
        log_probs = row_log_probs(world, logits)
        losses = torch.stack(
            [
                equations.dpo_loss(
                    log_probs[i, None],
                    log_probs[j, None],
                    reference_log_probs[i, None],
                    reference_log_probs[j, None],
                    BETA,
                )
                for i, j in zip(first.tolist(), second.tolist(), strict=True)
            ]
        )
        return (preferred * losses).sum() / len(first)

    # The maximum of E[r] - beta KL, in closed form: p_ref exp(r / beta), normalised per prompt.
    best = text_probs(world, reference) * (reward / BETA).exp()
    for prompt in range(2):
        mine = world.prompts == prompt
        best = torch.where(mine, best / best[mine].sum(), best)
    optimum = table_of(world, best)
    torch.testing.assert_close(text_probs(world, optimum), best)
    assert kl_regularised_gradient(world, optimum, reference, reward).norm() < 1e-10

    def slope(logits: Tensor) -> Tensor:
        logits = logits.clone().requires_grad_()
        return torch.autograd.grad(expected_loss(logits), logits)[0]

    entropy = -(preferred * preferred.log()).sum() / len(first)
    torch.testing.assert_close(expected_loss(optimum), entropy)  # no model predicts them better
    assert slope(optimum).norm() < 1e-10
    assert slope(reference).norm() > 1e-3
    assert expected_loss(optimum + 0.1 * random_table(world, seed=5)) > entropy + 1e-5


def test_dpo_learns_the_policy_that_balances_reward_and_kl():
    """From the reference, by gradient alone, to p_ref exp(r / beta) / Z; and only for that beta."""
    world = build_world(vocab=3, max_length=2, prompt_probs=(0.4, 0.6))
    reference = random_table(world, seed=3)
    # Rewards 0 and log 3: by Bradley-Terry the better text wins exactly 3 of 4 comparisons.
    reward = math.log(3) * (final_reward(world, random_table(world, seed=4)) > 0).double()
    same = world.prompts[:, None] == world.prompts[None, :]
    first, second = (same & ~torch.eye(len(reward), dtype=torch.bool)).nonzero(as_tuple=True)
    wins = (4 * (reward[first] - reward[second]).sigmoid()).round().long()  # of 4
    assert set(wins.tolist()) == {1, 2, 3}
    better, worse = first.repeat_interleave(wins), second.repeat_interleave(wins)
    reference_log_probs = row_log_probs(world, reference)
    logits = reference.clone().requires_grad_()
    exactly = {"tolerance_grad": 1e-12, "tolerance_change": 0, "line_search_fn": "strong_wolfe"}
    optimizer = torch.optim.LBFGS([logits], max_iter=80, **exactly)

    def closure() -> Tensor:
        optimizer.zero_grad()
        now, before = row_log_probs(world, logits), reference_log_probs
        sides = now[better], now[worse], before[better], before[worse]
        loss = equations.dpo_loss(*sides, BETA)
        loss.backward()
        return loss

    optimizer.step(closure)
    learned = text_probs(world, logits.detach())
    best = text_probs(world, reference) * (reward / BETA).exp()
    other = text_probs(world, reference) * (reward / (2 * BETA)).exp()
    for prompt in range(2):
        mine = world.prompts == prompt
        best = torch.where(mine, best / best[mine].sum(), best)
        other = torch.where(mine, other / other[mine].sum(), other)
    torch.testing.assert_close(learned, best, atol=1e-6, rtol=1e-5)
    assert (learned - other).abs().max() > 0.01
    # So its implicit reward is r, up to a constant for each prompt.
    implicit = BETA * (learned / text_probs(world, reference)).log()
    shift = implicit - reward
    for prompt in range(2):
        assert shift[world.prompts == prompt].std() < 1e-5


def kl_regularised_gradient(
    world: World, logits: Tensor, reference: Tensor, reward: Tensor
) -> Tensor:
    """The gradient of E[r] - beta KL(p || reference), by the exact sum."""
    log_ratio = row_log_probs(world, logits) - row_log_probs(world, reference)
    # The gradient of the log ratio itself has mean 0 under the policy.
    return gradient(world, logits, reward - BETA * log_ratio)


def test_dpo_gradient_by_hand():
    better, worse = normal(3, seed=6).requires_grad_(), normal(3, seed=7).requires_grad_()
    reference_better = normal(3, seed=8).requires_grad_()
    reference_worse = normal(3, seed=9).requires_grad_()
    arguments = better, worse, reference_better, reference_worse
    equations.dpo_loss(*arguments, BETA).backward()
    margin = BETA * (better - reference_better - worse + reference_worse).detach()
    wrong = (-margin).sigmoid()  # probability that the implicit reward gives to the other order
    torch.testing.assert_close(better.grad, -BETA * wrong / 3)
    torch.testing.assert_close(worse.grad, BETA * wrong / 3)
    assert reference_better.grad is None and reference_worse.grad is None


def test_dpo_at_the_reference_knows_nothing():
    log_probs = normal(2, 4, seed=10)
    loss = equations.dpo_loss(log_probs[0], log_probs[1], log_probs[0], log_probs[1], BETA)
    torch.testing.assert_close(loss, torch.tensor(2.0, dtype=torch.float64).log())


@pytest.mark.parametrize("kl_weight", [0.0, -1.0, float("nan")])
def test_dpo_needs_a_kl_weight(kl_weight: float):
    log_probs = normal(3)
    with pytest.raises(ValueError, match="kl_weight: expected a number above 0"):
        equations.dpo_loss(log_probs, log_probs, log_probs, log_probs, kl_weight)


def test_dpo_names_the_argument_of_the_wrong_shape():
    log_probs = normal(3)
    with pytest.raises(ValueError, match="worse: expected a tensor"):
        equations.dpo_loss(log_probs, None, log_probs, log_probs, BETA)
    with pytest.raises(ValueError, match="reference_worse: expected shape"):
        equations.dpo_loss(log_probs, log_probs, log_probs, log_probs[:2], BETA)
