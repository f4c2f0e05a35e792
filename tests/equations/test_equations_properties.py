"""Properties of every equation on random ragged batches (hypothesis): padding, order and the mask
change nothing."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minirlhf import equations as eq

VOCAB = 4
GARBAGE = [float("nan"), float("inf"), float("-inf"), 1e300, -7.0]

# name: (function of the inputs d and the mask m, shape of the result)
FUNCTIONS = {
    "token_log_probs": (
        lambda d, m: eq.token_log_probs(d["logits"], d["tokens"], m),
        "batch, time",
    ),
    "sequence_log_prob": (lambda d, m: eq.sequence_log_prob(d["log_probs"], m), "batch"),
    "cumulative_reward": (lambda d, m: eq.cumulative_reward(d["rewards"], m), "batch"),
    "reward_to_go": (lambda d, m: eq.reward_to_go(d["rewards"], m, 0.9), "batch, time"),
    "prefix_difference": (
        lambda d, m: eq.prefix_difference(d["rewards"], m, d["reward"]),
        "batch, time",
    ),
    "reinforce_loss": (
        lambda d, m: eq.reinforce_loss(d["log_probs"], d["reward"], m, d["baseline"]),
        "mean",
    ),
    "per_token_reinforce_loss": (
        lambda d, m: eq.per_token_reinforce_loss(d["log_probs"], d["weights"], m),
        "mean",
    ),
    "mse_reward_loss": (lambda d, m: eq.mse_reward_loss(d["rewards"], d["reward"], m), "scalar"),
    "kl_k1": (lambda d, m: eq.kl_k1(d["log_probs"], d["old_log_probs"], m), "batch, time"),
    "kl_k2": (lambda d, m: eq.kl_k2(d["log_probs"], d["old_log_probs"], m), "batch, time"),
    "kl_k3": (lambda d, m: eq.kl_k3(d["log_probs"], d["old_log_probs"], m), "batch, time"),
    "exact_token_kl": (
        lambda d, m: eq.exact_token_kl(d["logits"], d["old_logits"], m),
        "batch, time",
    ),
    "mean_sequence_kl": (lambda d, m: eq.mean_sequence_kl(d["logits"], d["old_logits"], m), "mean"),
    "entropy": (lambda d, m: eq.entropy(d["logits"], m), "batch, time"),
    "generalized_advantage": (
        lambda d, m: eq.generalized_advantage(d["rewards"], d["values"], m, 0.9, 0.8),
        "batch, time",
    ),
    "kl_penalized_rewards": (
        lambda d, m: eq.kl_penalized_rewards(d["reward"], d["rewards"], m, 0.3),
        "batch, time",
    ),
    "ppo_policy_loss": (
        lambda d, m: eq.ppo_policy_loss(d["log_probs"], d["old_log_probs"], d["weights"], m, 0.2),
        "mean",
    ),
    "ppo_value_loss": (
        lambda d, m: eq.ppo_value_loss(d["values"], d["old_values"], d["rewards"], m, 0.2),
        "mean",
    ),
    "trpo_surrogate": (
        lambda d, m: eq.trpo_surrogate(d["log_probs"], d["old_log_probs"], d["weights"], m),
        "mean",
    ),
}
PER_TEXT = ("reward", "baseline")
every_function = pytest.mark.parametrize("name", FUNCTIONS)
ragged_lengths = st.lists(st.integers(0, 5), min_size=1, max_size=5)
seeds = st.integers(0, 2**31)


def make_batch(lengths: list[int], seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs by name, float64 (tokens: integers), and a bool mask for `lengths`."""
    generator = torch.Generator().manual_seed(seed)
    batch, time = len(lengths), max(*lengths, 1) if len(lengths) > 1 else max(lengths[0], 1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = {n: normal(batch, time) for n in ("rewards", "weights", "values", "old_values")}
    inputs |= {n: normal(batch, time, VOCAB) for n in ("logits", "old_logits")}
    inputs |= {n: normal(batch) for n in PER_TEXT}
    inputs["tokens"] = torch.randint(0, VOCAB, (batch, time), generator=generator)
    inputs["log_probs"] = normal(batch, time) - 1.5
    inputs["old_log_probs"] = inputs["log_probs"] + 0.3 * normal(batch, time)
    return inputs, torch.arange(time) < torch.tensor(lengths)[:, None]


def spoil(inputs: dict[str, Tensor], mask: Tensor, garbage: float) -> dict[str, Tensor]:
    """The same inputs with garbage behind the mask."""
    spoiled = {}
    for name, value in inputs.items():
        if name in PER_TEXT:
            spoiled[name] = value
        elif name == "tokens":
            spoiled[name] = value.masked_fill(~mask, -100)
        else:
            spoiled[name] = value.masked_fill(
                ~mask.view(*mask.shape, *[1] * (value.dim() - 2)), garbage
            )
    return spoiled


def pad(inputs: dict[str, Tensor], mask: Tensor, columns: int) -> tuple[dict[str, Tensor], Tensor]:
    """The same inputs with more columns of 0 behind the last one."""

    def wider(value: Tensor) -> Tensor:
        return torch.cat([value, value.new_zeros(len(value), columns, *value.shape[2:])], dim=1)

    return {n: v if n in PER_TEXT else wider(v) for n, v in inputs.items()}, wider(mask)


def value_and_gradients(
    name: str, inputs: dict[str, Tensor], mask: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    inputs = {n: v if n == "tokens" else v.clone().requires_grad_() for n, v in inputs.items()}
    result = FUNCTIONS[name][0](inputs, mask)
    weights = torch.cos(torch.arange(result.numel(), dtype=torch.float64)).view(
        result.shape
    )  # tell entries apart
    if result.dim() == 2:
        weights = torch.cos(
            torch.arange(result.shape[0])[:, None] * 10.0
            + torch.arange(result.shape[1], dtype=torch.float64)
        )
    (result * weights).sum().backward()
    return result.detach(), {
        n: v.grad for n, v in inputs.items() if n != "tokens" and v.grad is not None
    }


@every_function
@settings(max_examples=30, deadline=None, derandomize=True)
@given(lengths=ragged_lengths, seed=seeds, garbage=st.sampled_from(GARBAGE), holes=st.booleans())
def test_what_is_behind_the_mask_changes_nothing(name, lengths, seed, garbage, holes):
    inputs, mask = make_batch(lengths, seed)
    if holes:  # no text looks like this, but garbage must not get through here either
        mask &= torch.rand(mask.shape, generator=torch.Generator().manual_seed(seed)) < 0.7
    value, gradients = value_and_gradients(name, inputs, mask)
    assert value.isfinite().all()
    for some_mask in (mask, mask.double()):
        other, other_gradients = value_and_gradients(name, spoil(inputs, mask, garbage), some_mask)
        assert torch.equal(value, other)
        assert gradients.keys() == other_gradients.keys()
        for n, gradient in other_gradients.items():
            assert torch.equal(gradient, gradients[n])
            if n not in PER_TEXT:
                assert (gradient[~mask] == 0).all()
    if FUNCTIONS[name][1] == "batch, time":
        assert (value[~mask] == 0).all()


@every_function
@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    lengths=ragged_lengths, seed=seeds, columns=st.integers(1, 4), garbage=st.sampled_from(GARBAGE)
)
def test_padding_changes_nothing(name, lengths, seed, columns, garbage):
    inputs, mask = make_batch(lengths, seed)
    value, gradients = value_and_gradients(name, inputs, mask)
    padded, wide = pad(inputs, mask, columns)
    other, other_gradients = value_and_gradients(name, spoil(padded, wide, garbage), wide)
    if FUNCTIONS[name][1] == "batch, time":
        assert (other[:, mask.shape[1] :] == 0).all()
        other = other[:, : mask.shape[1]]
    torch.testing.assert_close(other, value, rtol=1e-12, atol=1e-12)
    for n, gradient in gradients.items():
        other_gradient = (
            other_gradients[n] if n in PER_TEXT else other_gradients[n][:, : mask.shape[1]]
        )
        torch.testing.assert_close(other_gradient, gradient, rtol=1e-12, atol=1e-12)


@every_function
@settings(max_examples=15, deadline=None, derandomize=True)
@given(lengths=ragged_lengths, seed=seeds, data=st.data())
def test_order_of_the_texts_changes_nothing(name, lengths, seed, data):
    order = torch.tensor(data.draw(st.permutations(range(len(lengths)))))
    inputs, mask = make_batch(lengths, seed)
    value = FUNCTIONS[name][0](inputs, mask)
    other = FUNCTIONS[name][0]({n: v[order] for n, v in inputs.items()}, mask[order])
    torch.testing.assert_close(
        other, value if value.dim() == 0 else value[order], rtol=1e-12, atol=1e-12
    )


@every_function
@settings(max_examples=15, deadline=None, derandomize=True)
@given(lengths=ragged_lengths, seed=seeds)
def test_a_batch_is_the_mean_of_its_texts(name, lengths, seed):
    """No text sees another one; a policy loss is the plain mean over texts, whatever their
    lengths."""
    inputs, mask = make_batch(lengths, seed)
    value = FUNCTIONS[name][0](inputs, mask)
    rows = range(len(lengths))
    ones = [
        FUNCTIONS[name][0]({n: v[i : i + 1] for n, v in inputs.items()}, mask[i : i + 1])
        for i in rows
    ]
    if FUNCTIONS[name][1] == "mean":
        expected = torch.stack(ones).mean()
    elif FUNCTIONS[name][1] == "scalar":  # the mean over prefixes: longer texts have more of them
        counts = mask.sum(dim=1)
        expected = (torch.stack(ones) * counts).sum() / counts.sum().clamp(min=1)
    else:
        expected = torch.cat(ones)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


@every_function
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_is_kept(name, dtype):
    inputs, mask = make_batch([5, 1, 3], seed=0)
    inputs = {n: v if n == "tokens" else v.to(dtype) for n, v in inputs.items()}
    assert FUNCTIONS[name][0](inputs, mask).dtype == dtype
    assert FUNCTIONS[name][0](inputs, mask.float()).dtype == dtype


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.floats(-30, 0),
    st.one_of(st.floats(-30, 30), st.floats(-1e-6, 1e-6)),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_k2_and_k3_are_never_negative(log_prob, gap, dtype):
    p, q = torch.tensor([[log_prob]], dtype=dtype), torch.tensor([[log_prob + gap]], dtype=dtype)
    assert eq.kl_k3(p, q).item() >= 0
    assert eq.kl_k2(p, q).item() >= 0


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seeds)
def test_exact_kl_is_never_negative_and_zero_for_equal_policies(seed):
    inputs, mask = make_batch([5, 2], seed)
    assert (eq.exact_token_kl(inputs["logits"], inputs["old_logits"], mask) >= 0).all()
    shifted = inputs["logits"] + 3.0
    assert eq.exact_token_kl(inputs["logits"], shifted, mask).abs().max() < 1e-14


