"""Published weights in our models: GPT-2 as a Policy, BERT and RoBERTa as a MaskedLanguageModel.

Each checkpoint is a dictionary of tensors under the names that the transformers library gives them.
For each weight of ours a table below says where it comes from; sizes are read off the tensors.

    GPT-2           from_gpt2_state_dict(state, heads)
    BERT, RoBERTa   load_encoder(folder), or from_encoder_state_dict(state, kind, heads)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from minirlhf.models.encoder import EncoderConfig, MaskedLanguageModel
from minirlhf.models.policy import Policy
from minirlhf.models.transformer import TransformerConfig
from minirlhf.system.files import load_tensors

Model = TypeVar("Model", bound=nn.Module)

# Our module name -> GPT-2's.
GPT2_BODY = {
    "token_embedding": "wte",
    "position_embedding": "wpe",
    "final_norm": "ln_f",
}
GPT2_LAYER = {
    "attention_norm": "ln_1",
    "query_key_value": "attn.c_attn",
    "attention_out": "attn.c_proj",
    "mlp_norm": "ln_2",
    "mlp_in": "mlp.c_fc",
    "mlp_out": "mlp.c_proj",
}

# Our module name -> BERT's and RoBERTa's.
ENCODER_EMBEDDINGS = {
    "token_embedding": "word_embeddings",
    "position_embedding": "position_embeddings",
    "type_embedding": "token_type_embeddings",
    "embedding_norm": "LayerNorm",
}
ENCODER_LAYER = {
    "attention_out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp_in": "intermediate.dense",
    "mlp_out": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
ENCODER_HEADS = {
    "bert": {
        "dense": "cls.predictions.transform.dense",
        "norm": "cls.predictions.transform.LayerNorm",
        "bias": "cls.predictions.bias",
    },
    "roberta": {"dense": "lm_head.dense", "norm": "lm_head.layer_norm", "bias": "lm_head.bias"},
}
POSITION_OFFSET = {"bert": 0, "roberta": 2}  # RoBERTa's positions start after its padding token, 1
NORM_EPSILON = {"bert": 1e-12, "roberta": 1e-5}  # where no config says otherwise


# GPT-2 --------------------------------------------------------------------------------------------


def from_gpt2_state_dict(state: dict[str, Tensor], heads: int) -> Policy:
    """A Policy with the weights of a GPT-2 checkpoint, named as by transformers' GPT2LMHeadModel.

    `state` maps names ("transformer.wte.weight", "transformer.h.0.attn.c_attn.weight", ...) to
    tensors; the prefix "transformer." may be missing. `heads` cannot be read off the weights (12
    for the smallest GPT-2). Raises ValueError naming a weight that is missing or of another shape.
    """
    state = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
    take = _taker(state, "GPT-2")
    for name in ("wte.weight", "wpe.weight"):
        if take(name).dim() != 2:
            raise ValueError(
                f"GPT-2 weights: {name}: expected shape (rows, width), "
                f"found {tuple(state[name].shape)}"
            )
    vocab_size, width = state["wte.weight"].shape
    context = len(state["wpe.weight"])
    layers = len({name.split(".")[1] for name in state if name.startswith("h.")})
    output = state.get("lm_head.weight")
    tied = output is None or torch.equal(output, state["wte.weight"])
    policy = Policy(
        TransformerConfig(vocab_size, context, width, layers, heads, tie_embeddings=tied)
    )

    def source_of(name: str) -> tuple[str, Tensor]:
        if name == "head.weight":
            source = "wte.weight" if tied else "lm_head.weight"
            return source, take(source)
        source = _gpt2_name(name)
        tensor = take(source)
        # GPT-2 stores these matrices as (in, out), nn.Linear as (out, in).
        if ".c_" in source and source.endswith(".weight"):
            tensor = tensor.T
        return source, tensor

    return _fill(policy, source_of, "GPT-2", list(policy.state_dict()))


def _gpt2_name(name: str) -> str:
    """ "body.blocks.0.mlp_in.weight" -> "h.0.mlp.c_fc.weight", and so on."""
    parts = name.split(".")  # body, blocks, layer, module, kind; or body, module, kind
    if parts[1] == "blocks":
        return f"h.{parts[2]}.{GPT2_LAYER[parts[3]]}.{parts[4]}"
    return f"{GPT2_BODY[parts[1]]}.{parts[2]}"


# BERT and RoBERTa ---------------------------------------------------------------------------------


def load_encoder(folder: Path) -> MaskedLanguageModel:
    """The model in a folder as transformers' `save_pretrained` makes it.

    The folder holds config.json and model.safetensors. Raises ValueError, one line, if a file is
    missing or broken or the model is neither BERT nor RoBERTa.
    """
    file = Path(folder) / "config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        kind = content["model_type"]
        heads = content["num_attention_heads"]
        epsilon = content["layer_norm_eps"]
    except OSError as error:
        raise ValueError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file}: expected the settings of a BERT or RoBERTa model, found: {error!r}"
        ) from None
    if kind not in POSITION_OFFSET:
        raise ValueError(f"{file}: model_type: expected bert or roberta, found {kind!r}")
    if content.get("hidden_act", "gelu") != "gelu":
        raise ValueError(f"{file}: hidden_act: expected gelu, found {content['hidden_act']!r}")
    state, _ = load_tensors(Path(folder) / "model.safetensors")
    return from_encoder_state_dict(state, kind, heads, epsilon)


def from_encoder_state_dict(
    state: dict[str, Tensor], kind: str, heads: int, norm_epsilon: float | None = None
) -> MaskedLanguageModel:
    """A MaskedLanguageModel with the weights of a checkpoint of `kind` "bert" or "roberta".

    The prefix "bert." or "roberta." may be missing, and norms may be named gamma and beta (as in
    BERT's first files). A checkpoint without a masked-LM head gives a body with a new head. `heads`
    cannot be read off the weights (12 for the base models).
    Raises ValueError naming a weight that is missing or of another shape.
    """
    state = {_current_name(name, kind): tensor for name, tensor in state.items()}
    take = _taker(state, kind)
    vocab_size, width = take("embeddings.word_embeddings.weight").shape
    positions = len(take("embeddings.position_embeddings.weight"))
    layers = len({name.split(".")[2] for name in state if name.startswith("encoder.layer.")})
    if not layers:
        raise ValueError(f"{kind} weights: encoder.layer.0 is missing")
    config = EncoderConfig(
        vocab_size=vocab_size,
        context=positions - POSITION_OFFSET[kind],
        width=width,
        layers=layers,
        heads=heads,
        mlp_width=len(take("encoder.layer.0.intermediate.dense.bias")),
        token_types=len(take("embeddings.token_type_embeddings.weight")),
        position_offset=POSITION_OFFSET[kind],
        norm_epsilon=norm_epsilon or NORM_EPSILON[kind],
    )
    model = MaskedLanguageModel(config)

    def source_of(name: str) -> tuple[str, Tensor]:
        source = _encoder_name(name, kind)
        if ".query_key_value." not in name:
            return source, take(source)
        # Three matrices in the checkpoint, one of ours.
        parts = [take(source.replace(".query.", f".{part}.")) for part in ("query", "key", "value")]
        return source, torch.cat(parts)

    has_head = ENCODER_HEADS[kind]["bias"] in state
    names = [name for name in model.state_dict() if has_head or name.startswith("body.")]
    return _fill(model, source_of, kind, names)


def _current_name(name: str, kind: str) -> str:
    """A checkpoint's name without the prefix, and with the names that norms have today."""
    name = name.removeprefix(f"{kind}.")
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
    return name.replace("LayerNorm.beta", "LayerNorm.bias")


def _encoder_name(name: str, kind: str) -> str:
    """ "body.blocks.0.mlp_in.weight" -> "encoder.layer.0.intermediate.dense.weight", and so on."""
    parts = name.split(".")
    if parts[0] != "body":  # the masked-LM head: module, kind; or "bias" alone
        return ".".join([ENCODER_HEADS[kind][parts[0]], *parts[1:]])
    if parts[1] != "blocks":
        return f"embeddings.{ENCODER_EMBEDDINGS[parts[1]]}.{parts[2]}"
    layer = f"encoder.layer.{parts[2]}"
    if parts[3] == "query_key_value":
        return f"{layer}.attention.self.query.{parts[4]}"
    return f"{layer}.{ENCODER_LAYER[parts[3]]}.{parts[4]}"


# Both ---------------------------------------------------------------------------------------------


def _taker(state: dict[str, Tensor], what: str) -> Callable[[str], Tensor]:
    """A function that looks a tensor up and raises ValueError, naming it, if it is missing."""

    def take(name: str) -> Tensor:
        if name not in state:
            raise ValueError(f"{what} weights: {name} is missing")
        return state[name]

    return take


def _fill(
    model: Model, source_of: Callable[[str], tuple[str, Tensor]], what: str, names: list[str]
) -> Model:
    """Fill the model's weights `names`; `source_of` gives each one's (name there, tensor)."""
    ours, loaded = model.state_dict(), {}
    for name in names:
        source, tensor = source_of(name)
        if tensor.shape != ours[name].shape:
            raise ValueError(
                f"{what} weights: {source}: expected shape {tuple(ours[name].shape)}, "
                f"found {tuple(tensor.shape)}"
            )
        loaded[name] = tensor
    model.load_state_dict(loaded, strict=len(names) == len(ours))
    return model
