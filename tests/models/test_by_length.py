"""Rows of similar length through the body together: the same states, without the padded columns."""

from __future__ import annotations

import pytest
import torch

from minirlhf.models.policy import Policy
from minirlhf.models.reward_model import RewardModel
from minirlhf.models.transformer import GROUP, TransformerConfig

CONFIG = TransformerConfig(vocab_size=50, context=64, width=16, layers=2, heads=2)


def batch_of(count: int, seed: int = 0):
    """Random rows (batch, columns) of 3 to 60 tokens, prompts of 2, and the mask of the texts."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 61, (count,), generator=generator)
    rows = torch.randint(1, 50, (count, 60), generator=generator)
    rows = rows.masked_fill(torch.arange(60) >= lengths[:, None], 0)
    prompts = torch.full((count,), 2)
    time = int((lengths - 2).max())
    return rows, prompts, lengths, torch.arange(time) < (lengths - 2)[:, None]


@pytest.mark.parametrize("count", [GROUP, 2 * GROUP, 5 * GROUP + 3])
def test_states_and_gradients_are_those_of_one_pass(count):
    torch.manual_seed(0)
    body = Policy(CONFIG).body.double()
    rows, _, lengths, _ = batch_of(count)
    real = torch.arange(rows.shape[1]) < lengths[:, None]
    weight = torch.randn(count, rows.shape[1], CONFIG.width, dtype=torch.float64)
    gradients = []
    for hidden in (body(rows), body.by_length(rows, lengths)):
        body.zero_grad()
        (hidden * weight * real[:, :, None]).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in body.parameters()])
    states = body(rows)[real]
    torch.testing.assert_close(states, body.by_length(rows, lengths)[real], rtol=1e-10, atol=1e-10)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_padded_columns_are_left_out():
    torch.manual_seed(0)
    body = Policy(CONFIG).body
    rows, _, lengths, _ = batch_of(4 * GROUP)
    seen = []
    handle = body.final_norm.register_forward_hook(lambda m, i, out: seen.append(out.shape[1]))
    hidden = body.by_length(rows, lengths)
    handle.remove()
    assert hidden.shape == (4 * GROUP, 60, CONFIG.width)
    assert seen == sorted(seen) and seen[0] < 60 and len(seen) == 4
    assert (hidden[lengths.argmin(), 40:] == 0).all()


def test_rows_that_fill_all_columns_are_one_pass():
    torch.manual_seed(0)
    body = Policy(CONFIG).body
    rows = batch_of(4 * GROUP)[0]
    passes = []
    handle = body.final_norm.register_forward_hook(lambda m, i, out: passes.append(len(out)))
    # The last columns of a row need not be full: they are rounded up.
    hidden = body.by_length(rows, torch.full((4 * GROUP,), 58))
    handle.remove()
    assert passes == [4 * GROUP]
    torch.testing.assert_close(hidden, body(rows), rtol=0, atol=0)


def test_policy_and_reward_model_use_it_without_another_result():
    torch.manual_seed(0)
    policy = Policy(CONFIG)
    reward_model = RewardModel.from_policy(policy)
    torch.nn.init.normal_(reward_model.score.weight)
    rows, prompts, lengths, mask = batch_of(3 * GROUP)
    time = mask.shape[1]
    plain = policy.text_logits(rows, prompts, time)[mask]
    torch.testing.assert_close(
        policy.unpadded_logits(rows, prompts, mask), plain, rtol=1e-4, atol=1e-5
    )
    whole, prefix = reward_model.prefix_scores(rows, prompts, time)
    whole_by_length, prefix_by_length = reward_model.prefix_scores(rows, prompts, time, lengths)
    torch.testing.assert_close(whole, whole_by_length, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prefix[mask], prefix_by_length[mask], rtol=1e-4, atol=1e-5)
