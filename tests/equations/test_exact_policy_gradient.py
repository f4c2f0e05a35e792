"""E1, E2, E4, E5: what each policy-gradient estimator climbs, by summing over every text
(float64)."""

from __future__ import annotations

import itertools

import pytest
import torch
from small_worlds import CASES, head, tabular
from torch import Tensor

from minirlhf import enumeration, equations

UNBIASED = 1e-10
BIASED = 1e-2


@pytest.fixture(params=list(CASES))
def case(request):
    return CASES[request.param]


def estimates(case, rewards: Tensor) -> dict[str, enumeration.Estimate]:
    return {
        e.name: e
        for e in enumeration.estimator_table(case.world, case.logits, rewards, case.jacobian)
    }


def mean_of(case, weights: Tensor) -> Tensor:
    """Exact mean of the per-token estimator, (states * vocab,), before the chain rule into the
    parameters."""
    samples = enumeration.per_text_gradients(
        case.world, case.logits, equations.per_token_reinforce_loss, weights
    )
    return enumeration.row_probs(case.world, case.logits) @ samples


def occupancy_gradient(case, scores: Tensor) -> Tensor:
    """E[sum_t scores(s_t, y_t) grad log p_t] by the softmax closed form, state by state: no
    autograd, no texts.

    scores: (states, vocab). The derivative in logit (s, a) is d(s) p(a|s) (scores(s, a) - mean over
    a of scores).
    """
    p = case.logits.softmax(dim=-1)
    centred = scores - (p * scores).sum(dim=-1, keepdim=True)
    return (enumeration.state_probs(case.world, case.logits)[:, None] * p * centred).flatten()


def test_gradient_of_the_exact_sum_matches_finite_differences():
    case = CASES["tabular"]
    outcome = enumeration.final_reward(case.world, head(case.world))
    by_autograd = enumeration.gradient(case.world, case.logits, outcome)
    for i in range(case.logits.numel()):
        step = torch.zeros(case.logits.numel(), dtype=torch.float64)
        step[i] = 1e-5
        up = enumeration.expectation(case.world, case.logits + step.view_as(case.logits), outcome)
        down = enumeration.expectation(case.world, case.logits - step.view_as(case.logits), outcome)
        assert by_autograd[i].item() == pytest.approx(((up - down) / 2e-5).item(), abs=1e-9)


def test_chain_rule_into_the_parameters_is_autograd_of_the_exact_sum(case):
    outcome = enumeration.final_reward(case.world, head(case.world))
    value = enumeration.expectation(case.world, case.table(), outcome)
    direct = torch.cat([g.flatten() for g in torch.autograd.grad(value, case.parameters)])
    through = enumeration.gradient(case.world, case.logits, outcome) @ case.jacobian
    torch.testing.assert_close(direct, through, rtol=0, atol=1e-12)
    assert direct.norm() > BIASED


def test_e2_is_the_gradient_of_j_with_and_without_a_baseline(case):
    table = estimates(case, head(case.world))
    for name in ("E2: final reward", "E2: final reward - V(x)"):
        assert table[name].bias_final < UNBIASED
    final = enumeration.final_reward(case.world, head(case.world))
    target = enumeration.gradient(case.world, case.logits, final)
    probs = enumeration.row_probs(case.world, case.logits)
    of_prompt = torch.tensor([0.3, -2.0], dtype=torch.float64)[
        case.world.prompts
    ]  # any function of x alone
    for baseline in (0.7, torch.tensor(-1.5, dtype=torch.float64), of_prompt):

        def loss(log_probs, reward, b, mask):
            return equations.reinforce_loss(log_probs, reward, mask, baseline=b)

        b = torch.as_tensor(baseline, dtype=torch.float64).expand_as(final)
        mean = probs @ enumeration.per_text_gradients(case.world, case.logits, loss, final, b)
        torch.testing.assert_close(mean, target, rtol=0, atol=UNBIASED)


def test_e2_with_a_baseline_that_looks_at_the_text_is_biased():
    case = CASES["tabular"]
    final = enumeration.final_reward(case.world, head(case.world))
    samples = enumeration.per_text_gradients(
        case.world,
        case.logits,
        lambda lp, r, mask: equations.reinforce_loss(lp, r, mask, baseline=0.5 * r),
        final,
    )
    mean = enumeration.row_probs(case.world, case.logits) @ samples
    torch.testing.assert_close(
        mean, 0.5 * enumeration.gradient(case.world, case.logits, final), rtol=0, atol=UNBIASED
    )


