"""A soft prompt: k learned vectors before the prompt, behind which everything works as without."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from minirlhf.models.cuda_graph import DecodeGraph, rounded_copy
from minirlhf.models.next_token import SamplingOptions
from minirlhf.models.policy import Policy
from minirlhf.models.sampling import sample, stream
from minirlhf.models.soft_prompt import (
    SoftPrompt,
    SoftPromptPolicy,
    base_hash,
    first_vectors,
    is_soft_prompt,
    one_each,
    saved,
    vectors_of,
)
from minirlhf.models.transformer import TransformerConfig
from minirlhf.system.files import load_tensors, save_tensors
from minirlhf.training.rollout import join_rows

END, LENGTH = 7, 3
PROMPTS = [[1, 2, 3], [4], [5, 6], [2, 9]]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def base_of(seed: int = 0) -> Policy:
    torch.manual_seed(seed)
    policy = Policy(TransformerConfig(12, 40, 32, 2, 4))
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.2 * torch.randn_like(weight))  # far from uniform
    return policy


def vectors(seed: int = 1, width: int = 32) -> Tensor:
    return torch.randn(LENGTH, width, generator=torch.Generator().manual_seed(seed))


def uniform(rows: int = len(PROMPTS), time: int = 12) -> Tensor:
    return torch.rand(rows, time, generator=torch.Generator().manual_seed(2))


def test_vectors_that_are_embeddings_do_what_their_tokens_do():
    """Columns, positions (shifted by k) and attention are those of tokens in the same place."""
    base, tokens = base_of(), [8, 3, 10]
    start = first_vectors(base, LENGTH, "demonstration", tokens, torch.Generator())
    policy = SoftPromptPolicy(base, start)
    rows = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    spelled = torch.cat([torch.tensor(tokens).expand(2, -1), rows], dim=1)
    torch.testing.assert_close(policy(rows), base(spelled)[:, LENGTH:], atol=1e-5, rtol=0)
    assert policy.config.context == base.config.context - LENGTH


def test_first_vectors_come_from_where_they_are_asked_to():
    base, generator = base_of(), torch.Generator().manual_seed(0)
    table = base.body.token_embedding.weight.detach()
    shown = first_vectors(base, 5, "demonstration", [8, 3], generator)
    assert torch.equal(shown, table[[8, 3, 8, 3, 8]])
    words = first_vectors(base, 5, "vocabulary", [], generator)
    assert ((words[:, None] - table).abs().amax(2).amin(1) == 0).all()
    noise = first_vectors(base, 500, "random", [], generator)
    assert noise.std() == pytest.approx(table.std().item(), rel=0.05)
    with pytest.raises(ValueError, match="soft prompt: expected a demonstration"):
        first_vectors(base, 5, "demonstration", [], generator)


def test_the_gradient_reaches_the_vectors_alone():
    base = base_of()
    policy = SoftPromptPolicy(base, vectors())
    rows, lengths = join_rows(PROMPTS, [[1, END]] * 4, policy.device)
    tokens = torch.tensor([[1, END]] * 4)
    policy.text_log_probs(rows, lengths, tokens).sum().backward()
    with_gradient = [name for name, p in policy.named_parameters() if p.grad is not None]
    assert with_gradient == ["body.soft_prompt.vectors"]
    assert (policy.soft_prompt.vectors.grad.abs().sum(1) > 0).all()  # each of them
    assert policy.learned is policy.soft_prompt
    assert policy.body.blocks is base.body.blocks and policy.head is base.head  # no second body

    both = SoftPromptPolicy(base, vectors(), frozen_body=False)
    both.text_log_probs(rows, lengths, tokens).sum().backward()
    assert all(p.grad is not None for p in both.parameters()) and both.learned is both


@pytest.mark.parametrize("prompts", [PROMPTS, [[1, 2]] * 4], ids=["left padding", "no padding"])
def test_cached_sampling_gives_the_probabilities_of_forward(prompts):
    policy = SoftPromptPolicy(base_of(), vectors())
    samples = sample(policy, prompts, 12, END, randomness=uniform())
    rows, lengths = join_rows(prompts, samples.ids(), policy.device)
    with torch.no_grad():
        scored = policy.text_log_probs(rows, lengths, samples.tokens, samples.mask)
    torch.testing.assert_close(samples.log_probs, scored, atol=1e-5, rtol=0)
    with torch.no_grad():
        bare = base_of().text_log_probs(rows, lengths, samples.tokens, samples.mask)
    assert (bare - scored).abs().max() > 0.1  # the vectors matter
    for row, prompt in enumerate(prompts):
        alone = stream(policy, prompt, 12, END, randomness=uniform()[row : row + 1])
        assert list(alone) == samples.ids()[row]


def same_as_the_loop(policy: Policy, graph: DecodeGraph, device: str) -> None:
    padded = torch.tensor([[0] * (3 - len(prompt)) + prompt for prompt in PROMPTS], device=device)
    valid = torch.tensor(
        [[False] * (3 - len(prompt)) + [True] * len(prompt) for prompt in PROMPTS], device=device
    )
    with torch.no_grad():
        tokens, _ = graph.sample(policy, padded, valid, uniform().to(device), END)
    expected = sample(policy.cpu(), PROMPTS, 12, END, randomness=uniform())
    mask = expected.mask
    assert torch.equal(tokens.cpu()[:, : mask.shape[1]][mask], expected.tokens[mask])


@pytest.mark.parametrize("own", [False, True])
def test_the_step_in_place_writes_what_the_loop_writes(own):
    policy: Policy = SoftPromptPolicy(base_of(), vectors())
    if own:
        policy = one_each(base_of(), [SoftPrompt(vectors(seed)) for seed in range(4)])
    copy = rounded_copy(policy, torch.float32)
    graph = DecodeGraph(copy, 4, 32, 12, SamplingOptions(), torch.float32)
    same_as_the_loop(policy, graph, "cpu")


@needs_cuda
@pytest.mark.gpu
def test_recorded_on_a_gpu_too():
    policy = SoftPromptPolicy(base_of(), vectors()).cuda()
    copy = rounded_copy(policy, torch.float32)
    graph = DecodeGraph(copy, 4, 32, 12, SamplingOptions(), torch.float32)
    graph.record()
    same_as_the_loop(policy, graph, "cuda")


def test_each_row_of_a_batch_may_have_a_prompt_of_its_own():
    base, prompts = base_of(), [SoftPrompt(vectors(seed)) for seed in range(4)]
    together = sample(one_each(base, prompts), PROMPTS, 12, END, randomness=uniform()).ids()
    for row, prompt in enumerate(PROMPTS):
        alone = SoftPromptPolicy(base, prompts[row].vectors)
        numbers = uniform()[row : row + 1]
        assert sample(alone, [prompt], 12, END, randomness=numbers).ids() == [together[row]]
    with pytest.raises(ValueError, match=r"one per row of the batch \(2\), found 4"):
        one_each(base, prompts)(torch.tensor([[1], [2]]))
    with pytest.raises(ValueError, match="vectors of one length, found 2 and 3"):
        one_each(base, [prompts[0], SoftPrompt(torch.zeros(2, 32))])


def test_rows_of_different_length_are_scored_alike():
    """More rows than a CPU takes at once: they are grouped by length, also behind prompts."""
    policy = SoftPromptPolicy(base_of(), vectors())
    rows = torch.randint(12, (40, 20), generator=torch.Generator().manual_seed(0))
    lengths = torch.arange(40) % 20 + 1
    with torch.no_grad():
        found, whole = policy.body.by_length(rows, lengths), policy.body(rows)
    real = torch.arange(20) < lengths[:, None]
    torch.testing.assert_close(found[real], whole[real], atol=1e-5, rtol=0)


# Files -------------------------------------------------------------------------------------------


def test_a_file_holds_the_vectors_and_the_hash_of_their_base(tmp_path):
    base, path = base_of(), tmp_path / "p.safetensors"
    save_tensors(path, *saved(SoftPromptPolicy(base, vectors())))
    tensors, header = load_tensors(path)
    assert is_soft_prompt(header) and path.stat().st_size < 1000
    assert torch.equal(vectors_of(tensors, header, base, "p"), vectors())
    # Of a policy with another prompt the base is the same; of other weights it is not.
    assert base_hash(SoftPromptPolicy(base, vectors(5))) == header["base"] == base_hash(base)
    with pytest.raises(ValueError, match=r"^p: expected a soft prompt of this base \(sha256 "):
        vectors_of(tensors, header, base_of(1), "p")
    with pytest.raises(ValueError, match=r"^p: expected vectors of shape \(4, 32\), found"):
        vectors_of(tensors, header | {"length": 4}, base, "p")
    with pytest.raises(ValueError, match="^p: vectors: expected finite numbers"):
        vectors_of({"vectors": vectors() * torch.nan}, header, base, "p")


def test_vectors_that_do_not_fit_are_refused():
    base = base_of()
    with pytest.raises(ValueError, match="expected vectors of width 32, found 16"):
        SoftPromptPolicy(base, vectors(width=16))
    with pytest.raises(ValueError, match="at most 38 vectors.*context of 40, found 39"):
        SoftPromptPolicy(base, torch.zeros(39, 32))
    policy = SoftPromptPolicy(base, vectors())
    with pytest.raises(ValueError, match="exceed context=37"):
        sample(policy, [[1]], 37, END)
    assert dataclasses.replace(base.config, context=37) == policy.config
