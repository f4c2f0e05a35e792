"""The Transformer body: what a position may see, the key-value cache, gradients, and parity with
GPT-2.

The weights are drawn much larger than a fresh model's: attention is far from uniform, so a wrong
mask shows.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from minirlhf.models.policy import Policy
from minirlhf.models.pretrained_gpt2 import from_gpt2_state_dict
from minirlhf.models.transformer import KeyValueCache, Transformer, TransformerConfig

CPU = torch.device("cpu")


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


def body_of(causal: bool = True, seed: int = 0, **sizes: int) -> Transformer:
    sizes = {"vocab_size": 13, "context": 24, "width": 32, "layers": 3, "heads": 4} | sizes
    return randomise(Transformer(TransformerConfig(causal=causal, **sizes)), seed)


def random_tokens(batch: int, time: int, vocab: int = 13, seed: int = 1) -> torch.Tensor:
    return torch.randint(vocab, (batch, time), generator=torch.Generator().manual_seed(seed))


def pad_left(prompts: list[list[int]], filler: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Token rows (batch, time) and `valid` (batch, time), padded on the left with the token
    `filler`."""
    longest = max(map(len, prompts))
    tokens = torch.tensor([[filler] * (longest - len(p)) + p for p in prompts])
    valid = torch.tensor([[False] * (longest - len(p)) + [True] * len(p) for p in prompts])
    return tokens, valid


PROMPTS = [[5], [1, 2, 3, 4, 5, 6, 7], [9, 8, 12], [4, 4, 11, 2, 6]]


# Configuration ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field, value",
    [
        ("vocab_size", 0),
        ("context", -1),
        ("layers", 0),
        ("heads", 2.0),
        ("width", "8"),
        ("width", 9),
    ],
)
def test_config_names_the_bad_field(field, value):
    sizes = {"vocab_size": 13, "context": 8, "width": 8, "layers": 1, "heads": 2} | {field: value}
    with pytest.raises(ValueError, match=f"transformer {field}: expected") as caught:
        TransformerConfig(**sizes)
    assert "\n" not in str(caught.value) and str(value) in str(caught.value)


def test_row_longer_than_context_is_refused():
    body = body_of(context=6)
    with pytest.raises(ValueError, match="context=6 columns, found 7"):
        body(random_tokens(1, 7))
    cache = KeyValueCache(body.config, 1, 6, CPU, torch.float32)
    body(random_tokens(1, 5), None, cache)
    body(random_tokens(1, 1), None, cache)  # the sixth column still fits
    with pytest.raises(ValueError, match="context=6 columns, found 7"):
        body(random_tokens(1, 1), None, cache)


def test_fresh_weights_keep_the_stream_small_at_any_depth():
    torch.manual_seed(0)
    for layers in (2, 8):
        body = Transformer(TransformerConfig(50, 16, 64, layers, 4))
        assert body.token_embedding.weight.std().item() == pytest.approx(0.02, rel=0.1)
        for block in (
            body.blocks
        ):  # 64 x 64 and 64 x 256 draws: the relative standard error of a std is at most 1.1%
            assert block.attention_out.weight.std().item() == pytest.approx(
                0.02 / math.sqrt(2 * layers), rel=0.06
            )
            assert block.mlp_out.weight.std().item() == pytest.approx(
                0.02 / math.sqrt(2 * layers), rel=0.06
            )
            assert block.mlp_in.bias.abs().max() == 0


# What a position may see --------------------------------------------------------------------------


def test_causal_body_is_blind_to_later_tokens():
    body, tokens = body_of(), random_tokens(2, 10)
    before = body(tokens)
    for t in range(1, 10):
        changed = tokens.clone()
        changed[:, t] = (changed[:, t] + 1) % 13
        after = body(changed)
        assert torch.equal(after[:, :t], before[:, :t])  # exact: not one bit of the past moves
        assert ((after - before)[:, t:].abs().amax(-1) > 1e-3).all()  # and all of the future does