@pytest.mark.parametrize("n", [2, 3])
def test_batch_mean_baseline_shrinks_the_gradient_by_n_minus_1_over_n(n):
    """Every batch of n texts, enumerated. Bias of the batch mean: exactly -1/n of the gradient.
    Leave-one-out: 0."""
    case = tabular(vocab=3, max_length=2)
    world = case.world
    final = enumeration.final_reward(world, head(world))
    batches = torch.tensor(list(itertools.product(range(len(final)), repeat=n)))  # (batches, n)
    probs = enumeration.row_probs(world, case.logits)[batches].prod(dim=1)

    def mean_gradient(baseline):
        def objective(logits, rows):
            log_probs = equations.token_log_probs(logits[world.states[rows]], world.tokens[rows])
            reward = final[rows]
            return -equations.reinforce_loss(log_probs, reward, world.mask[rows], baseline(reward))

        samples = torch.func.vmap(torch.func.grad(objective), in_dims=(None, 0))(
            case.logits, batches
        )
        return probs @ samples.flatten(1)

    target = enumeration.gradient(world, case.logits, final)
    assert target.norm() > BIASED
    batch_mean = mean_gradient(lambda reward: reward.mean())
    torch.testing.assert_close(batch_mean, target * (n - 1) / n, rtol=0, atol=1e-12)
    leave_one_out = mean_gradient(lambda reward: (reward.sum() - reward) / (n - 1))
    torch.testing.assert_close(leave_one_out, target, rtol=0, atol=1e-12)


def test_e5_as_written_is_not_the_gradient_of_e_r_and_reward_to_go_is(case):
    table = estimates(case, head(case.world))
    assert table["E5 as written: r_t"].bias_cumulative > BIASED
    assert table["E5 as written: r_t"].bias_final > BIASED
    assert table["E5: reward-to-go of r_t"].bias_cumulative < UNBIASED
    assert table["E2: cumulative reward R"].bias_cumulative < UNBIASED


@pytest.mark.parametrize("max_length", [1, 3])
def test_where_e5_as_written_loses_the_later_rewards(max_length):
    """It drops E[later rewards | prefix]: nothing in the states of the last token, something in all
    states before."""
    case = tabular(max_length=max_length)
    world, rewards = case.world, head(case.world)
    per_token = enumeration.at_rows(world, rewards)
    target = enumeration.gradient(world, case.logits, per_token.sum(dim=1))
    lost = (target - mean_of(case, per_token)).view_as(case.logits)
    # What follows after (s, a): the Q of R, less the rewards up to and with this token.
    future = torch.zeros_like(rewards)
    for t in range(max_length):
        rest = (per_token * (torch.arange(max_length) > t)).sum(dim=1)
        at_t = world.state_lengths == t
        future[at_t] = enumeration.action_values(world, case.logits, rest)[at_t]
    torch.testing.assert_close(
        lost.flatten(), occupancy_gradient(case, future), rtol=0, atol=UNBIASED
    )
    last_token = world.state_lengths == max_length - 1
    assert lost[last_token].abs().max() < 1e-15
    assert (lost[~last_token].norm(dim=1) > 1e-3).all()
    assert max_length == 1 or (~last_token).any()


@pytest.mark.parametrize("discount", [0.0, 0.6])
def test_discounted_reward_to_go_climbs_the_discounted_values(discount):
    case = CASES["tabular"]
    world, rewards = case.world, enumeration.at_rows(case.world, head(case.world))
    mean = mean_of(case, equations.reward_to_go(rewards, world.mask, discount))
    scores = torch.zeros_like(case.logits)
    for t in range(world.max_length):
        powers = [0.0 if k < t else discount ** (k - t) for k in range(world.max_length)]
        powers = torch.tensor(powers, dtype=torch.float64)
        at_t = world.state_lengths == t
        outcome = (rewards * powers).sum(dim=1)
        scores[at_t] = enumeration.action_values(world, case.logits, outcome)[at_t]
    torch.testing.assert_close(mean, occupancy_gradient(case, scores), rtol=0, atol=UNBIASED)


def test_with_a_head_that_predicts_the_final_score_e5_is_the_gradient_of_j(case):
    final = enumeration.final_reward(case.world, head(case.world))
    q = enumeration.action_values(case.world, case.logits, final)
    torch.testing.assert_close(enumeration.final_reward(case.world, q), final, rtol=0, atol=1e-12)
    table = estimates(case, q)
    for name in ("E5 as written: r_t", "E5: r_t - r_(t-1)", "E5: r_t - r_(t-1), r_0 = V(x)"):
        assert table[name].bias_final < UNBIASED
    assert (
        table["E5: reward-to-go of r_t"].bias_final > BIASED
    )  # it climbs the sum, and so pays for length


