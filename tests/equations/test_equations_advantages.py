"""KL penalty in the reward, advantages of groups (RLOO, GRPO), whitening, best of n: by hand and by
enumeration (float64)."""

from __future__ import annotations

import itertools
import math
import statistics

import pytest
import torch
from small_worlds import CASES, head, tabular
from torch import Tensor

from minirlhf import enumeration, equations

NAN = float("nan")


@pytest.fixture(params=list(CASES))
def case(request):
    return CASES[request.param]


def float64(*rows) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# KL penalty in the reward -------------------------------------------------------------------------


def test_kl_penalized_rewards_by_hand():
    kl = float64([0.5, -1.0, 2.0], [4.0, NAN, NAN], [NAN, NAN, NAN])
    mask = torch.tensor([[1.0, 1, 1], [1, 0, 0], [0, 0, 0]])
    found = equations.kl_penalized_rewards(
        torch.tensor([0.9, 0.4, 0.7], dtype=torch.float64), kl, mask, 0.1
    )
    torch.testing.assert_close(
        found, float64([-0.05, 0.1, 0.9 - 0.2], [0.4 - 0.4, 0, 0], [0, 0, 0])
    )


def test_kl_penalized_rewards_climb_j_minus_the_kl(case):
    """As weights by reward-to-go: exactly the gradient of J - beta KL(p || q); their sums have that
    as their mean."""
    world, weight = case.world, 0.3
    reference = case.logits + enumeration.random_table(world, seed=9, scale=0.8)
    final = enumeration.final_reward(world, head(world))

    def log_probs(logits: Tensor) -> Tensor:
        return equations.token_log_probs(logits[world.states], world.tokens, world.mask)

    k1 = equations.kl_k1(log_probs(case.logits), log_probs(reference), world.mask)
    rewards = equations.kl_penalized_rewards(final, k1, world.mask, weight)

    def objective(table: Tensor) -> Tensor:
        p, q = enumeration.text_probs(world, table), enumeration.text_probs(world, reference)
        return (world.prompt_probs[world.prompts] * p * (final - weight * (p / q).log())).sum()

    assert enumeration.expectation(world, case.logits, rewards.sum(1)).item() == pytest.approx(
        objective(case.logits).item(), abs=1e-12
    )
    samples = enumeration.per_text_gradients(
        world,
        case.logits,
        equations.per_token_reinforce_loss,
        equations.reward_to_go(rewards, world.mask),
    )
    mean = (enumeration.row_probs(world, case.logits) @ samples) @ case.jacobian
    wanted = torch.cat(
        [g.flatten() for g in torch.autograd.grad(objective(case.table()), case.parameters)]
    )
    torch.testing.assert_close(mean, wanted, rtol=0, atol=1e-10)
    assert wanted.norm() > 0.01


# Groups -------------------------------------------------------------------------------------------


