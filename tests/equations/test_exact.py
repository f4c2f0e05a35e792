"""E3, E6 and the worlds themselves: probabilities against a recursion by hand, Monte-Carlo against
the exact sums."""

from __future__ import annotations

import math

import pytest
import torch
from small_worlds import CASES, head, real_policy, tabular

from minirlhf import enumeration, equations


@pytest.fixture(params=list(CASES))
def case(request):
    return CASES[request.param]


def all_texts(world: enumeration.World, logits: torch.Tensor) -> dict[tuple, float]:
    """{(x, y): D(x) p(y|x)} by walking the tree with Python floats."""
    index = {}
    for i in range(len(world.state_prompts)):
        prefix = world.state_tokens[i, : world.state_lengths[i]].tolist()
        index[world.state_prompts[i].item(), tuple(prefix)] = i
    found = {}

    def walk(x: int, prefix: tuple, prob: float) -> None:
        row = logits[index[x, prefix]].tolist()
        total = sum(math.exp(value) for value in row)
        for token, value in enumerate(row):
            text, p = prefix + (token,), prob * math.exp(value) / total
            if token == world.vocab - 1 or len(text) == world.max_length:
                found[x, text] = p
            else:
                walk(x, text, p)

    for x, prob in enumerate(world.prompt_probs.tolist()):
        walk(x, (), prob)
    return found


def row_keys(world: enumeration.World) -> list[tuple]:
    return [
        (x, tuple(y[: int(n)]))
        for x, y, n in zip(world.prompts.tolist(), world.tokens.tolist(), world.lengths)
    ]


@pytest.mark.parametrize(
    "vocab, max_length, texts, states",
    [(2, 1, 2, 1), (3, 3, 15, 7), (4, 2, 13, 4), (5, 5, 1365, 341)],
)
def test_world_counts_each_text_once(vocab, max_length, texts, states):
    world = enumeration.build_world(vocab, max_length, (0.25, 0.75))
    assert len(world.prompts) == len(set(row_keys(world))) == 2 * texts
    assert len(world.state_prompts) == 2 * states
    assert world.end == vocab - 1


@pytest.mark.parametrize("vocab, max_length", [(2, 1), (3, 3), (5, 5)])
def test_e3_product_of_conditionals_is_the_enumerated_probability(vocab, max_length):
    world = enumeration.build_world(vocab, max_length, (0.4, 0.6))
    logits = enumeration.random_table(world, seed=3, scale=2.0)
    wanted = all_texts(world, logits)
    log_probs = equations.token_log_probs(logits[world.states], world.tokens, world.mask)
    text = equations.sequence_log_prob(log_probs, world.mask).exp()
    joint = world.prompt_probs[world.prompts] * text
    assert len(wanted) == len(joint)
    for key, value in zip(row_keys(world), joint.tolist()):
        assert value == pytest.approx(wanted[key], rel=1e-12)
    for x in range(2):
        assert abs(text[world.prompts == x].sum().item() - 1) < 1e-12
    torch.testing.assert_close(enumeration.row_probs(world, logits), joint, rtol=1e-12, atol=0)
    torch.testing.assert_close(enumeration.text_probs(world, logits), text, rtol=1e-12, atol=0)


def test_e3_holds_for_the_real_policy():
    """The policy's own path for whole texts (teacher forcing) agrees with its next-token logits,
    prefix by prefix."""
    case = CASES["transformer"]
    world = case.world
    rows = torch.cat([world.prompts[:, None], world.tokens], dim=1)
    one = torch.ones(len(rows), dtype=torch.long)
    log_probs = real_policy(world).text_log_probs(rows, one, world.tokens)
    text = equations.sequence_log_prob(log_probs, world.mask).exp()
    wanted = all_texts(world, case.logits)
    for key, value in zip(row_keys(world), (world.prompt_probs[world.prompts] * text).tolist()):
        assert value == pytest.approx(wanted[key], rel=1e-12)
    for x in range(2):
        assert abs(text[world.prompts == x].sum().item() - 1) < 1e-12