def test_causal_gradient_from_later_tokens_is_exactly_zero():
    body, tokens = (
        body_of(),
        torch.arange(8)[None],
    )  # each token once, so its embedding row is its position's own
    for t in range(8):
        body.zero_grad()
        body(tokens)[0, t].square().sum().backward()
        reached = body.token_embedding.weight.grad[:8].abs().amax(-1) > 0
        assert reached.tolist() == [k <= t for k in range(8)]


def test_bidirectional_body_sees_every_token():
    body, tokens = body_of(causal=False), random_tokens(2, 10)
    before = body(tokens)
    for t in range(10):
        changed = tokens.clone()
        changed[:, t] = (changed[:, t] + 1) % 13
        assert ((body(changed) - before).abs().amax(-1) > 1e-3).all()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_has_no_influence(causal, side):
    body = body_of(causal)
    results = []
    for filler in (0, 7):
        tokens, valid = pad_left(PROMPTS, filler)
        if side == "right":
            shifts = [int((~row).sum()) for row in valid]
            tokens = torch.stack([row.roll(-shift) for row, shift in zip(tokens, shifts)])
            valid = torch.stack([row.roll(-shift) for row, shift in zip(valid, shifts)])
        hidden = body(tokens, valid)
        assert hidden.isfinite().all()
        for row, prompt in enumerate(PROMPTS):
            alone = body(torch.tensor([prompt]))[0]
            torch.testing.assert_close(hidden[row, valid[row]], alone, atol=1e-5, rtol=0)
        results.append(hidden[valid])
    assert torch.equal(*results)  # exact: what stands in the padding does not count


def test_causal_body_needs_no_mask_for_padding_behind():
    body = body_of()
    tokens = random_tokens(3, 9)
    torch.testing.assert_close(body(tokens)[:, :5], body(tokens[:, :5]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("causal", [True, False])
def test_padding_gets_no_gradient(causal):
    body = body_of(causal)
    tokens, valid = pad_left(PROMPTS, filler=10)  # token 10 stands only in the padding
    body(tokens, valid)[valid].square().sum().backward()
    assert body.token_embedding.weight.grad[10].abs().max() == 0
    assert body.token_embedding.weight.grad[5].abs().max() > 0
    assert all(weight.grad.isfinite().all() for weight in body.parameters())


# Key-value cache ----------------------------------------------------------------------------------


@pytest.mark.parametrize("prefill, chunk", [(1, 1), (5, 1), (4, 3), (9, 1)])
def test_cache_equals_full_pass(prefill, chunk):
    body, tokens = body_of(), random_tokens(3, 10)
    cache = KeyValueCache(body.config, 3, 10, CPU, torch.float32)
    parts = [body(tokens[:, :prefill], None, cache)]
    for start in range(prefill, 10, chunk):
        parts.append(body(tokens[:, start : start + chunk], None, cache))
    assert cache.length == 10
    torch.testing.assert_close(torch.cat(parts, 1), body(tokens), atol=1e-5, rtol=0)


def test_cache_with_prompts_of_unequal_length_equals_each_alone():
    body, more = body_of(), random_tokens(len(PROMPTS), 6, seed=2)
    tokens, valid = pad_left(PROMPTS)
    cache = KeyValueCache(body.config, len(PROMPTS), 13, CPU, torch.float32)
    parts = [body(tokens, valid, cache)]
    parts += [body(more[:, t : t + 1], None, cache) for t in range(6)]
    hidden = torch.cat(parts, 1)
    assert hidden.isfinite().all()
    for row, prompt in enumerate(PROMPTS):
        alone = body(torch.tensor([prompt + more[row].tolist()]))[0]
        torch.testing.assert_close(hidden[row, 7 - len(prompt) :], alone, atol=1e-5, rtol=0)


def test_keep_rows_in_the_middle_keeps_results_right():
    body, more = body_of(), random_tokens(len(PROMPTS), 8, seed=3)
    tokens, valid = pad_left(PROMPTS)
    cache = KeyValueCache(body.config, len(PROMPTS), 15, CPU, torch.float32)
    body(tokens, valid, cache)
    kept = torch.arange(len(PROMPTS))
    for t, chosen in enumerate(
        [None, None, [0, 2, 3], None, [1, 2], None, [1], None]
    ):  # indices into the rows left
        if chosen is not None:
            cache.keep_rows(torch.tensor(chosen))
            kept = kept[chosen]
        hidden = body(more[kept, t : t + 1], None, cache)[:, -1]
        assert hidden.shape[0] == len(kept) == len(cache.valid)
        for row, original in enumerate(kept.tolist()):
            alone = body(torch.tensor([PROMPTS[original] + more[original, : t + 1].tolist()]))[
                0, -1
            ]
            torch.testing.assert_close(hidden[row], alone, atol=1e-5, rtol=0)
    assert kept.tolist() == [3]


# Gradients ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_gradients_by_finite_differences(causal, padded):
    body = body_of(causal, vocab_size=5, context=4, width=4, layers=2, heads=2).double()
    tokens = torch.tensor([[0, 1, 2], [3, 4, 1]])
    valid = torch.tensor([[False, True, True], [True, True, True]]) if padded else None
    names, weights = zip(
        *((name, weight.detach().requires_grad_()) for name, weight in body.named_parameters())
    )
    # A smooth function that mixes all outputs; the final norm alone would make sums over the width
    # constant.
    direction = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).double()
    if padded:
        direction = direction * valid[:, :, None]

    def scalar(*values):
        return (
            torch.func.functional_call(body, dict(zip(names, values)), (tokens, valid)) * direction
        ).sum()

    assert torch.autograd.gradcheck(scalar, weights, eps=1e-6, atol=1e-7, rtol=1e-4)


# GPT-2 --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def gpt2(request):
    transformers = pytest.importorskip(
        "transformers", reason="transformers is a development dependency"
    )
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=61,
            n_positions=24,
            n_embd=32,
            n_layer=3,
            n_head=4,
            tie_word_embeddings=request.param,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            norm_scale = float(".ln_" in name and name.endswith("weight"))
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2 + norm_scale)
    assert torch.equal(model.lm_head.weight, model.transformer.wte.weight) == request.param
    return model.eval()