def test_group_advantages_by_hand():
    rewards = float64([1.0, 2.0, 6.0], [0.7, 0.7, 0.7])
    torch.testing.assert_close(
        equations.leave_one_out_advantage(rewards), float64([1 - 4, 2 - 3.5, 6 - 1.5], [0, 0, 0])
    )
    std = math.sqrt((4 + 1 + 9) / 2)
    wanted = float64([-2 / std, -1 / std, 3 / std], [0, 0, 0])
    torch.testing.assert_close(equations.group_normalized_advantage(rewards), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equal_rewards_earn_nothing_whatever_the_rounding(dtype):
    rewards = torch.tensor([0.1, 0.3, 1 / 3, 0.7, 123.456], dtype=dtype)[:, None].expand(-1, 7)
    assert (equations.group_normalized_advantage(rewards) == 0).all()
    assert (
        equations.leave_one_out_advantage(rewards).abs() <= 1e-5 * rewards.abs()
    ).all() or dtype is torch.bfloat16
    assert equations.group_normalized_advantage(rewards).dtype == dtype


def batches_of_one_prompt(world: enumeration.World, prompt: int, n: int) -> Tensor:
    """Every list of n texts of a prompt, (lists, n)."""
    rows = (world.prompts == prompt).nonzero().flatten().tolist()
    return torch.tensor(list(itertools.product(rows, repeat=n)))


def mean_group_gradient(case, final: Tensor, n: int, advantage) -> Tensor:
    """Exact mean over x and over all lists of n of its texts of the estimator 1/n sum_i A_i grad
    log p(y_i | x)."""
    world, total = case.world, 0.0
    text_probs = enumeration.text_probs(world, case.logits)
    for prompt, prompt_prob in enumerate(world.prompt_probs):
        lists = batches_of_one_prompt(world, prompt, n)
        probs = text_probs[lists].prod(dim=1)
        weights = advantage(final[lists])  # (lists, n)

        def objective(logits, rows, a):
            log_probs = equations.token_log_probs(logits[world.states[rows]], world.tokens[rows])
            return -equations.per_token_reinforce_loss(
                log_probs, a[:, None].expand_as(log_probs), world.mask[rows]
            )

        samples = torch.func.vmap(torch.func.grad(objective), in_dims=(None, 0, 0))(
            case.logits, lists, weights
        )
        total = total + prompt_prob * (probs @ samples.flatten(1))
    return total


@pytest.mark.parametrize("n", [2, 3])
def test_leave_one_out_is_exactly_the_policy_gradient(n):
    case = tabular(vocab=3, max_length=2)
    final = enumeration.final_reward(case.world, head(case.world))
    target = enumeration.gradient(case.world, case.logits, final)
    found = mean_group_gradient(case, final, n, equations.leave_one_out_advantage)
    torch.testing.assert_close(found, target, rtol=0, atol=1e-12)
    assert target.norm() > 0.01


@pytest.mark.parametrize("n", [2, 3])
def test_group_normalized_climbs_the_mean_standard_score_not_the_reward(n):
    """What GRPO climbs: the gradient of E[w(x, y)], w the mean standard score of y among n - 1
    other texts of the *fixed* policy (computed here with `statistics`). For n = 2 that is sqrt(1/2)
    * (P(y wins) - P(y loses))."""
    case = tabular(vocab=3, max_length=2)
    world = case.world
    final = enumeration.final_reward(world, head(world))
    probs = enumeration.text_probs(world, case.logits).tolist()
    rewards, outcome = final.tolist(), []
    for row, prompt in enumerate(world.prompts.tolist()):
        others = [other for other, p in enumerate(world.prompts.tolist()) if p == prompt]
        score = 0.0
        for rest in itertools.product(others, repeat=n - 1):
            group = [rewards[row], *(rewards[other] for other in rest)]
            spread = statistics.stdev(group)
            weight = math.prod(probs[other] for other in rest)
            score += weight * (
                (rewards[row] - statistics.fmean(group)) / spread if spread > 0 else 0.0
            )
        outcome.append(score)
    outcome = torch.tensor(outcome, dtype=torch.float64)
    target = enumeration.gradient(world, case.logits, outcome)
    found = mean_group_gradient(case, final, n, equations.group_normalized_advantage)
    torch.testing.assert_close(found, target, rtol=0, atol=1e-12)
    policy_gradient = enumeration.gradient(world, case.logits, final)
    assert (
        torch.cosine_similarity(found, policy_gradient, dim=0) < 0.995
    )  # another direction, not only another length
    if n == 2:
        same = world.prompts[:, None] == world.prompts
        sign = (final[:, None] - final).sign() * same * torch.tensor(probs, dtype=torch.float64)
        torch.testing.assert_close(outcome, sign.sum(1) * math.sqrt(0.5), rtol=0, atol=1e-12)


def test_groups_of_one_are_refused():
    for function in (equations.leave_one_out_advantage, equations.group_normalized_advantage):
        with pytest.raises(
            ValueError, match="^rewards: expected at least 2 samples per prompt, got 1"
        ):
            function(torch.zeros(3, 1))
        with pytest.raises(
            ValueError, match=r"^rewards: expected shape \(prompts, samples\), got \(3,\)"
        ):
            function(torch.zeros(3))
        with pytest.raises(ValueError, match="^rewards: expected a floating dtype"):
            function(torch.zeros(3, 2, dtype=torch.long))


# Whitening, explained variance --------------------------------------------------------------------


def test_whiten_by_hand_and_its_moments():
    advantages, mask = (
        float64([1.0, 5.0, NAN], [3.0, NAN, NAN]),
        torch.tensor([[1.0, 1, 0], [1, 0, 0]]),
    )
    std = math.sqrt(8 / 3)
    torch.testing.assert_close(
        equations.whiten(advantages, mask),
        float64([-2 / std, 2 / std, 0], [0, 0, 0]),
        rtol=0,
        atol=1e-7,
    )
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(9) < torch.randint(1, 10, (50, 1), generator=generator)
    found = equations.whiten(
        7 + 3 * torch.randn(50, 9, generator=generator, dtype=torch.float64), mask
    )
    assert abs(found[mask].mean()) < 1e-12 and abs(found[mask].std(correction=0) - 1) < 1e-7
    assert (found[~mask] == 0).all()


def test_whiten_of_equal_advantages_is_zero():
    assert (equations.whiten(torch.full((2, 3), 4.0), torch.ones(2, 3)) == 0).all()
    assert (equations.whiten(torch.full((2, 3), NAN), torch.zeros(2, 3)) == 0).all()


def test_explained_variance_agrees_with_scikit_learn():
    from sklearn.metrics import explained_variance_score  # slow to load: only where it is used

    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(6) < torch.randint(1, 7, (20, 1), generator=generator)
    returns = torch.randn(20, 6, generator=generator, dtype=torch.float64)
    values = (
        2 + 0.5 * returns + 0.3 * torch.randn(20, 6, generator=generator, dtype=torch.float64)
    )  # a constant error is free
    found = equations.explained_variance(
        values.masked_fill(~mask, NAN), returns.masked_fill(~mask, NAN), mask
    )
    assert found.item() == pytest.approx(
        explained_variance_score(returns[mask].numpy(), values[mask].numpy()), abs=1e-12
    )
    assert equations.explained_variance(returns, returns, mask).item() == 1.0


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b, m: equations.whiten(a, m),
        equations.explained_variance,
        lambda a, b, m: equations.kl_penalized_rewards(torch.zeros(2), a, m, 0.1),
    ],
)
def test_shapes_are_checked(function):
    good, mask = torch.zeros(2, 3), torch.ones(2, 3)
    for bad in (torch.zeros(3), torch.zeros(2, 3, dtype=torch.long)):
        with pytest.raises(ValueError, match="expected"):
            function(bad, good, mask)
    with pytest.raises(ValueError, match=r"^mask: expected shape"):
        function(good, good, torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"^returns: expected shape"):
        equations.explained_variance(good, torch.zeros(2, 4), mask)
    with pytest.raises(ValueError, match=r"^reward: expected shape"):
        equations.kl_penalized_rewards(torch.zeros(3), good, mask, 0.1)


