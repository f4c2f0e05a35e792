"""Published checkpoints: what changes the computation is read or refused, in one line."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import nn

from minirlhf.models.checkpoint_settings import (
    FIELDS,
    WITHOUT_EFFECT,
    WITHOUT_EFFECT_ANYWHERE,
    read_settings,
)
from minirlhf.models.encoder import EncoderConfig
from minirlhf.models.pretrained_encoder import from_encoder_state_dict, load_encoder
from minirlhf.models.pretrained_gpt2 import from_gpt2_state_dict, load_gpt2
from minirlhf.models.transformer import TransformerConfig

# Names, not classes: transformers imports a class (for seconds) when it is first asked for.
CONFIGS = {"gpt2": "GPT2Config", "bert": "BertConfig", "roberta": "RobertaConfig"}
MASKED = {"bert": "BertForMaskedLM", "roberta": "RobertaForMaskedLM"}
WORDS = "embeddings.word_embeddings.weight"


def randomised(model: nn.Module) -> nn.Module:
    """Weights far from their start, so that no parameter is idle."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    return model.eval()


def class_of(name: str) -> type:
    return getattr(transformers, name)


def encoder_of(kind: str, **changes) -> nn.Module:
    settings = {
        "vocab_size": 41,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 20,
        "max_position_embeddings": 24,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-6,
    }
    return randomised(class_of(MASKED[kind])(class_of(CONFIGS[kind])(**settings | changes)))


def gpt2_of(**changes) -> nn.Module:
    settings = {"vocab_size": 41, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = transformers.GPT2Config(**settings, **ends, **changes)
    return randomised(transformers.GPT2LMHeadModel(config))


def saved(model: nn.Module, folder: Path) -> Path:
    """The folder with config.json and model.safetensors, as `save_pretrained` writes them."""
    (folder / "config.json").write_text(json.dumps(model.config.to_diff_dict()))
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


def edit(folder: Path, **changes) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | changes))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    models = {"gpt2": gpt2_of(), "bert": encoder_of("bert"), "roberta": encoder_of("roberta")}
    return {kind: saved(model, tmp_path_factory.mktemp(kind)) for kind, model in models.items()}


@pytest.fixture(scope="module")
def states() -> dict[str, dict[str, torch.Tensor]]:
    return {
        "gpt2": gpt2_of().state_dict(),
        "bert": encoder_of("bert").state_dict(),
        "roberta": encoder_of("roberta").state_dict(),
    }


def load_state(kind: str, state: dict[str, torch.Tensor], heads=2) -> nn.Module:
    if kind == "gpt2":
        return from_gpt2_state_dict(state, heads)
    return from_encoder_state_dict(state, kind, heads)


def refusal(function, *arguments) -> str:
    """The message with which a call ends; it is one line."""
    with pytest.raises(ValueError) as refused:
        function(*arguments)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# Settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, pad", [("roberta", 0), ("roberta", 1), ("roberta", 6), ("bert", 6)])
def test_parity_wherever_the_padding_token_is(kind, pad, tmp_path):
    model = encoder_of(kind, pad_token_id=pad)
    ours = load_encoder(saved(model, tmp_path))
    assert ours.config.context == 24 - (pad + 1 if kind == "roberta" else 0)
    tokens = torch.randint(7, 41, (3, 12), generator=torch.Generator().manual_seed(1))
    valid = torch.arange(12) < torch.tensor([[12], [5], [1]])
    tokens = tokens.masked_fill(~valid, pad)
    with torch.no_grad():
        theirs = model(tokens, attention_mask=valid.long()).logits
        torch.testing.assert_close(ours(tokens, valid)[valid], theirs[valid], atol=1e-4, rtol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_gpt2_parity_from_a_folder(tied, tmp_path):
    model = gpt2_of(tie_word_embeddings=tied)
    policy = load_gpt2(saved(model, tmp_path))
    assert policy.config == TransformerConfig(41, 24, 16, 2, 2, tie_embeddings=tied)
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(policy(tokens), model(tokens).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_field_that_transformers_writes_is_known(kind):
    known = FIELDS[kind].keys() | WITHOUT_EFFECT[kind] | WITHOUT_EFFECT_ANYWHERE
    assert class_of(CONFIGS[kind])().to_dict().keys() <= known
    assert not FIELDS[kind].keys() & (WITHOUT_EFFECT[kind] | WITHOUT_EFFECT_ANYWHERE)


def test_the_usual_files_are_read(folders, tmp_path):
    """Published ones name norms gamma and beta and hold masks, positions and a second head."""
    state = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma"): tensor.clone()
        for name, tensor in encoder_of("bert").state_dict().items()
        if "decoder" not in name
    }
    state |= {
        "bert.embeddings.position_ids": torch.arange(24)[None],
        "bert.pooler.dense.weight": torch.ones(16, 16),
        "cls.seq_relationship.bias": torch.zeros(2),
    }
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folders["bert"] / "config.json").read_bytes())
    usual = {
        "architectures": ["BertForMaskedLM"],
        "gradient_checkpointing": False,
        "directionality": "bidi",
        "pooler_type": "first_token_transform",
        "position_embedding_type": "absolute",
        "torch_dtype": "float16",
        "_name_or_path": "some/where",
    }
    edit(tmp_path, **usual)
    ours, same = load_encoder(tmp_path).state_dict(), load_encoder(folders["bert"]).state_dict()
    assert all(torch.equal(ours[name], same[name]) for name in same)


