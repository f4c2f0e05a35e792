"""KL estimators and TRPO's bound, by summing over every text (float64)."""

from __future__ import annotations

import pytest
import torch
from small_worlds import CASES, head
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from minirlhf import enumeration, equations

ESTIMATORS = {"k1": equations.kl_k1, "k2": equations.kl_k2, "k3": equations.kl_k3}


@pytest.fixture(params=list(CASES))
def case(request):
    return CASES[request.param]


def reference_of(case) -> Tensor:
    """Another policy, about 0.7 nats away."""
    return case.logits + enumeration.random_table(case.world, seed=9, scale=0.8)


def enumerated_kl(case, reference: Tensor) -> Tensor:
    """KL(p || q) of whole texts: sum over (x, y) of D(x) p log(p / q). No equation of the
    package."""
    p, q = (
        enumeration.text_probs(case.world, case.logits),
        enumeration.text_probs(case.world, reference),
    )
    return (case.world.prompt_probs[case.world.prompts] * p * (p / q).log()).sum()


def token_log_probs(case, logits: Tensor) -> Tensor:
    return equations.token_log_probs(logits[case.world.states], case.world.tokens, case.world.mask)


def mean_estimate(case, reference: Tensor, estimator) -> float:
    """E over texts of the sum over tokens of a per-token estimator."""
    per_token = estimator(
        token_log_probs(case, case.logits), token_log_probs(case, reference), case.world.mask
    )
    return enumeration.expectation(case.world, case.logits, per_token.sum(dim=1)).item()


def test_k1_and_k3_per_text_have_the_enumerated_kl_as_their_mean_and_k2_has_not(case):
    reference = reference_of(case)
    kl = enumerated_kl(case, reference).item()
    assert kl > 0.1
    assert mean_estimate(case, reference, equations.kl_k1) == pytest.approx(kl, abs=1e-12)
    assert mean_estimate(case, reference, equations.kl_k3) == pytest.approx(kl, abs=1e-12)
    # k2, computed state by state: d(s) sum_a p(a|s) (log p - log q)^2 / 2.
    log_p, log_q = case.logits.log_softmax(dim=-1), reference.log_softmax(dim=-1)
    second = (log_p.exp() * (log_p - log_q).square()).sum(dim=-1) / 2
    k2 = (enumeration.state_probs(case.world, case.logits) * second).sum().item()
    assert mean_estimate(case, reference, equations.kl_k2) == pytest.approx(k2, abs=1e-12)
    assert abs(k2 - kl) > 0.01


def test_estimators_of_whole_texts_see_the_text_as_one_token(case):
    """The same holds when log p and log q are those of the whole text: k1 and k3 unbiased."""
    reference, mask = reference_of(case), case.world.mask
    log_p = equations.sequence_log_prob(token_log_probs(case, case.logits), mask)[:, None]
    log_q = equations.sequence_log_prob(token_log_probs(case, reference), mask)[:, None]
    kl = enumerated_kl(case, reference).item()
    means = {
        n: enumeration.expectation(case.world, case.logits, k(log_p, log_q)[:, 0]).item()
        for n, k in ESTIMATORS.items()
    }
    assert means["k1"] == pytest.approx(kl, abs=1e-12)
    assert means["k3"] == pytest.approx(kl, abs=1e-12)
    assert abs(means["k2"] - kl) > 0.01


def test_bias_of_k2_is_of_third_order(case):
    """KL is of second order in the distance, k2's bias of third: halving the distance divides it by
    about 8."""
    direction = enumeration.random_table(case.world, seed=9)

    def bias(step: float) -> float:
        reference = case.logits + step * direction
        return (
            mean_estimate(case, reference, equations.kl_k2) - enumerated_kl(case, reference).item()
        )

    assert bias(0.01) / bias(0.005) == pytest.approx(8, rel=0.05)