def test_state_probs_and_values_by_hand(case):
    world, logits = case.world, case.logits
    wanted = all_texts(world, logits)
    final = dict(zip(row_keys(world), enumeration.final_reward(world, head(world)).tolist()))
    reach = enumeration.state_probs(world, logits)
    q = enumeration.action_values(world, logits, enumeration.final_reward(world, head(world)))
    v = enumeration.state_values(world, logits, enumeration.final_reward(world, head(world)))
    for i in range(len(reach)):
        x = world.state_prompts[i].item()
        prefix = tuple(world.state_tokens[i, : world.state_lengths[i]].tolist())

        def below(start):
            keys = [k for k in wanted if k[0] == x and k[1][: len(start)] == start]
            return sum(wanted[k] for k in keys), sum(wanted[k] * final[k] for k in keys)

        prob, total = below(prefix)
        assert reach[i].item() == pytest.approx(prob, rel=1e-12)
        assert v[i].item() == pytest.approx(total / prob, rel=1e-12)
        for token in range(world.vocab):
            prob, total = below(prefix + (token,))
            assert q[i, token].item() == pytest.approx(total / prob, rel=1e-12)


def test_expectation_and_moments_by_hand():
    world = enumeration.build_world(2, 1)  # the texts: "end" and "word"
    logits = torch.tensor([[0.0, math.log(3)]], dtype=torch.float64)  # word 1/4, end 3/4
    outcome = torch.tensor([2.0, 6.0], dtype=torch.float64)  # rows: end, word
    assert world.tokens.tolist() == [[1], [0]]
    assert enumeration.expectation(world, logits, outcome).item() == pytest.approx(3.0)
    probs = enumeration.row_probs(world, logits)
    mean, covariance = enumeration.moments(probs, torch.stack([outcome, 1 - outcome], dim=1))
    torch.testing.assert_close(mean, torch.tensor([3.0, -2.0], dtype=torch.float64))
    torch.testing.assert_close(covariance, torch.tensor([[3.0, -3], [-3, 3]], dtype=torch.float64))


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((1, 3), "vocab: expected 2 to 5, got 1"),
        ((6, 3), "vocab: expected 2 to 5, got 6"),
        ((3, 0), "max_length: expected 1 to 5, got 0"),
        ((3, 6), "max_length: expected 1 to 5, got 6"),
        ((3, 3, (0.5, 0.4)), "prompt_probs: expected positive numbers"),
        ((3, 3, (1.5, -0.5)), "prompt_probs: expected positive numbers"),
        ((3, 3, ()), "prompt_probs: expected positive numbers"),
    ],
)
def test_bad_worlds_raise(arguments, words):
    with pytest.raises(ValueError, match=words):
        enumeration.build_world(*arguments)


def test_policy_logits_of_a_wrong_shape_raise():
    world = enumeration.build_world(3, 2)
    with pytest.raises(
        ValueError, match=r"logits: expected shape \(states, vocab\) = \(3, 3\), got \(3, 4\)"
    ):
        enumeration.policy_logits(
            world, lambda prompts, tokens, lengths: torch.zeros(len(prompts), 4)
        )


def sample_texts(
    world: enumeration.World, logits: torch.Tensor, n: int, generator: torch.Generator
):
    """Draw n texts token by token. Returns states, tokens and mask, each (n, time)."""
    follow = torch.full_like(logits, -1, dtype=torch.long)
    for states, tokens, length in zip(world.states, world.tokens, world.lengths):
        for t in range(int(length) - 1):
            follow[states[t], tokens[t]] = states[t + 1]
    starts = (world.state_lengths == 0).nonzero().squeeze(1)
    state = starts[torch.multinomial(world.prompt_probs, n, replacement=True, generator=generator)]
    alive = torch.ones(n, dtype=torch.bool)
    columns = []
    for _ in range(world.max_length):
        token = torch.multinomial(logits.softmax(dim=-1)[state], 1, generator=generator).squeeze(1)
        columns.append((state.clamp(min=0), token, alive))
        alive = alive & (token != world.end)
        state = follow[state, token]
        state = torch.where(alive, state, 0)
    return tuple(torch.stack(column, dim=1) for column in zip(*columns))


