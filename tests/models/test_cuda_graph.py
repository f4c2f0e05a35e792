"""A step of sampling that works in place on fixed tensors does what the plain loop does; recorded,
on a GPU, too."""

from __future__ import annotations

import copy
import gc
import itertools
import math

import pytest
import torch
from torch import Tensor

from minirlhf.models import cuda_graph
from minirlhf.models.cuda_graph import DecodeGraph, recorded, rounded_copy
from minirlhf.models.next_token import SamplingOptions
from minirlhf.models.policy import Policy
from minirlhf.models.sampling import Samples, sample
from minirlhf.models.transformer import TransformerConfig

END = 7
PROMPTS = [[1, 2, 3], [4], [5, 6]] * 5
CUTS = [SamplingOptions(), SamplingOptions(0.7, 5, 0.9), SamplingOptions(0)]
needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device on this machine"
)


def policy_of(seed: int = 0, tied: bool = False) -> Policy:
    torch.manual_seed(seed)
    policy = Policy(TransformerConfig(12, 40, 32, 2, 4, tie_embeddings=tied))
    torch.nn.init.normal_(
        policy.head.weight, std=0.3
    )  # distributions that differ, the end token among the likely ones
    return policy


def padded_prompts(prompts: list[list[int]]) -> tuple[Tensor, Tensor | None]:
    longest = max(map(len, prompts))
    valid = torch.tensor(
        [[False] * (longest - len(prompt)) + [True] * len(prompt) for prompt in prompts]
    )
    return torch.tensor(
        [[0] * (longest - len(prompt)) + prompt for prompt in prompts]
    ), None if valid.all() else valid


@pytest.mark.parametrize("check_every", [1, 3, 50])
@pytest.mark.parametrize("cuts", CUTS)
def test_the_step_in_place_writes_what_the_loop_writes(monkeypatch, cuts, check_every):
    """One batch after the other with the same tensors: of what an earlier one left there, prompts,
    padding, weights and the NaN of weights that were broken for a while, nothing counts."""
    monkeypatch.setitem(cuda_graph.CHECK_EVERY, "cpu", check_every)
    generator = torch.Generator().manual_seed(1)
    graph = DecodeGraph(rounded_copy(policy_of(), torch.float32), 15, 32, 20, cuts, torch.float32)
    batches = [
        PROMPTS,
        [[1, 2, 3, 4, 5, 6, 8]] * 15,
        [[1, 2, 3], [3, 2, 1], [9, 9, 9]] * 5,
        [[4], [5, 6]] * 7 + [[2]],
        PROMPTS,
    ]
    for seed, prompts in enumerate(batches):
        policy, uniform = policy_of(seed), torch.rand(15, 20, generator=generator)
        with torch.no_grad():
            if seed == 1:
                broken = copy.deepcopy(policy)
                broken.body.final_norm.bias.fill_(torch.nan)
                broken.body.blocks[0].query_key_value.bias.fill_(torch.nan)
                graph.start(broken, *padded_prompts(prompts), uniform)
                graph.step()
            tokens, log_probs = graph.sample(policy, *padded_prompts(prompts), uniform, END)
        expected = sample(policy, prompts, 20, END, cuts, uniform)
        time, mask = expected.tokens.shape[1], expected.mask
        assert expected.ended.any() and tokens.shape[1] >= time
        assert torch.equal(tokens[:, :time][mask], expected.tokens[mask])
        torch.testing.assert_close(
            log_probs[:, :time][mask], expected.log_probs[mask], atol=1e-5, rtol=0
        )


def test_a_recording_serves_its_policy_and_shape_until_the_next(monkeypatch):
    """One at a time, also if the first call is in inference mode, whose tensors nothing else may
    write to."""
    monkeypatch.setattr(DecodeGraph, "record", lambda self: None)
    policy, other, dtype = policy_of(), policy_of(1), torch.float32
    with torch.inference_mode():
        first = recorded(policy, 3, 20, 10, CUTS[0], dtype)
    assert recorded(policy, 3, 32, 10, CUTS[0], dtype) is first  # 20 and 32 columns are one shape
    with torch.no_grad():
        for numbers in (torch.rand(3, 10), torch.rand(3, 10)):
            first.sample(policy, torch.tensor([[1, 2]] * 3), None, numbers, END)
    for changed in (
        (policy, 4, 20, 10, CUTS[0], dtype),
        (policy, 3, 33, 10, CUTS[0], dtype),
        (policy, 3, 20, 11, CUTS[0], dtype),
        (policy, 3, 20, 10, CUTS[1], dtype),
        (policy, 3, 20, 10, CUTS[0], torch.bfloat16),
        (other, 3, 20, 10, CUTS[0], dtype),
    ):
        assert recorded(policy, 3, 20, 10, CUTS[0], dtype) is not recorded(*changed)
        assert len(cuda_graph._latest) == 1
    assert list(cuda_graph._latest) == [other]
    del other, changed
    gc.collect()
    assert not len(cuda_graph._latest)