REFUSED = {
    "gpt2": {
        "model_type": "bert",
        "n_head": 0,
        "n_layer": 3,
        "n_embd": 32,
        "n_inner": 20,
        "n_positions": 48,
        "n_ctx": 12,
        "vocab_size": 99,
        "activation_function": "relu",
        "layer_norm_epsilon": 1e-3,
        "scale_attn_weights": False,
        "scale_attn_by_inverse_layer_idx": True,
        "reorder_and_upcast_attn": True,
        "tie_word_embeddings": 1,
        "add_cross_attention": True,
        "is_encoder_decoder": True,
        "pruned_heads": {"0": [1]},
        "quantization_config": {"bits": 4},
    },
    "bert": {
        "model_type": "albert",
        "num_attention_heads": "2",
        "num_hidden_layers": 1,
        "hidden_size": 32,
        "intermediate_size": 64,
        "max_position_embeddings": 512,
        "vocab_size": 42,
        "type_vocab_size": 1,
        "hidden_act": "gelu_new",
        "layer_norm_eps": 0,
        "position_embedding_type": "relative_key",
        "is_decoder": True,
        "tie_word_embeddings": False,
        "add_cross_attention": True,
        "is_encoder_decoder": True,
        "pruned_heads": {"0": [1]},
        "quantization_config": {"bits": 4},
    },
}
REFUSED["roberta"] = REFUSED["bert"] | {"pad_token_id": None}
CASES = [(kind, name, value) for kind in REFUSED for name, value in REFUSED[kind].items()]


def test_each_field_of_the_tables_is_tried():
    assert {kind: set(REFUSED[kind]) for kind in REFUSED} == {
        kind: set(FIELDS[kind]) for kind in FIELDS
    }


@pytest.mark.parametrize("kind, name, value", CASES)
def test_a_setting_that_our_model_cannot_follow_is_refused(kind, name, value, folders, tmp_path):
    folder = tmp_path
    for file in ("config.json", "model.safetensors"):
        (folder / file).write_bytes((folders[kind] / file).read_bytes())
    load = load_gpt2 if kind == "gpt2" else load_encoder
    load(folder)
    edit(folder, **{name: value})
    message = refusal(load, folder)
    assert message.startswith(f"{folder / 'config.json'}: {name}: expected ")
    assert message.endswith(f"found {json.dumps(value)}")