def test_exact_token_kl_and_the_chain_rule_of_the_kl(case):
    """KL of whole texts = E[sum over tokens of the KL of each visited state]; the mean of
    mean_sequence_kl."""
    world, reference = case.world, reference_of(case)
    kl = enumerated_kl(case, reference)
    per_token = equations.exact_token_kl(
        case.logits[world.states], reference[world.states], world.mask
    )
    total = enumeration.expectation(world, case.logits, per_token.sum(dim=1))
    torch.testing.assert_close(total, kl, rtol=0, atol=1e-12)
    per_text = torch.stack(
        [
            equations.mean_sequence_kl(case.logits[s][None], reference[s][None], m[None])
            for s, m in zip(world.states, world.mask)
        ]
    )
    torch.testing.assert_close(
        enumeration.expectation(world, case.logits, per_text), kl, rtol=0, atol=1e-12
    )
    p, q = case.logits.softmax(dim=-1), reference.softmax(dim=-1)
    by_state = (p * (p / q).log()).sum(dim=-1)
    torch.testing.assert_close(
        equations.exact_token_kl(case.logits[None], reference[None])[0],
        by_state,
        rtol=0,
        atol=1e-13,
    )


def test_entropy_of_texts_is_the_sum_over_tokens(case):
    world = case.world
    per_token = equations.entropy(case.logits[world.states], world.mask)
    p = enumeration.text_probs(world, case.logits)
    whole = -(world.prompt_probs[world.prompts] * p * p.log()).sum()
    total = enumeration.expectation(world, case.logits, per_token.sum(dim=1))
    torch.testing.assert_close(total, whole, rtol=0, atol=1e-12)


def test_mean_gradients_of_the_estimators_as_losses():
    """As losses: k1 has none, k2 climbs KL(p || q) and k3 KL(q || p), each at the states that p
    visits."""
    case = CASES["tabular"]
    world, reference = case.world, reference_of(case)
    reference_log_probs = token_log_probs(case, reference)
    probs = enumeration.row_probs(world, case.logits)
    mean = {}
    for name, estimator in ESTIMATORS.items():
        samples = enumeration.per_text_gradients(
            world,
            case.logits,
            lambda lp, ref, mask, k=estimator: k(lp, ref, mask).sum(),
            reference_log_probs,
        )
        mean[name] = -(probs @ samples)
    reach = enumeration.state_probs(world, case.logits)
    logits = case.logits.clone().requires_grad_()
    forward = (reach * equations.exact_token_kl(logits[None], reference[None])[0]).sum()
    backward = (reach * equations.exact_token_kl(reference[None], logits[None])[0]).sum()
    forward_gradient = torch.autograd.grad(forward, logits)[0].flatten()
    backward_gradient = torch.autograd.grad(backward, logits)[0].flatten()
    assert mean["k1"].abs().max() < 1e-14
    torch.testing.assert_close(mean["k2"], forward_gradient, rtol=0, atol=1e-12)
    torch.testing.assert_close(mean["k3"], backward_gradient, rtol=0, atol=1e-12)
    assert (forward_gradient - backward_gradient).norm() > 0.01


def test_k1_as_a_penalty_in_the_reward_climbs_minus_the_kl(case):
    """The weight -(reward-to-go of k1) is an unbiased gradient of -KL(p || q) of whole texts."""
    world, reference = case.world, reference_of(case)
    k1 = equations.kl_k1(
        token_log_probs(case, case.logits), token_log_probs(case, reference), world.mask
    )
    samples = enumeration.per_text_gradients(
        world,
        case.logits,
        equations.per_token_reinforce_loss,
        -equations.reward_to_go(k1, world.mask),
    )
    mean = (enumeration.row_probs(world, case.logits) @ samples) @ case.jacobian
    table = case.table()
    p, q = enumeration.text_probs(world, table), enumeration.text_probs(world, reference)
    kl = (world.prompt_probs[world.prompts] * p * (p / q).log()).sum()
    wanted = torch.cat(
        [g.flatten() for g in torch.autograd.grad(-kl, case.parameters, allow_unused=False)]
    )
    torch.testing.assert_close(mean, wanted, rtol=0, atol=1e-10)
    assert wanted.norm() > 0.01


def test_hessian_of_the_kl_is_the_fisher_matrix():
    """TRPO: d^2/d theta^2 of KL(old || new) at new = old equals E[grad log p(y|x) grad log
    p(y|x)^T]."""
    case = CASES["tabular"]
    world, old = case.world, case.logits
    probs = enumeration.row_probs(world, old)

    def mean_kl(new: Tensor) -> Tensor:
        def one(states, mask):
            return equations.mean_sequence_kl(old[states][None], new[states][None], mask[None])

        return (probs * torch.func.vmap(one)(world.states, world.mask)).sum()

    size = old.numel()
    hessian = torch.func.jacrev(torch.func.grad(mean_kl))(old).reshape(size, size)
    scores = torch.func.jacrev(lambda table: enumeration.text_probs(world, table).log())(
        old
    ).flatten(1)
    fisher = scores.T @ (probs[:, None] * scores)
    torch.testing.assert_close(hessian, fisher, rtol=0, atol=1e-8)
    assert fisher.norm() > 0.1
    assert torch.func.grad(mean_kl)(old).abs().max() < 1e-14  # the KL is flat where it is zero