@settings(max_examples=50, deadline=None, derandomize=True)
@given(lengths=ragged_lengths, seed=seeds, discount=st.floats(0, 1), gae_lambda=st.floats(0, 1))
def test_reward_to_go_and_gae_follow_their_definitions(lengths, seed, discount, gae_lambda):
    """Both against double sums written out from the formulas."""
    inputs, mask = make_batch(lengths, seed)
    to_go = eq.reward_to_go(inputs["rewards"], mask, discount)
    gae = eq.generalized_advantage(inputs["rewards"], inputs["values"], mask, discount, gae_lambda)
    for i, length in enumerate(lengths):
        r, v = inputs["rewards"][i].tolist(), inputs["values"][i].tolist()[:length] + [0.0]
        for t in range(length):
            wanted = sum(discount ** (k - t) * r[k] for k in range(t, length))
            assert to_go[i, t].item() == pytest.approx(wanted, abs=1e-12)
            deltas = [r[k] + discount * v[k + 1] - v[k] for k in range(length)]
            wanted = sum((discount * gae_lambda) ** (k - t) * deltas[k] for k in range(t, length))
            assert gae[i, t].item() == pytest.approx(wanted, abs=1e-12)


# Constants ----------------------------------------------------------------------------------------

NAN = float("nan")
constants = st.builds(
    lambda digits, exponent, sign: sign * digits * 10.0**exponent,
    st.floats(1, 10),
    st.integers(-8, 8),
    st.sampled_from([-1, 1]),
)
a_few_units = st.lists(st.integers(-1, 1), min_size=2, max_size=12)  # of the last digit
dtypes = st.sampled_from([torch.float32, torch.float64, torch.bfloat16])