def test_monte_carlo_means_are_within_4_standard_errors_of_the_exact_ones():
    """E6 with N = 40,000 sampled texts, through the losses as training calls them."""
    case = tabular()
    world, rewards, n = case.world, head(case.world), 40_000
    table = {e.name: e for e in enumeration.estimator_table(world, case.logits, rewards)}
    states, tokens, mask = sample_texts(world, case.logits, n, torch.Generator().manual_seed(0))
    r = rewards[states, tokens].masked_fill(~mask, float("nan"))  # nothing may read behind the mask
    lengths = mask.sum(dim=1)
    final = r.gather(1, lengths[:, None] - 1).squeeze(1)
    v = enumeration.state_values(world, case.logits, enumeration.final_reward(world, rewards))[
        states
    ]
    logits = case.logits.clone().requires_grad_()
    log_probs = equations.token_log_probs(logits[states], tokens, mask)
    by_token = equations.per_token_reinforce_loss
    losses = {
        "E2: final reward": equations.reinforce_loss(log_probs, final, mask),
        "E2: final reward - V(x)": equations.reinforce_loss(log_probs, final, mask, v[:, 0]),
        "E2: cumulative reward R": equations.reinforce_loss(
            log_probs, equations.cumulative_reward(r, mask), mask
        ),
        "E5 as written: r_t": by_token(log_probs, r, mask),
        "E5: reward-to-go of r_t": by_token(log_probs, equations.reward_to_go(r, mask), mask),
        "E5: r_t - r_(t-1)": by_token(log_probs, equations.prefix_difference(r, mask), mask),
        "E2 averaged over own tokens": by_token(
            log_probs, (final / lengths)[:, None].expand_as(r), mask
        ),
    }
    for name, loss in losses.items():
        mean = -torch.autograd.grad(loss, logits, retain_graph=True)[0].flatten()
        error = (table[name].covariance.diagonal() / n).sqrt()
        assert (error > 0).all()
        assert ((mean - table[name].mean).abs() < 4 * error).all(), name
    j = equations.expected_reward(final)
    wanted = enumeration.expectation(world, case.logits, enumeration.final_reward(world, rewards))
    assert (j - wanted).abs() < 4 * final.std() / n**0.5


def test_monte_carlo_error_falls_as_one_over_the_square_root_of_n():
    """Mean squared error over 400 batches is trace(covariance) / N, within 4 standard errors, for N
    = 10 to 10^5."""
    case = tabular()
    world, rewards = case.world, head(case.world)
    r = enumeration.at_rows(world, rewards)
    estimate = {e.name: e for e in enumeration.estimator_table(world, case.logits, rewards)}[
        "E5: reward-to-go of r_t"
    ]
    samples = enumeration.per_text_gradients(
        world,
        case.logits,
        equations.per_token_reinforce_loss,
        equations.reward_to_go(r, world.mask),
    )
    probs = enumeration.row_probs(world, case.logits)
    generator = torch.Generator().manual_seed(0)
    sizes, repeats = [10, 100, 1_000, 10_000, 100_000], 400
    roots = []
    for n in sizes:
        squared = []
        for _ in range(repeats):
            rows = torch.multinomial(probs, n, replacement=True, generator=generator)
            counts = torch.bincount(rows, minlength=len(probs)).double()
            squared.append((counts @ samples / n - estimate.mean).square().sum())
        squared = torch.stack(squared)
        standard_error = squared.std() / repeats**0.5
        assert (squared.mean() - estimate.variance / n).abs() < 4 * standard_error
        roots.append(squared.mean().sqrt().item())
    slope = math.log(roots[-1] / roots[0]) / math.log(sizes[-1] / sizes[0])
    assert slope == pytest.approx(-0.5, abs=0.02)
