"""A step of sampling that works in place on fixed tensors does what the plain loop does; recorded, on a GPU, too."""
from __future__ import annotations

import gc
import math

import pytest
import torch
from torch import Tensor

from minirlhf import decode_graph
from minirlhf.decode_graph import DecodeGraph, rounded_copy
from minirlhf.policy import Policy
from minirlhf.transformer import TransformerConfig

END = 7
PROMPTS = [[1, 2, 3], [4], [5, 6]] * 5
CUTS = [(1.0, None, None), (0.7, 5, 0.9), (0, None, None)]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


def policy_of(seed: int = 0) -> Policy:
    torch.manual_seed(seed)
    policy = Policy(TransformerConfig(12, 40, 32, 2, 4, tie_embeddings=False))
    torch.nn.init.normal_(policy.head.weight, std=0.3)  # distributions that differ, the end token among the likely ones
    return policy


def padded_prompts(prompts: list[list[int]]) -> tuple[Tensor, Tensor | None]:
    longest = max(map(len, prompts))
    valid = torch.tensor([[False] * (longest - len(prompt)) + [True] * len(prompt) for prompt in prompts])
    return torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts]), None if valid.all() else valid


@pytest.mark.parametrize("check_every", [1, 3, 50])
@pytest.mark.parametrize("prompts", [PROMPTS, [[1, 2, 3], [3, 2, 1]] * 8], ids=["padded", "equal lengths"])
@pytest.mark.parametrize("cuts", CUTS)
def test_the_step_in_place_writes_what_the_loop_writes(monkeypatch, cuts, prompts, check_every):
    """Twice with the same tensors: what the first batch left in the cache changes nothing."""
    monkeypatch.setitem(decode_graph.CHECK_EVERY, "cpu", check_every)
    policy, uniform = policy_of(), torch.rand(2, len(prompts), 20, generator=torch.Generator().manual_seed(1))
    graph = DecodeGraph(rounded_copy(policy, torch.float32), len(prompts), 32, 20, cuts, torch.float32)
    for numbers in uniform:
        with torch.no_grad():
            tokens, log_probs = graph.sample(policy, *padded_prompts(prompts), numbers, END)
        expected = policy.sample(prompts, 20, end_id=END, temperature=cuts[0], top_k=cuts[1], top_p=cuts[2], uniform=numbers)
        time, mask = expected.tokens.shape[1], expected.mask
        assert expected.ended.any() and tokens.shape[1] >= time
        assert torch.equal(tokens[:, :time][mask], expected.tokens[mask])
        torch.testing.assert_close(log_probs[:, :time][mask], expected.log_probs[mask], atol=1e-5, rtol=0)


def test_it_stops_where_all_texts_have_ended(monkeypatch):
    monkeypatch.setitem(decode_graph.CHECK_EVERY, "cpu", 2)
    policy, uniform = policy_of(), torch.rand(3, 30, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        graph = DecodeGraph(rounded_copy(policy, torch.float32), 3, 32, 30, CUTS[0], torch.float32)
        tokens, _ = graph.sample(policy, torch.tensor([[1, 2]] * 3), None, uniform, END)
    alone = policy.sample([[1, 2]] * 3, 30, end_id=END, uniform=uniform)
    assert alone.ended.all() and tokens.shape[1] == 2 * math.ceil(alone.tokens.shape[1] / 2) < 30


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_cuda])])
def test_rounded_weights_give_what_autocast_gives(device):
    """Token by token: the weights of products are rounded either way, and nothing else is."""
    policy = policy_of().to(device)
    tokens = torch.randint(12, (5, 9), device=device)
    with torch.no_grad(), torch.autocast(device, torch.bfloat16):
        assert torch.equal(rounded_copy(policy, torch.bfloat16)(tokens), policy(tokens))


# On a GPU -----------------------------------------------------------------------------------------


@pytest.fixture
def on_cuda() -> Policy:
    policy = policy_of().cuda()
    yield policy
    decode_graph._recordings.pop(policy, None)


def without_recording(monkeypatch, policy: Policy, **options):
    """Policy.sample with the step launched kernel by kernel."""
    with monkeypatch.context() as patch:
        patch.setattr(DecodeGraph, "record", lambda self: None)
        decode_graph._recordings.pop(policy, None)
        found = policy.sample(PROMPTS, 20, end_id=END, **options)
        decode_graph._recordings.pop(policy, None)
    return found


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("cuts", CUTS)
def test_a_recording_repeats_the_step(monkeypatch, on_cuda, cuts, bfloat16):
    options = {"temperature": cuts[0], "top_k": cuts[1], "top_p": cuts[2], "uniform": torch.rand(len(PROMPTS), 20).cuda()}
    with torch.autocast("cuda", torch.bfloat16, enabled=bfloat16):
        plain = without_recording(monkeypatch, on_cuda, **options)
        for _ in range(2):
            found = on_cuda.sample(PROMPTS, 20, end_id=END, **options)
            assert torch.equal(found.tokens, plain.tokens) and torch.equal(found.log_probs, plain.log_probs)
    assert all(graph.graph is not None for graph in decode_graph._recordings[on_cuda].values())


@pytest.mark.gpu
@needs_cuda
def test_a_recording_follows_the_weights(monkeypatch, on_cuda):
    """An optimizer changes them in place; other things may put new ones at other addresses."""
    uniform, found = torch.rand(len(PROMPTS), 20).cuda(), []
    for change in (lambda p: None, lambda p: p.data.mul_(1.3), lambda p: setattr(p, "data", p.data * 1.3)):
        for parameter in on_cuda.parameters():
            change(parameter)
        with torch.autocast("cuda", torch.bfloat16):
            found.append(on_cuda.sample(PROMPTS, 20, end_id=END, uniform=uniform))
        assert len(decode_graph._recordings[on_cuda]) == 1
    with torch.autocast("cuda", torch.bfloat16):
        plain = without_recording(monkeypatch, on_cuda, uniform=uniform)
    assert torch.equal(found[2].tokens, plain.tokens) and torch.equal(found[2].log_probs, plain.log_probs)
    for before, after in zip(found, found[1:]):
        assert not torch.equal(before.log_probs[:, :1], after.log_probs[:, :1])


@pytest.mark.gpu
@needs_cuda
def test_recordings_are_few_and_go_with_their_policy(on_cuda):
    known = len(decode_graph._recordings)
    for new in range(1, 2 * decode_graph.KEPT + 1):
        on_cuda.sample([[1]], new, end_id=END, generator=torch.Generator("cuda").manual_seed(0))
    assert len(decode_graph._recordings[on_cuda]) == decode_graph.KEPT
    other = policy_of(1).cuda()
    other.sample([[1]], 4, end_id=END, generator=torch.Generator("cuda").manual_seed(0))
    assert len(decode_graph._recordings) == known + 2
    del other
    gc.collect()
    assert len(decode_graph._recordings) == known + 1
