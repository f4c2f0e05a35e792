"""The reward model: one score for every prefix in one pass, and where its body comes from."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from minirlhf.models.policy import Policy
from minirlhf.models.reward_model import RewardModel
from minirlhf.models.transformer import TransformerConfig

PROMPTS = [[5], [1, 0, 3, 4, 5, 6, 7], [9, 8, 10], [4, 4, 10, 3, 6], [7, 7]]
TEXTS = [[3, 4, 2], [0, 1, 10, 9, 8, 2], [2], [5, 5, 5, 5, 5, 5, 5], [1, 2]]


def randomise(module: nn.Module, seed: int = 0, std: float = 0.25) -> nn.Module:
    """Give every weight a value far from its start (norm scales around 1), so that no parameter is
    idle."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in module.named_parameters():
        with torch.no_grad():
            weight.copy_(
                torch.randn(weight.shape, generator=generator) * std
                + float(name.endswith("norm.weight"))
            )
    return module.eval()


def config_of(causal: bool = True) -> TransformerConfig:
    return TransformerConfig(vocab_size=11, context=24, width=32, layers=2, heads=4, causal=causal)


def rows_of(prompts: list[list[int]], texts: list[list[int]], filler: int = 0, extra: int = 0):
    """Prompt and text back to back, padded behind with `filler` (batch, columns); the prompts'
    lengths."""
    rows = [prompt + text for prompt, text in zip(prompts, texts)]
    longest = max(map(len, rows)) + extra
    padded = torch.tensor([row + [filler] * (longest - len(row)) for row in rows])
    return padded, torch.tensor([len(prompt) for prompt in prompts])


def test_a_new_reward_model_gives_everything_the_middle_score():
    rows, lengths = rows_of(PROMPTS, TEXTS)
    bare, scores = RewardModel(config_of()).prefix_scores(rows, lengths, 7)
    assert torch.equal(bare, torch.full((5,), 0.5)) and torch.equal(scores, torch.full((5, 7), 0.5))


def test_prefix_scores_equal_a_pass_for_each_prefix():
    model = randomise(RewardModel(config_of()))
    rows, lengths = rows_of(PROMPTS, TEXTS)
    bare, scores = model.prefix_scores(rows, lengths, 7)
    assert bare.shape == (5,) and scores.shape == (5, 7)
    assert scores.std() > 0.05  # the scores differ, so a shift by one column would show
    for row, (prompt, text) in enumerate(zip(PROMPTS, TEXTS)):
        assert bare[row].item() == pytest.approx(
            model(torch.tensor([prompt]))[0, -1].item(), abs=1e-5
        )
        for t in range(1, len(text) + 1):
            alone = model(torch.tensor([prompt + text[:t]]))[0, -1].item()
            assert scores[row, t - 1].item() == pytest.approx(alone, abs=1e-5)


def test_padding_does_not_count():
    model = randomise(RewardModel(config_of()))
    rows, lengths = rows_of(PROMPTS, TEXTS)
    _, expected = model.prefix_scores(rows, lengths, 7)
    for filler, extra in [(9, 0), (3, 6)]:
        other, _ = rows_of(PROMPTS, TEXTS, filler, extra)
        _, found = model.prefix_scores(other, lengths, 7)
        for row, text in enumerate(TEXTS):
            torch.testing.assert_close(
                found[row, : len(text)], expected[row, : len(text)], atol=1e-5, rtol=0
            )


def test_scores_lie_in_0_1_even_for_extreme_weights():
    model = randomise(RewardModel(config_of()))
    with torch.no_grad():
        model.score.weight.mul_(1000)
    scores = model(torch.randint(11, (16, 24), generator=torch.Generator().manual_seed(0)))
    assert (
        scores.shape == (16, 24)
        and scores.isfinite().all()
        and scores.min() >= 0
        and scores.max() <= 1
    )
    assert scores.min() < 0.01 and scores.max() > 0.99


def test_later_tokens_do_not_change_the_score_of_a_prefix():
    model = randomise(RewardModel(config_of()))
    rows = torch.randint(11, (3, 10), generator=torch.Generator().manual_seed(1))
    changed = rows.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 11
    assert torch.equal(model(rows)[:, :6], model(changed)[:, :6])
    assert not torch.equal(model(rows)[:, 6:], model(changed)[:, 6:])


def test_bidirectional_reward_model_scores_whole_texts_only():
    model = randomise(RewardModel(config_of(causal=False)))
    rows, lengths = rows_of(PROMPTS, TEXTS)
    valid = torch.arange(rows.shape[1]) < torch.tensor(
        [[len(p) + len(t)] for p, t in zip(PROMPTS, TEXTS)]
    )
    scores = model(rows, valid)
    for row, (prompt, text) in enumerate(zip(PROMPTS, TEXTS)):
        alone = model(torch.tensor([prompt + text]))[0]
        torch.testing.assert_close(scores[row, : len(alone)], alone, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="causal"):
        model.prefix_scores(rows, lengths, 7)


def test_from_policy_lies_where_the_policy_does():
    policy = Policy(TransformerConfig(11, 24, 32, 2, 4)).to(
        "meta"
    )  # a device that every machine has
    assert {weight.device.type for weight in RewardModel.from_policy(policy).parameters()} == {
        "meta"
    }


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_from_policy_copies_the_body_and_shares_nothing(tied, frozen):
    policy = randomise(Policy(TransformerConfig(11, 24, 32, 2, 4, tie_embeddings=tied)))
    if frozen:
        policy = policy.frozen_copy()
    model = RewardModel.from_policy(policy)
    assert model.config == policy.config
    theirs, ours = policy.body.state_dict(), model.body.state_dict()
    assert theirs.keys() == ours.keys() and all(
        torch.equal(theirs[name], ours[name]) for name in ours
    )
    assert {w.data_ptr() for w in policy.parameters()}.isdisjoint(
        w.data_ptr() for w in model.parameters()
    )
    assert all(
        weight.requires_grad for weight in model.parameters()
    )  # a frozen policy's copy still learns

    tokens = torch.tensor([[1, 3, 5, 7]])
    before = policy(tokens).detach().clone()
    nn.init.constant_(
        model.score.weight[:, ::2], 0.1
    )  # it starts at 0, which lets no gradient through to the body
    model(tokens)[:, -1].sum().backward()
    # All of the body learns but the embeddings of what was not in the row.
    assert all(weight.grad.abs().max() > 0 for weight in model.parameters())
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert torch.equal(policy(tokens), before)
    assert all(weight.grad is None for weight in policy.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_cuda_agrees_with_cpu():
    model = randomise(RewardModel(config_of()))
    rows, lengths = rows_of(PROMPTS, TEXTS)
    bare, scores = model.prefix_scores(rows, lengths, 7)
    found = model.cuda().prefix_scores(rows.cuda(), lengths.cuda(), 7)
    torch.testing.assert_close(found[0].cpu(), bare, atol=1e-3, rtol=0)
    torch.testing.assert_close(found[1].cpu(), scores, atol=1e-3, rtol=0)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        rough = model.prefix_scores(rows.cuda(), lengths.cuda(), 7)[1]
    assert rough.dtype == torch.float32  # the sigmoid is taken in float32
    assert (rough.cpu() - scores).abs().mean() < 0.02