# Best of n ----------------------------------------------------------------------------------------


def kl_of_best_of_n(probs: list[float], scores: list[float], n: int) -> float:
    """KL(best of n || p), exact: a text is chosen with probability P(best <= its score) - P(best <
    it); ties are shared in proportion to p."""
    total = 0.0
    for score in set(scores):
        below = sum(p for p, s in zip(probs, scores) if s < score)
        level = sum(p for p, s in zip(probs, scores) if s == score)
        chosen = (below + level) ** n - below**n  # of this level
        total += chosen * math.log(chosen / level)  # each of its texts has the share p / level
    return total


def test_kl_of_best_of_n_by_enumerating_the_samples():
    """The closed form above, against all lists of 3 samples of 4 texts."""
    probs, scores = [0.1, 0.4, 0.3, 0.2], [0.3, 0.9, 0.1, 0.9]
    chosen = [0.0] * 4
    for group in itertools.product(range(4), repeat=3):
        best = max(
            group, key=lambda text: scores[text]
        )  # of equal ones the first, so the share is in proportion to p
        chosen[best] += math.prod(probs[text] for text in group)
    kl = sum(c * math.log(c / p) for c, p in zip(chosen, probs))
    assert kl_of_best_of_n(probs, scores, 3) == pytest.approx(kl, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 4, 16, 64])
def test_best_of_n_bound_holds_for_every_text_of_a_world_and_is_reached_by_many_small_ones(n, case):
    world, bound = case.world, equations.best_of_n_kl_bound(n)
    probs, scores = (
        enumeration.text_probs(world, case.logits),
        enumeration.final_reward(world, head(world)),
    )
    for prompt in range(len(world.prompt_probs)):
        rows = world.prompts == prompt
        kl = kl_of_best_of_n(probs[rows].tolist(), scores[rows].tolist(), n)
        assert -1e-12 <= kl <= bound + 1e-12
    # Texts of equal probability with different scores: the bound is reached but for about n / many.
    many = 20_000
    reached = kl_of_best_of_n_of_equal(many, n)
    assert bound - n / many - 1e-9 <= reached <= bound + 1e-9


def kl_of_best_of_n_of_equal(many: int, n: int) -> float:
    rank = torch.arange(1, many + 1, dtype=torch.float64) / many
    chosen = rank**n - (rank - 1 / many) ** n
    return torch.special.xlogy(chosen, chosen * many).sum().item()


def test_best_of_n_bound_by_hand():
    assert equations.best_of_n_kl_bound(1) == 0
    assert equations.best_of_n_kl_bound(4) == pytest.approx(0.636294361, abs=1e-8)
    with pytest.raises(ValueError, match="^n: expected at least 1, got 0"):
        equations.best_of_n_kl_bound(0)