def test_it_stops_where_all_texts_have_ended(monkeypatch):
    monkeypatch.setitem(cuda_graph.CHECK_EVERY, "cpu", 2)
    policy, uniform = policy_of(), torch.rand(3, 30, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        graph = DecodeGraph(rounded_copy(policy, torch.float32), 3, 32, 30, CUTS[0], torch.float32)
        tokens, _ = graph.sample(policy, torch.tensor([[1, 2]] * 3), None, uniform, END)
    alone = sample(policy, [[1, 2]] * 3, 30, END, randomness=uniform)
    assert alone.ended.all() and tokens.shape[1] == 2 * math.ceil(alone.tokens.shape[1] / 2) < 30


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_cuda])]
)
def test_rounded_weights_give_what_autocast_gives(device, tied):
    """Token by token: the weights of products are rounded either way, and nothing else is."""
    policy = policy_of(tied=tied).to(device)
    tokens = torch.randint(12, (5, 9), device=device)
    with torch.no_grad(), torch.autocast(device, torch.bfloat16):
        assert torch.equal(rounded_copy(policy, torch.bfloat16)(tokens), policy(tokens))


# On a GPU -----------------------------------------------------------------------------------------


@pytest.fixture
def on_cuda() -> Policy:
    yield policy_of().cuda()
    cuda_graph._latest.clear()


def without_recording(
    monkeypatch,
    policy: Policy,
    uniform: Tensor,
    options: SamplingOptions = SamplingOptions(),
    prompts: list[list[int]] = PROMPTS,
) -> Samples:
    """`sample` with the step launched kernel by kernel."""
    with monkeypatch.context() as patch:
        patch.setattr(DecodeGraph, "record", lambda self: None)
        cuda_graph._latest.clear()
        found = sample(policy, prompts, 20, END, options, uniform)
        cuda_graph._latest.clear()
    return found


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("cuts", CUTS)
def test_a_recording_repeats_the_step(monkeypatch, on_cuda, cuts, bfloat16):
    uniform = torch.rand(len(PROMPTS), 20).cuda()
    with torch.autocast("cuda", torch.bfloat16, enabled=bfloat16):
        plain = without_recording(monkeypatch, on_cuda, uniform, cuts)
        for _ in range(2):
            found = sample(on_cuda, PROMPTS, 20, END, cuts, uniform)
            assert torch.equal(found.tokens, plain.tokens) and torch.equal(
                found.log_probs, plain.log_probs
            )
    assert cuda_graph._latest[on_cuda][1].graph is not None


@pytest.mark.gpu
@needs_cuda
def test_a_recording_follows_the_weights(monkeypatch, on_cuda):
    """An optimizer changes them in place; other things may put new ones at other addresses."""
    uniform, found, recordings = torch.rand(len(PROMPTS), 20).cuda(), [], []
    for change in (
        lambda p: None,
        lambda p: p.data.mul_(1.3),
        lambda p: setattr(p, "data", p.data * 1.3),
    ):
        for parameter in on_cuda.parameters():
            change(parameter)
        with torch.autocast("cuda", torch.bfloat16):
            found.append(sample(on_cuda, PROMPTS, 20, END, randomness=uniform))
        recordings.append(cuda_graph._latest[on_cuda][1])
    assert recordings[0] is recordings[1] is recordings[2]
    with torch.autocast("cuda", torch.bfloat16):
        plain = without_recording(monkeypatch, on_cuda, uniform)
    assert torch.equal(found[2].tokens, plain.tokens) and torch.equal(
        found[2].log_probs, plain.log_probs
    )
    for before, after in itertools.pairwise(found):
        assert not torch.equal(before.log_probs[:, :1], after.log_probs[:, :1])


@pytest.mark.gpu
@needs_cuda
def test_shapes_and_policies_take_turns(monkeypatch, on_cuda):
    """Each call replaces the recording of the one before; the texts are those of the step without a
    recording."""
    other = policy_of(1).cuda()
    for _ in range(2):
        for policy, prompts in (
            (on_cuda, PROMPTS),
            (other, PROMPTS),
            (other, PROMPTS[:4]),
            (on_cuda, PROMPTS[:4]),
        ):
            uniform = torch.rand(len(prompts), 20).cuda()
            with torch.inference_mode():
                found = sample(policy, prompts, 20, END, randomness=uniform)
            torch.cuda.empty_cache()
            again = sample(policy, prompts, 20, END, randomness=uniform)
            plain = without_recording(monkeypatch, policy, uniform, prompts=prompts)
            for samples in (found, again):
                assert torch.equal(samples.tokens, plain.tokens) and torch.equal(
                    samples.log_probs, plain.log_probs
                )