def test_gpt2_parity(gpt2):
    policy = from_gpt2_state_dict(gpt2.state_dict(), heads=4)
    assert policy.config == TransformerConfig(
        61, 24, 32, 3, 4, tie_embeddings=gpt2.config.tie_word_embeddings
    )
    tokens = random_tokens(4, 24, vocab=61)
    with torch.no_grad():
        theirs = gpt2(tokens, output_hidden_states=True)
        assert theirs.logits.std() > 0.5  # the weights are large enough for a difference to show
        torch.testing.assert_close(policy(tokens), theirs.logits, atol=1e-4, rtol=0)
        torch.testing.assert_close(policy.body(tokens), theirs.hidden_states[-1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_gpt2_parity_with_padding(gpt2, side):
    policy = from_gpt2_state_dict(gpt2.state_dict(), heads=4)
    tokens, valid = random_tokens(4, 20, vocab=61), torch.ones(4, 20, dtype=torch.bool)
    for row, padding in enumerate([0, 3, 11, 19]):
        columns = slice(0, padding) if side == "left" else slice(20 - padding, 20)
        valid[row, columns] = False
    with torch.no_grad():
        positions = (valid.long().cumsum(1) - 1).clamp(min=0)
        theirs = gpt2(
            tokens, attention_mask=valid.long(), position_ids=positions, output_hidden_states=True
        )
        torch.testing.assert_close(
            policy(tokens, valid)[valid], theirs.logits[valid], atol=1e-4, rtol=0
        )
        torch.testing.assert_close(
            policy.body(tokens, valid)[valid], theirs.hidden_states[-1][valid], atol=1e-4, rtol=0
        )


def test_gpt2_names_without_prefix_and_with_buffers(gpt2):
    """GPT-2 checkpoints on disk have no "transformer." prefix, no lm_head when tied, and old mask
    buffers."""
    state = {
        name.removeprefix("transformer."): tensor for name, tensor in gpt2.state_dict().items()
    }
    if gpt2.config.tie_word_embeddings:
        del state["lm_head.weight"]
    state["h.0.attn.bias"] = torch.ones(1, 1, 24, 24).tril()
    tokens = random_tokens(2, 9, vocab=61)
    with torch.no_grad():
        torch.testing.assert_close(
            from_gpt2_state_dict(state, 4)(tokens), gpt2(tokens).logits, atol=1e-4, rtol=0
        )


def test_gpt2_loader_does_not_share_storage(gpt2):
    policy = from_gpt2_state_dict(gpt2.state_dict(), heads=4)
    theirs = {tensor.data_ptr() for tensor in gpt2.state_dict().values()}
    assert theirs.isdisjoint(weight.data_ptr() for weight in policy.parameters())


WEIGHTS = [
    "wte.weight",
    "wpe.weight",
    "ln_f.bias",
    "h.0.ln_1.weight",
    "h.1.attn.c_attn.weight",
    "h.2.attn.c_proj.bias",
    "h.2.mlp.c_fc.weight",
    "h.0.mlp.c_proj.weight",
    "h.1.ln_2.bias",
]


@pytest.mark.parametrize("name", WEIGHTS)
def test_missing_gpt2_weight_is_named(gpt2, name):
    state = gpt2.state_dict()
    del state[f"transformer.{name}"]
    with pytest.raises(ValueError) as caught:
        from_gpt2_state_dict(state, heads=4)
    assert str(caught.value) == f"GPT-2 weights: {name} is missing"


@pytest.mark.parametrize("name", [*WEIGHTS[2:], "wpe.weight", "lm_head.weight"])
def test_misshaped_gpt2_weight_is_named(gpt2, name):
    state = gpt2.state_dict()
    key = name if name == "lm_head.weight" else f"transformer.{name}"
    state[key] = torch.cat([state[key], state[key]], dim=-1)
    with pytest.raises(
        ValueError, match=f"GPT-2 weights: {name}: expected shape .*, found "
    ) as caught:
        from_gpt2_state_dict(state, heads=4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["wte.weight", "wpe.weight"])
def test_flat_gpt2_embedding_is_named(gpt2, name):
    state = gpt2.state_dict()
    state[f"transformer.{name}"] = state[f"transformer.{name}"].flatten()
    with pytest.raises(ValueError, match=f"GPT-2 weights: {name}: expected shape") as caught:
        from_gpt2_state_dict(state, heads=4)
    assert "\n" not in str(caught.value)


def test_gpt2_layer_gap_and_wrong_heads(gpt2):
    state = {name: tensor for name, tensor in gpt2.state_dict().items() if ".h.1." not in name}
    with pytest.raises(ValueError, match=r"GPT-2 weights: h\.1\..* is missing"):
        from_gpt2_state_dict(state, heads=4)
    with pytest.raises(ValueError, match="multiple of heads=5"):
        from_gpt2_state_dict(gpt2.state_dict(), heads=5)


def test_policy_refuses_a_bidirectional_body():
    with pytest.raises(ValueError, match="causal"):
        Policy(TransformerConfig(13, 8, 8, 1, 2, causal=False))


# CUDA ---------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_cuda_agrees_with_cpu():
    for causal in (True, False):
        body = body_of(causal)
        tokens, valid = pad_left(PROMPTS)
        with torch.no_grad():
            expected = body(tokens, valid)[valid]
            unpadded = body(random_tokens(4, 20))
            body.cuda()
            found = body(tokens.cuda(), valid.cuda())[valid.cuda()]
            torch.testing.assert_close(found.cpu(), expected, atol=1e-3, rtol=0)
            torch.testing.assert_close(
                body(random_tokens(4, 20).cuda()).cpu(), unpadded, atol=1e-3, rtol=0
            )
