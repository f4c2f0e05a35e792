"""equations.py: cases computed by hand, and the errors for bad input."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from minirlhf import equations

NAN, INF = float("nan"), float("inf")
MASK = torch.tensor([[1.0, 1, 1], [1, 0, 0]])


def float64(*rows) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_token_log_probs_by_hand():
    logits = torch.tensor(
        [[[1.0, 2, 1], [5, 5, 10]]], dtype=torch.float64
    ).log()  # odds 1:2:1 and 1:1:2
    found = equations.token_log_probs(logits, torch.tensor([[1, 0]]))
    torch.testing.assert_close(found.exp(), float64([0.5, 0.25]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_token_log_probs_takes_any_integer_and_blanks_bad_ids(dtype):
    logits = torch.zeros(1, 3, 4)
    logits[:, 1:] = NAN
    tokens = torch.tensor([[3, 200, 99]]).to(dtype)
    found = equations.token_log_probs(logits, tokens, torch.tensor([[True, False, False]]))
    torch.testing.assert_close(found, torch.tensor([[-math.log(4), 0.0, 0.0]]))


def test_sequence_log_prob_by_hand():
    found = equations.sequence_log_prob(float64([-1.0, -2, -4], [-8.0, NAN, INF]), MASK)
    assert found.tolist() == [-7.0, -8.0]


def test_rewards_by_hand():
    rewards = float64([1.0, 2, 4], [8.0, NAN, -INF])
    assert equations.expected_reward(float64(1.0, 2, 6)).item() == 3.0
    assert equations.cumulative_reward(rewards, MASK).tolist() == [7.0, 8.0]
    assert equations.reward_to_go(rewards, MASK).tolist() == [[7.0, 6, 4], [8, 0, 0]]
    assert equations.reward_to_go(rewards, MASK, 0.5).tolist() == [[3.0, 4, 4], [8, 0, 0]]
    assert equations.reward_to_go(rewards, MASK, discount=0).tolist() == [[1.0, 2, 4], [8, 0, 0]]
    with torch.autocast("cpu", torch.bfloat16):  # which would round them
        assert equations.reward_to_go(rewards + 1 / 1024, MASK, discount=0)[1].tolist() == [
            8 + 1 / 1024,
            0,
            0,
        ]
    assert equations.prefix_difference(rewards, MASK).tolist() == [[1.0, 1, 2], [8, 0, 0]]
    assert equations.prefix_difference(rewards, MASK, 0.5).tolist() == [[0.5, 1, 2], [7.5, 0, 0]]
    of_prompt = float64(1.0, -1.0)
    assert equations.prefix_difference(rewards, MASK, of_prompt).tolist() == [
        [0.0, 1, 2],
        [9, 0, 0],
    ]
    assert equations.prefix_difference(rewards, MASK, of_prompt.float()).dtype == torch.float64


def test_differences_add_up_to_the_final_score():
    rewards = float64([0.2, 0.9, 0.4], [0.7, NAN, NAN])
    total = equations.cumulative_reward(equations.prefix_difference(rewards, MASK, 0.1), MASK)
    torch.testing.assert_close(total, float64(0.3, 0.6))


@pytest.mark.parametrize(
    "baseline, loss",
    [
        (None, (2 * 7 + 6 * 8) / 2),
        (1.0, (1 * 7 + 5 * 8) / 2),
        (torch.tensor(1.0), (1 * 7 + 5 * 8) / 2),
        (float64(1.0, 2.0), (1 * 7 + 4 * 8) / 2),
    ],
)
def test_reinforce_loss_by_hand(baseline, loss):
    log_probs = float64([-1.0, -2, -4], [-8.0, NAN, NAN]).requires_grad_()
    found = equations.reinforce_loss(log_probs, float64(2.0, 6.0), MASK, baseline)
    assert found.item() == pytest.approx(loss)


def test_reinforce_loss_gradient_is_minus_the_weight_over_n():
    log_probs = float64([-1.0, -2, -4], [-8.0, NAN, NAN]).requires_grad_()
    reward, baseline = float64(2.0, 6.0).requires_grad_(), float64(1.0, 2.0).requires_grad_()
    equations.reinforce_loss(log_probs, reward, MASK, baseline).backward()
    assert log_probs.grad.tolist() == [[-0.5, -0.5, -0.5], [-2, 0, 0]]
    assert reward.grad is None and baseline.grad is None


def test_per_token_reinforce_loss_by_hand():
    log_probs = float64([-1.0, -2, -4], [-8.0, NAN, NAN]).requires_grad_()
    weights = float64([1.0, 2, 3], [-4.0, NAN, INF]).requires_grad_()
    loss = equations.per_token_reinforce_loss(log_probs, weights, MASK)
    loss.backward()
    assert loss.item() == -((-1 - 4 - 12) + 32) / 2
    assert log_probs.grad.tolist() == [[-0.5, -1, -1.5], [2, 0, 0]]
    assert weights.grad is None


def test_a_constant_weight_per_token_is_the_whole_text_loss():
    log_probs, reward = float64([-1.0, -2, -4], [-8.0, NAN, NAN]), float64(2.0, 6.0)
    whole = equations.reinforce_loss(log_probs, reward, MASK)
    tokenwise = equations.per_token_reinforce_loss(log_probs, reward[:, None].expand(2, 3), MASK)
    assert whole.item() == pytest.approx(tokenwise.item())


def test_mse_reward_loss_by_hand():
    assert equations.mse_reward_loss(float64(0.5, 1.0), float64(0.0, 3.0)).item() == (0.25 + 4) / 2
    predicted = float64([0.0, 1, 2], [0.5, NAN, INF]).requires_grad_()
    score = float64(1.0, 0.0).requires_grad_()
    loss = equations.mse_reward_loss(predicted, score, MASK)
    loss.backward()
    assert loss.item() == (1 + 0 + 1 + 0.25) / 4  # four real prefixes, each with the same weight
    assert predicted.grad.tolist() == [[-0.5, 0, 0.5], [0.25, 0, 0]]
    assert score.grad is None
    score = float64(1.0, 0.0).requires_grad_()
    assert not equations.mse_reward_loss(score.detach(), score).requires_grad


def test_mse_reward_loss_of_no_prefix_is_zero():
    assert (
        equations.mse_reward_loss(torch.full((1, 2), NAN), torch.ones(1), torch.zeros(1, 2)).item()
        == 0
    )


def test_ranking_loss_by_hand():
    found = equations.ranking_loss(float64(2.0, 0.0), float64(2.0, math.log(3)))
    assert found.item() == pytest.approx((math.log(2) + math.log(4)) / 2)


def test_kl_estimators_by_hand():
    p, q = float64([0.5, 0.25]).log(), float64([0.25, 0.5]).log()
    two = math.log(2)
    torch.testing.assert_close(equations.kl_k1(p, q), float64([two, -two]))
    torch.testing.assert_close(equations.kl_k2(p, q), float64([two**2 / 2, two**2 / 2]))
    torch.testing.assert_close(equations.kl_k3(p, q), float64([0.5 - 1 + two, 2 - 1 - two]))


def test_kl_k3_keeps_its_digits_where_the_policies_almost_agree():
    gap = 1e-7
    found = equations.kl_k3(float64([-1.0]), float64([-1.0 + gap]))
    exact_gap = (-1.0 + gap) + 1.0
    assert found.item() == pytest.approx(exact_gap**2 / 2, rel=1e-1)
    assert equations.kl_k3(
        torch.tensor([[-1.0]]), torch.tensor([[-1.001]])
    ).item() == pytest.approx(5e-7, rel=2e-2)


def test_exact_token_kl_and_entropy_by_hand():
    p = (
        torch.tensor([[[0.5, 0.5], [0.25, 0.75]]], dtype=torch.float64).log() + 3
    )  # softmax ignores the shift
    q = torch.tensor([[[0.25, 0.75], [0.25, 0.75]]], dtype=torch.float64).log() - 1
    wanted = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    torch.testing.assert_close(equations.exact_token_kl(p, q), float64([wanted, 0.0]))
    h = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    torch.testing.assert_close(equations.entropy(p), float64([math.log(2), h]))
    torch.testing.assert_close(
        equations.entropy(p, torch.tensor([[False, True]])), float64([0.0, h])
    )
    p = torch.cat([p, p * NAN])
    q = torch.cat([q, q])
    mask = torch.tensor([[True, True], [False, False]])
    assert equations.mean_sequence_kl(p, q, mask).item() == pytest.approx(
        wanted / 2
    )  # sum over tokens, mean over 2


def test_a_token_of_probability_zero_costs_nothing_and_has_a_finite_gradient():
    p = torch.tensor([[[0.0, 0.0, -INF]]], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([[[0.0, math.log(3), -INF]]], dtype=torch.float64, requires_grad=True)
    kl, h = equations.exact_token_kl(p, q), equations.entropy(p)
    assert kl.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert h.item() == pytest.approx(math.log(2))
    (kl + h).sum().backward()
    assert p.grad.isfinite().all() and q.grad.isfinite().all() and p.grad[0, 0, 2] == 0
    banned = torch.tensor([[[0.0, -INF, 0.0]]], dtype=torch.float64)
    assert (
        equations.exact_token_kl(p.detach(), banned).item() == INF
    )  # possible under p, impossible under q


# Errors -------------------------------------------------------------------------------------------

B, T, V = 2, 3, 4
GOOD = {
    "logits": torch.zeros(B, T, V),
    "reference_logits": torch.zeros(B, T, V),
    "tokens": torch.zeros(B, T, dtype=torch.long),
    "mask": torch.ones(B, T),
    "reward": torch.zeros(B),
    "rewards_of_texts": torch.zeros(B),
    "predicted": torch.zeros(B),
    "score": torch.zeros(B),
    "better": torch.zeros(B),
    "worse": torch.zeros(B),
    "initial": torch.zeros(B),
    "baseline": torch.zeros(B),
}
PER_TOKEN = [
    "token_log_probs", "rewards", "weights", "log_probs", "reference_log_probs", "old_log_probs",
    "advantages", "values", "old_values", "returns", "predicted_prefixes",
]  # fmt: skip
GOOD |= {name: torch.zeros(B, T) for name in PER_TOKEN}

CALLS = {
    "token_log_probs": (
        lambda d: equations.token_log_probs(d.logits, d.tokens, d.mask),
        "logits tokens mask",
    ),
    "sequence_log_prob": (
        lambda d: equations.sequence_log_prob(d.token_log_probs, d.mask),
        "token_log_probs mask",
    ),
    "expected_reward": (
        lambda d: equations.expected_reward(d.rewards_of_texts),
        "rewards_of_texts",
    ),
    "cumulative_reward": (lambda d: equations.cumulative_reward(d.rewards, d.mask), "rewards mask"),
    "reward_to_go": (lambda d: equations.reward_to_go(d.rewards, d.mask), "rewards mask"),
    "prefix_difference": (
        lambda d: equations.prefix_difference(d.rewards, d.mask, d.initial),
        "rewards mask initial",
    ),
    "reinforce_loss": (
        lambda d: equations.reinforce_loss(d.token_log_probs, d.reward, d.mask, d.baseline),
        "token_log_probs reward mask baseline",
    ),
    "per_token_reinforce_loss": (
        lambda d: equations.per_token_reinforce_loss(d.token_log_probs, d.weights, d.mask),
        "token_log_probs weights mask",
    ),
    "mse_reward_loss": (
        lambda d: equations.mse_reward_loss(d.predicted, d.score),
        "predicted score",
    ),
    "mse_reward_loss, prefixes": (
        lambda d: equations.mse_reward_loss(d.predicted_prefixes, d.score, d.mask),
        "predicted_prefixes score mask",
    ),
    "ranking_loss": (lambda d: equations.ranking_loss(d.better, d.worse), "better worse"),
    "kl_k1": (
        lambda d: equations.kl_k1(d.log_probs, d.reference_log_probs, d.mask),
        "log_probs reference_log_probs mask",
    ),
    "kl_k2": (
        lambda d: equations.kl_k2(d.log_probs, d.reference_log_probs, d.mask),
        "log_probs reference_log_probs mask",
    ),
    "kl_k3": (
        lambda d: equations.kl_k3(d.log_probs, d.reference_log_probs, d.mask),
        "log_probs reference_log_probs mask",
    ),
    "exact_token_kl": (
        lambda d: equations.exact_token_kl(d.logits, d.reference_logits, d.mask),
        "logits reference_logits mask",
    ),
    "mean_sequence_kl": (
        lambda d: equations.mean_sequence_kl(d.logits, d.reference_logits, d.mask),
        "logits reference_logits mask",
    ),
    "entropy": (lambda d: equations.entropy(d.logits, d.mask), "logits mask"),
    "generalized_advantage": (
        lambda d: equations.generalized_advantage(d.rewards, d.values, d.mask, 1.0, 1.0),
        "rewards values mask",
    ),
    "ppo_policy_loss": (
        lambda d: equations.ppo_policy_loss(
            d.log_probs, d.old_log_probs, d.advantages, d.mask, 0.2
        ),
        "log_probs old_log_probs advantages mask",
    ),
    "ppo_value_loss": (
        lambda d: equations.ppo_value_loss(d.values, d.old_values, d.returns, d.mask, 0.2),
        "values old_values returns mask",
    ),
    "trpo_surrogate": (
        lambda d: equations.trpo_surrogate(d.log_probs, d.old_log_probs, d.advantages, d.mask),
        "log_probs old_log_probs advantages mask",
    ),
}
ALIASES = {"rewards_of_texts": "rewards", "predicted_prefixes": "predicted"}


BAD = [
    (call, name, kind)
    for call, (_, names) in CALLS.items()
    for name in names.split()
    for kind in ("axis missing", "axis too long", "dtype", "no tensor")
    if not (call == "expected_reward" and kind == "axis too long")  # any number of texts is fine
    and not (name in ("initial", "baseline") and kind == "no tensor")  # a number is fine
    and not (name == "baseline" and kind == "axis missing")  # a scalar tensor is fine
]


@pytest.mark.parametrize("call, name, kind", BAD, ids=[" / ".join(bad) for bad in BAD])
def test_bad_input_raises_one_clear_line(call, name, kind):
    """A wrong number of axes, a wrong length, a wrong dtype or no tensor at all, in each argument
    of each function."""
    function, _ = CALLS[call]
    function(SimpleNamespace(**GOOD))  # the good input passes
    good = GOOD[name]
    if kind == "axis missing":
        bad, words = good[0], r"expected shape \(batch.* got \("
    elif kind == "axis too long":
        first = CALLS[call][1].split()[0] == name
        bad, words = torch.cat([good, good[:1]]), r"expected shape \(batch.* = .*, got \("
        if first:  # the first argument sets the shape, so the second one complains
            with pytest.raises(ValueError, match=words):
                function(SimpleNamespace(**GOOD | {name: bad}))
            return
    elif kind == "dtype":
        bad = good.float() if name == "tokens" else good.long()
        words = "expected .*dtype, got torch"
    else:
        bad, words = good.tolist(), "expected a tensor of shape .*, got list"
    with pytest.raises(ValueError, match=rf"^{ALIASES.get(name, name)}: {words}") as error:
        function(SimpleNamespace(**GOOD | {name: bad}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64])
def test_tokens_and_rewards_of_odd_dtypes_raise(dtype):
    with pytest.raises(ValueError, match="^tokens: expected an integer dtype"):
        equations.token_log_probs(GOOD["logits"], GOOD["tokens"].to(dtype))
    with pytest.raises(ValueError, match="^rewards: expected a floating dtype"):
        equations.expected_reward(GOOD["reward"].to(dtype))
    with pytest.raises(ValueError, match="^mask: expected shape"):
        equations.entropy(GOOD["logits"], torch.ones(B, T + 1))


def test_messages_name_the_shapes():
    with pytest.raises(ValueError) as error:
        equations.per_token_reinforce_loss(torch.zeros(2, 3), torch.zeros(2, 4), torch.ones(2, 3))
    assert str(error.value) == "weights: expected shape (batch, time) = (2, 3), got (2, 4)"


@pytest.mark.parametrize("bad", [-0.1, 1.1, NAN])
def test_discounts_outside_0_to_1_raise(bad):
    rewards, mask = torch.zeros(1, 2), torch.ones(1, 2)
    with pytest.raises(ValueError, match=r"^discount: expected a number in \[0, 1\], got"):
        equations.reward_to_go(rewards, mask, bad)
    with pytest.raises(ValueError, match=r"^discount: expected a number in \[0, 1\], got"):
        equations.generalized_advantage(rewards, rewards, mask, bad, 0.5)
    with pytest.raises(ValueError, match=r"^gae_lambda: expected a number in \[0, 1\], got"):
        equations.generalized_advantage(rewards, rewards, mask, 0.5, bad)


@pytest.mark.parametrize("bad", [0.0, -0.2, NAN])
def test_clip_ranges_not_above_0_raise(bad):
    x = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="^clip_range: expected a number above 0, got"):
        equations.ppo_policy_loss(x, x, x, torch.ones(1, 2), bad)
    with pytest.raises(ValueError, match="^clip_range: expected a number above 0, got"):
        equations.ppo_value_loss(x, x, x, torch.ones(1, 2), bad)