def test_hessian_of_the_kl_is_the_fisher_matrix_in_the_parameters_of_a_real_policy():
    """The same along random directions v of a Transformer's parameters: H v by autograd, F v from
    the texts."""
    case = CASES["transformer"]
    world, old = case.world, case.logits
    probs = enumeration.row_probs(world, old)
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
        new = case.table()
    kl = equations.exact_token_kl(old[world.states], new[world.states], world.mask).sum(dim=1)
    first = torch.autograd.grad((probs * kl).sum(), case.parameters, create_graph=True)
    first = torch.cat([g.flatten() for g in first])
    scores = (
        torch.func.jacrev(lambda table: enumeration.text_probs(world, table).log())(old).flatten(1)
        @ case.jacobian
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        v = torch.randn(first.numel(), generator=generator, dtype=torch.float64)
        hv = torch.autograd.grad(first @ v, case.parameters, retain_graph=True, allow_unused=True)
        hv = torch.cat(
            [
                torch.zeros_like(p).flatten() if g is None else g.flatten()
                for g, p in zip(hv, case.parameters)
            ]
        )
        fv = scores.T @ (probs * (scores @ v))
        torch.testing.assert_close(hv, fv, rtol=0, atol=1e-8)
        assert fv.norm() > 0.1


def test_trpo_surrogate_away_from_the_old_policy(case):
    """Its exact mean is -sum over states of d_old(s) sum_a p_new(a|s) A(s, a); its gradient
    follows."""
    world, old = case.world, case.logits
    new = reference_of(case)
    final = enumeration.final_reward(world, head(world))
    advantages = (
        enumeration.action_values(world, old, final)
        - enumeration.state_values(world, old, final)[:, None]
    )
    per_text = torch.stack(
        [
            equations.trpo_surrogate(a[None], b[None], c[None], m[None])
            for a, b, c, m in zip(
                token_log_probs(case, new),
                token_log_probs(case, old),
                enumeration.at_rows(world, advantages),
                world.mask,
            )
        ]
    )
    mean = enumeration.expectation(world, old, per_text)
    by_state = (
        enumeration.state_probs(world, old)[:, None] * new.softmax(dim=-1) * advantages
    ).sum()
    torch.testing.assert_close(mean, -by_state, rtol=0, atol=1e-12)
    assert by_state.abs() > 1e-3
    # At the old policy the surrogate is 0 and its gradient is that of J.
    samples = enumeration.per_text_gradients(
        world,
        old,
        equations.trpo_surrogate,
        token_log_probs(case, old),
        enumeration.at_rows(world, advantages),
    )
    torch.testing.assert_close(
        enumeration.row_probs(world, old) @ samples,
        enumeration.gradient(world, old, final),
        rtol=0,
        atol=1e-10,
    )


def test_ppo_at_ratio_1_is_the_policy_gradient(case):
    world, old = case.world, case.logits
    final = enumeration.final_reward(world, head(world))
    advantages = (
        enumeration.action_values(world, old, final)
        - enumeration.state_values(world, old, final)[:, None]
    )
    a = enumeration.at_rows(world, advantages)
    samples = enumeration.per_text_gradients(
        world,
        old,
        lambda lp, old_lp, adv, mask: equations.ppo_policy_loss(
            lp, old_lp, adv, mask, clip_range=0.2
        ),
        token_log_probs(case, old),
        a,
    )
    e5 = enumeration.per_text_gradients(world, old, equations.per_token_reinforce_loss, a)
    torch.testing.assert_close(samples, e5, rtol=0, atol=1e-14)  # text by text
    torch.testing.assert_close(
        enumeration.row_probs(world, old) @ samples,
        enumeration.gradient(world, old, final),
        rtol=0,
        atol=1e-10,
    )