def test_that_head_minus_the_one_before_is_the_exact_advantage():
    case = CASES["tabular"]
    world = case.world
    final = enumeration.final_reward(world, head(world))
    q = enumeration.action_values(world, case.logits, final)
    v = enumeration.state_values(world, case.logits, final)
    difference = equations.prefix_difference(
        enumeration.at_rows(world, q), world.mask, v[world.states[:, 0]]
    )
    advantage = enumeration.at_rows(world, q - v[:, None])
    torch.testing.assert_close(difference, advantage, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["off-policy", "wrong", "constant"])
def test_with_another_head_e5_is_off_by_the_amount_that_theory_predicts(case, kind):
    """Bias = E[sum_t (r_t - Q(s_t, y_t)) grad log p_t]; r_(t-1) depends on s_t alone and changes
    nothing."""
    world = case.world
    final = enumeration.final_reward(world, head(world))
    q = enumeration.action_values(world, case.logits, final)
    if kind == "off-policy":  # the expected final score, but under another policy
        rewards = enumeration.action_values(world, enumeration.random_table(world, seed=5), final)
        torch.testing.assert_close(
            enumeration.final_reward(world, rewards), final, rtol=0, atol=1e-12
        )
    elif kind == "wrong":  # right at the end, arbitrary before it
        rewards = head(world)
    else:
        rewards = torch.full_like(q, 0.5)
    bias = occupancy_gradient(case, rewards - q)
    assert (bias @ case.jacobian).norm() > BIASED
    target = enumeration.gradient(world, case.logits, final)
    r = enumeration.at_rows(world, rewards)
    for weights in (
        r,
        equations.prefix_difference(r, world.mask),
        equations.prefix_difference(r, world.mask, 0.4),
    ):
        off = mean_of(case, weights) - target
        torch.testing.assert_close(off, bias, rtol=0, atol=UNBIASED)
        torch.testing.assert_close(off @ case.jacobian, bias @ case.jacobian, rtol=0, atol=UNBIASED)


def test_averaging_over_own_tokens_climbs_the_reward_divided_by_the_length(case):
    """mean_t r grad log p_t = (r / |y|) grad log p(y): the gradient of E[r(x, y) / |y|], which pays
    for being short."""
    world = case.world
    final = enumeration.final_reward(world, head(world))
    estimate = estimates(case, head(world))["E2 averaged over own tokens"]
    climbs = enumeration.gradient(world, case.logits, final / world.lengths) @ case.jacobian
    torch.testing.assert_close(estimate.mean, climbs, rtol=0, atol=UNBIASED)
    assert estimate.bias_final > BIASED
    # With the same reward for every text, the true gradient is zero. This one makes texts shorter.
    constant = torch.ones_like(final)
    assert enumeration.gradient(world, case.logits, constant).norm() < 1e-12
    weights = (constant / world.lengths)[:, None].expand_as(world.tokens)
    step = mean_of(case, weights).view_as(case.logits)
    torch.testing.assert_close(
        step.flatten(),
        enumeration.gradient(world, case.logits, 1 / world.lengths.double()),
        rtol=0,
        atol=UNBIASED,
    )
    before = enumeration.expectation(world, case.logits, world.lengths.double())
    after = enumeration.expectation(world, case.logits + step, world.lengths.double())
    assert after < before - 0.01


def test_averaging_per_token_rewards_weighs_each_prefix_by_its_mean_inverse_length():
    case = CASES["tabular"]
    world, rewards = case.world, head(case.world)
    inverse = enumeration.action_values(world, case.logits, 1 / world.lengths.double())
    mean = mean_of(case, enumeration.at_rows(world, rewards) / world.lengths[:, None])
    torch.testing.assert_close(
        mean, occupancy_gradient(case, rewards * inverse), rtol=0, atol=UNBIASED
    )
    assert (mean - mean_of(case, enumeration.at_rows(world, rewards))).norm() > BIASED


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 0.95, 1.0])
def test_gae_with_exact_values_is_unbiased_for_every_lambda(case, gae_lambda):
    world = case.world
    rewards, values, target = final_as_last_reward(case)
    advantages = equations.generalized_advantage(rewards, values, world.mask, 1.0, gae_lambda)
    torch.testing.assert_close(mean_of(case, advantages), target, rtol=0, atol=UNBIASED)