@pytest.mark.parametrize(
    "content, words",
    [
        ({"num_attention_heads": True}, "num_attention_heads: expected an integer of at least 1"),
        ({"num_attention_heads": -3}, "num_attention_heads: expected an integer of at least 1"),
        ({"num_attention_heads": 2.0}, "num_attention_heads: expected an integer of at least 1"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps: expected a number above 0, found NaN"),
        ({"layer_norm_eps": "1e-5"}, "layer_norm_eps: expected a number above 0"),
        ({"is_decoder": 0}, "is_decoder: expected false, found 0"),
        ({"pad_token_id": -1}, "pad_token_id: expected an integer of at least 0, found -1"),
        ({"rope_theta": 1e4}, "rope_theta: expected a field of a roberta model"),
        ({"n_head": 2}, "n_head: expected a field of a roberta model"),
        ([], "expected a JSON object, found list"),
    ],
)
def test_other_values_and_fields_are_refused(content, words, folders, tmp_path):
    whole = json.loads((folders["roberta"] / "config.json").read_text())
    file = tmp_path / "config.json"
    file.write_text(json.dumps(whole | content if isinstance(content, dict) else content))
    assert words in refusal(read_settings, file, ("bert", "roberta"))


@pytest.mark.parametrize("name", ["model_type", "num_attention_heads", "layer_norm_eps"])
def test_a_field_that_cannot_be_guessed_must_be_there(name, folders, tmp_path):
    content = json.loads((folders["bert"] / "config.json").read_text())
    del content[name]
    (tmp_path / "config.json").write_text(json.dumps(content))
    message = refusal(read_settings, tmp_path / "config.json", ("bert", "roberta"))
    assert f"config.json: {name}: expected" in message and message.endswith("found none")


def test_a_padding_token_after_the_last_position_is_refused(tmp_path):
    folder = saved(encoder_of("roberta"), tmp_path)
    edit(folder, pad_token_id=23)
    message = refusal(load_encoder, folder)
    assert message.startswith(f"{folder}: roberta weights: embeddings.position_embeddings.weight")
    assert "more than 24 rows (pad_token_id + 1), found 24" in message


# Weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_weight_that_is_not_finite_is_named(kind, states):
    values = itertools.cycle([float("nan"), float("inf"), -float("inf")])
    for name, value in zip(states[kind], values, strict=False):
        if "decoder" in name or "lm_head.weight" in name:
            continue  # second names
        damaged = states[kind][name].clone()
        damaged.view(-1)[-1] = value
        message = refusal(load_state, kind, states[kind] | {name: damaged})
        current = name.removeprefix("transformer.").removeprefix(f"{kind}.")
        assert f" weights: {current}: expected finite numbers, found NaN or inf" in message


@pytest.mark.parametrize(
    "tensor, found",
    [
        (torch.zeros(16, dtype=torch.int8), "torch.int8"),
        ([0.0] * 16, "list"),
        (torch.full((16,), 1e300, dtype=torch.float64), "NaN or inf"),  # too large for float32
    ],
)
def test_a_weight_of_another_type_is_refused(tensor, found, states):
    message = refusal(load_state, "gpt2", states["gpt2"] | {"transformer.ln_f.bias": tensor})
    assert "GPT-2 weights: ln_f.bias: expected" in message and message.endswith(f"found {found}")


@pytest.mark.parametrize(
    "kind, name",
    [
        ("gpt2", "score.weight"),
        ("gpt2", "h.0.crossattention.c_attn.weight"),
        ("gpt2", "h.1.attn.c_attn.bias_2"),
        ("bert", "classifier.weight"),
        ("bert", "lm_head.dense.weight"),
        ("bert", "encoder.layer.0.attention.self.distance_embedding.weight"),
        ("bert", "cls.predictions.extra.weight"),
        ("roberta", "cls.predictions.bias"),
        ("roberta", "cls.seq_relationship.weight"),
        ("roberta", "mlm_head.dense.weight"),
    ],
)
def test_a_weight_without_a_place_is_named(kind, name, states):
    message = refusal(load_state, kind, states[kind] | {name: torch.zeros(16)})
    assert f" weights: {name}: unknown weight" in message


@pytest.mark.parametrize("kind", MASKED)
def test_a_head_is_whole_or_absent(kind, states):
    """No part of a head is replaced by random numbers; without any head a new one is made."""
    prefix = {"bert": "cls.", "roberta": "lm_head."}[kind]
    parts = [name for name in states[kind] if name.startswith(prefix) and "decoder" not in name]
    assert len(parts) == 5
    for part in parts:
        # Under another name, as transformers' own `decoder.bias`: whatever is missing is named.
        moved = {name: tensor for name, tensor in states[kind].items() if "decoder" not in name}
        moved["head_" + part] = moved.pop(part)
        assert f"{kind} weights: {part} is missing" in refusal(load_state, kind, moved)
    body = {name: tensor for name, tensor in states[kind].items() if not name.startswith(prefix)}
    new = load_state(kind, body)
    assert not new.bias.any() and torch.equal(
        new.body.token_embedding.weight, states[kind][f"{kind}.{WORDS}"]
    )


@pytest.mark.parametrize(
    "kind, copy, original",
    [
        ("bert", "cls.predictions.decoder.weight", f"bert.{WORDS}"),
        ("bert", "cls.predictions.decoder.bias", "cls.predictions.bias"),
        ("roberta", "lm_head.decoder.weight", f"roberta.{WORDS}"),
        ("roberta", "lm_head.decoder.bias", "lm_head.bias"),
    ],
)
def test_two_names_of_one_weight(kind, copy, original, states):
    """One of them is enough; two that differ are refused, as only one of them could be used."""
    state = states[kind]
    assert torch.equal(state[copy], state[original])
    whole = load_state(kind, state).state_dict()
    for left_out in (copy, original):
        rest = {name: tensor for name, tensor in state.items() if name != left_out}
        found = load_state(kind, rest).state_dict()
        assert all(torch.equal(found[name], whole[name]) for name in whole)
    message = refusal(load_state, kind, state | {copy: state[copy] + 1})
    name = original.removeprefix(f"{kind}.")
    assert message == f"{kind} weights: {copy}: expected the numbers of {name}, found others"


def test_gpt2s_output_layer_is_tied_as_its_settings_say(states):
    state = states["gpt2"]
    assert from_gpt2_state_dict(state, 2).config.tie_embeddings  # both are equal
    assert not from_gpt2_state_dict(state, 2, tied=False).config.tie_embeddings
    other = state | {"lm_head.weight": state["lm_head.weight"] + 1}
    message = refusal(from_gpt2_state_dict, other, 2, True)
    assert message.endswith("lm_head.weight: expected the numbers of wte.weight, found others")
    alone = {name: tensor for name, tensor in state.items() if name != "transformer.wte.weight"}
    assert from_gpt2_state_dict(alone, 2, tied=True).config.vocab_size == 41
    without = {name: tensor for name, tensor in state.items() if name != "lm_head.weight"}
    assert "lm_head.weight is missing" in refusal(from_gpt2_state_dict, without, 2, False)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_weight_under_two_names_is_refused(kind, states):
    prefix = "transformer." if kind == "gpt2" else f"{kind}."
    name = "wte.weight" if kind == "gpt2" else WORDS
    double = states[kind] | {name: states[kind][prefix + name]}
    assert f"{name}: expected one tensor, found two" in refusal(load_state, kind, double)


@pytest.mark.parametrize("kind", MASKED)
@pytest.mark.parametrize(
    "name",
    [WORDS, "embeddings.position_embeddings.weight", "embeddings.token_type_embeddings.weight"],
)
def test_a_flat_embedding_is_named(kind, name, states):
    flat = states[kind] | {f"{kind}.{name}": torch.zeros(16)}
    flat = {key: tensor for key, tensor in flat.items() if "decoder" not in key}
    message = refusal(load_state, kind, flat)
    assert message == f"{kind} weights: {name}: expected shape (rows, width), found (16,)"


# Sizes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("heads", [0, "3", -3, True, None, 2.0])
def test_heads_that_are_no_count_are_refused(kind, heads, states):
    message = refusal(load_state, kind, states[kind], heads)
    assert f"heads: expected an integer of at least 1, found {heads!r}" in message


def test_a_number_of_heads_that_does_not_divide_the_width(states):
    for kind in CONFIGS:
        assert "expected a multiple of heads=3, found 16" in refusal(
            load_state, kind, states[kind], 3
        )


def test_a_position_offset_that_is_no_count_is_refused(states):
    for offset in ("2", -1):
        message = refusal(from_encoder_state_dict, states["roberta"], "roberta", 2, None, offset)
        assert message == f"position_offset: expected an integer of at least 0, found {offset!r}"


def test_another_kind_is_refused(states):
    assert refusal(load_state, "albert", states["bert"]) == (
        "kind: expected bert or roberta, found 'albert'"
    )


@pytest.mark.parametrize(
    "name, value",
    [
        ("vocab_size", 0),
        ("context", -1),
        ("layers", "2"),
        ("mlp_width", 0),
        ("token_types", 0),
        ("position_offset", -1),
        ("norm_epsilon", 0.0),
        ("norm_epsilon", "1e-5"),
        ("norm_epsilon", float("nan")),
    ],
)
def test_impossible_sizes_of_an_encoder_are_refused(name, value):
    settings = {"vocab_size": 12, name: value}
    with pytest.raises(ValueError, match=f"^encoder {name}: expected .*, found {value!r}$"):
        EncoderConfig(**settings)