def nearly_constant(constant: float, units: list[int], rows: int, dtype: torch.dtype) -> Tensor:
    """The constant, some columns off by a unit in the last digit: (rows, columns)."""
    one = torch.tensor(constant, dtype=dtype)
    digit = torch.nextafter(one, torch.tensor(torch.inf, dtype=dtype)) - one
    wide = 0 if dtype == torch.bfloat16 else 1  # there a unit is nearly a percent, and counts
    return (one + wide * digit * torch.tensor(units, dtype=dtype)).expand(rows, -1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(constants, a_few_units, st.sampled_from([1, 3, 128]), dtypes)
def test_a_spread_that_is_rounding_is_none(constant, units, rows, dtype):
    """Equal numbers of any size, or equal but for the last digit: nothing to learn from."""
    tensor, mask = (
        nearly_constant(constant, units, rows, dtype),
        torch.ones(rows, len(units)).bool(),
    )
    assert (eq.group_normalized_advantage(tensor) == 0).all()
    assert (eq.whiten(tensor, mask) == 0).all()
    padded = torch.cat([tensor, torch.full_like(tensor, NAN)], dim=1)
    assert (eq.whiten(padded, torch.cat([mask, ~mask], dim=1)) == 0).all()
    values = torch.linspace(-1, 1, tensor.numel()).view_as(tensor).to(dtype)
    assert eq.explained_variance(values, tensor, mask).isnan()


@settings(max_examples=15, deadline=None, derandomize=True)
@given(constants, seeds, st.sampled_from([torch.float32, torch.float64]))
def test_a_small_spread_that_is_more_than_rounding_counts(scale, seed, dtype):
    """A ten-thousandth of the size is measured as well as any other spread."""
    noise = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    tensor, mask = (scale * (1 + 1e-4 * noise)).to(dtype), torch.ones(4, 6).bool()
    normal = scale / abs(scale) * noise  # its standard scores are those of the tensor
    spread = (normal - normal.mean()) / normal.std(correction=0)
    if abs(scale) > 1:  # far above the 1e-8 of the formula
        torch.testing.assert_close(
            eq.whiten(tensor, mask).double(),
            spread,
            rtol=0,
            atol=2e-2 if dtype.itemsize < 8 else 1e-3,
        )
    grouped = eq.group_normalized_advantage(tensor)
    torch.testing.assert_close(grouped.std(dim=1), torch.ones(4, dtype=dtype), rtol=0, atol=1e-3)


def test_no_number_hides_that_a_reward_is_none():
    """NaN stays NaN: it is no constant."""
    rewards = torch.tensor([[0.5, NAN, 0.5], [1.0, 2.0, 3.0]])
    found = eq.group_normalized_advantage(rewards)
    assert found[0].isnan().all() and found[1].isfinite().all()
    assert eq.whiten(rewards, torch.ones(2, 3)).isnan().all()


def test_the_largest_ratio_is_that_of_a_real_token():
    log_probs, old = torch.tensor([[-1.0, NAN], [-2.0, -3.0]]), torch.tensor([[0.0, 9.0], [0, -2]])
    mask = torch.tensor([[True, False], [True, True]])
    assert eq.largest_ratio(log_probs, old, mask).item() == pytest.approx(math.exp(-1))
    assert eq.largest_ratio(old.nan_to_num(), log_probs, mask).item() == pytest.approx(math.exp(2))
    assert eq.largest_ratio(log_probs, old, mask.new_zeros(2, 2)) == 0
    assert eq.largest_ratio(log_probs, old, mask.new_ones(2, 2)).isnan()


def test_each_prompt_has_a_rounding_of_its_own():
    rewards = torch.tensor([[1.0, 2.0], [1e9, 3e9], [0.0, 0.0], [1e-9, 3e-9]])
    half = math.sqrt(0.5)
    wanted = torch.tensor([[-half, half], [-half, half], [0, 0], [-half, half]])
    torch.testing.assert_close(eq.group_normalized_advantage(rewards), wanted)