def test_gae_with_wrong_values_is_unbiased_at_lambda_1_and_off_as_predicted_at_lambda_0():
    case = CASES["tabular"]
    world = case.world
    rewards, _, target = final_as_last_reward(case)
    wrong = enumeration.random_table(world, seed=7)[:, 0]  # (states,)
    advantages = equations.generalized_advantage(rewards, wrong[world.states], world.mask, 1.0, 1.0)
    torch.testing.assert_close(mean_of(case, advantages), target, rtol=0, atol=UNBIASED)
    advantages = equations.generalized_advantage(rewards, wrong[world.states], world.mask, 1.0, 0.0)
    # r + V'(s') in place of Q(s, a), where V'(s') is 0 when the text has ended.
    final = enumeration.final_reward(world, head(world))
    shifted = torch.cat(
        [wrong[world.states], torch.zeros(len(final), 1, dtype=torch.float64)], dim=1
    )[:, 1:]
    last = torch.arange(world.max_length) == world.lengths[:, None] - 1
    target_q = torch.where(last, final[:, None], shifted)
    scores = torch.zeros_like(case.logits)
    scores[world.states[world.mask], world.tokens[world.mask]] = target_q[world.mask]
    q = enumeration.action_values(world, case.logits, final)
    bias = occupancy_gradient(case, scores - q)
    torch.testing.assert_close(mean_of(case, advantages) - target, bias, rtol=0, atol=UNBIASED)
    assert bias.norm() > BIASED


def final_as_last_reward(case) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards that are 0 but for the last token, exact V(s_t), and the gradient of J."""
    world = case.world
    final = enumeration.final_reward(world, head(world))
    last = torch.arange(world.max_length) == world.lengths[:, None] - 1
    rewards = torch.where(last, final[:, None], 0.0)
    values = enumeration.state_values(world, case.logits, final)[world.states]
    return rewards, values, enumeration.gradient(world, case.logits, final)


def test_exact_variances_are_ordered(case):
    """Advantages beat rewards, per-token beats whole-text, and everything beats R. (For a head that
    is Q.)"""
    final = enumeration.final_reward(case.world, head(case.world))
    table = estimates(case, enumeration.action_values(case.world, case.logits, final))
    order = [
        "GAE, exact V, lambda 0",
        "GAE, exact V, lambda 1",
        "E2: final reward - V(x)",
        "E5: r_t - r_(t-1)",
        "E5 as written: r_t",
        "E2: final reward",
        "E5: reward-to-go of r_t",
        "E2: cumulative reward R",
    ]
    variances = [table[name].variance for name in order]
    assert variances == sorted(variances)
    assert variances[-1] > 10 * variances[0] > 0
    # With this head the prefix difference from V(x) on is the exact advantage, and so is GAE with
    # lambda 0.
    same, gae = table["E5: r_t - r_(t-1), r_0 = V(x)"], table["GAE, exact V, lambda 0"]
    torch.testing.assert_close(same.covariance, gae.covariance, rtol=0, atol=1e-12)
    for estimate in table.values():
        assert estimate.variance == pytest.approx(estimate.covariance.diagonal().sum().item())
        assert torch.linalg.eigvalsh(estimate.covariance).min() > -1e-12


def test_e1_mean_of_rewards_and_of_r():
    case = CASES["tabular"]
    world = case.world
    final = enumeration.final_reward(world, head(world))
    counts = torch.tensor([3, 1, 2] * (len(final) // 3))
    sample = final.repeat_interleave(counts)
    weighted = (final * counts).sum() / counts.sum()
    assert equations.expected_reward(sample).item() == pytest.approx(weighted.item(), abs=1e-14)
    per_token = enumeration.at_rows(world, head(world))
    by_states = (
        enumeration.state_probs(world, case.logits)[:, None]
        * case.logits.softmax(dim=-1)
        * head(world)
    ).sum()
    total = enumeration.expectation(
        world, case.logits, equations.cumulative_reward(per_token, world.mask)
    )
    assert total.item() == pytest.approx(by_states.item(), abs=1e-13)


def test_r_pays_for_length_and_the_final_reward_does_not():
    """The same score on every prefix: E[r] is blind to length, E[R] is the score times
    E[length]."""
    case = CASES["tabular"]
    world = case.world
    flat = torch.full_like(case.logits, 0.6)
    total = equations.cumulative_reward(enumeration.at_rows(world, flat), world.mask)
    torch.testing.assert_close(total, 0.6 * world.lengths.double())
    assert (
        enumeration.gradient(world, case.logits, enumeration.final_reward(world, flat)).norm()
        < 1e-12
    )
    climb = enumeration.gradient(world, case.logits, total).view_as(case.logits)
    assert climb.norm() > BIASED and (climb[:, world.end] <= 1e-15).all()  # never more end-of-text
