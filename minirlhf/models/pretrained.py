"""BERT's and RoBERTa's published weights, under the names that transformers gives them, into encoder.py."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from minirlhf.models.encoder import EncoderConfig, MaskedLanguageModel
from minirlhf.models.policy import Policy
from minirlhf.models.transformer import TransformerConfig
from minirlhf.system.files import load_tensors

LAYER = {
    "attention_out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp_in": "intermediate.dense",
    "mlp_out": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
EMBEDDINGS = {
    "token_embedding": "word_embeddings",
    "position_embedding": "position_embeddings",
    "type_embedding": "token_type_embeddings",
    "embedding_norm": "LayerNorm",
}
HEADS = {
    "bert": {
        "dense": "cls.predictions.transform.dense",
        "norm": "cls.predictions.transform.LayerNorm",
        "bias": "cls.predictions.bias",
    },
    "roberta": {"dense": "lm_head.dense", "norm": "lm_head.layer_norm", "bias": "lm_head.bias"},
}
OFFSET = {"bert": 0, "roberta": 2}  # RoBERTa's positions begin behind its padding token, which is 1


def load_encoder(folder: Path) -> MaskedLanguageModel:
    """The model in a folder as transformers' `save_pretrained` makes it: config.json and model.safetensors.

    Raises ValueError, one line, if a file is missing or broken or the model is neither BERT nor RoBERTa.
    """
    file = Path(folder) / "config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        kind, heads, epsilon = (
            content["model_type"],
            content["num_attention_heads"],
            content["layer_norm_eps"],
        )
    except OSError as error:
        raise ValueError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file}: expected the settings of a BERT or RoBERTa model, found: {error!r}"
        ) from None
    if kind not in OFFSET:
        raise ValueError(f"{file}: model_type: expected bert or roberta, found {kind!r}")
    if content.get("hidden_act", "gelu") != "gelu":
        raise ValueError(f"{file}: hidden_act: expected gelu, found {content['hidden_act']!r}")
    return from_state_dict(
        load_tensors(Path(folder) / "model.safetensors")[0], kind, heads, epsilon
    )


def from_state_dict(
    state: dict[str, Tensor], kind: str, heads: int, norm_epsilon: float | None = None
) -> MaskedLanguageModel:
    """A MaskedLanguageModel with the weights of a checkpoint of `kind` "bert" or "roberta".

    The prefix "bert." or "roberta." may be missing, norms may be named gamma and beta (BERT's first files). A checkpoint without
    a masked-LM head gives a body with a new head. `heads` is not written in the weights (12 for the base models).
    Raises ValueError naming a weight that is missing or of another shape.
    """
    state = {
        name.removeprefix(f"{kind}.")
        .replace("LayerNorm.gamma", "LayerNorm.weight")
        .replace("LayerNorm.beta", "LayerNorm.bias"): tensor
        for name, tensor in state.items()
    }

    def take(name: str) -> Tensor:
        if name not in state:
            raise ValueError(f"{kind} weights: {name} is missing")
        return state[name]

    vocab_size, width = take("embeddings.word_embeddings.weight").shape
    positions = take("embeddings.position_embeddings.weight")
    layers = len({name.split(".")[2] for name in state if name.startswith("encoder.layer.")})
    if not layers:
        raise ValueError(f"{kind} weights: encoder.layer.0 is missing")
    model = MaskedLanguageModel(
        EncoderConfig(
            vocab_size,
            len(positions) - OFFSET[kind],
            width,
            layers,
            heads,
            len(take("encoder.layer.0.intermediate.dense.bias")),
            len(take("embeddings.token_type_embeddings.weight")),
            OFFSET[kind],
            norm_epsilon or {"bert": 1e-12, "roberta": 1e-5}[kind],
        )
    )
    has_head = HEADS[kind]["bias"] in state
    loaded = {}
    for name, wanted in model.state_dict().items():
        parts = name.split(".")
        if parts[0] != "body":
            if not has_head:
                continue
            source = HEADS[kind][parts[0]] + "".join(f".{part}" for part in parts[1:])
            tensor = take(source)
        elif parts[1] == "blocks":
            before = f"encoder.layer.{parts[2]}"
            if parts[3] == "query_key_value":
                source = f"{before}.attention.self.query.{parts[4]}"
                tensor = torch.cat(
                    [
                        take(f"{before}.attention.self.{part}.{parts[4]}")
                        for part in ("query", "key", "value")
                    ]
                )
            else:
                source = f"{before}.{LAYER[parts[3]]}.{parts[4]}"
                tensor = take(source)
        else:
            source = f"embeddings.{EMBEDDINGS[parts[1]]}.{parts[2]}"
            tensor = take(source)
        if tensor.shape != wanted.shape:
            raise ValueError(
                f"{kind} weights: {source}: expected shape {tuple(wanted.shape)}, found {tuple(tensor.shape)}"
            )
        loaded[name] = tensor
    model.load_state_dict(loaded, strict=has_head)
    return model


def from_gpt2_state_dict(state: dict[str, Tensor], heads: int) -> Policy:
    """A Policy with the weights of a GPT-2 checkpoint, as transformers' GPT2LMHeadModel names them.

    `state` maps names ("transformer.wte.weight", "transformer.h.0.attn.c_attn.weight", ...) to tensors; the prefix
    "transformer." may be missing. `heads` is not written in the weights (12 for the smallest GPT-2).
    Raises ValueError naming a weight that is missing or of another shape.
    """
    state = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
    for name in ("wte.weight", "wpe.weight"):
        if name not in state:
            raise ValueError(f"GPT-2 weights: {name} is missing")
        if state[name].dim() != 2:
            raise ValueError(
                f"GPT-2 weights: {name}: expected shape (rows, width), found {tuple(state[name].shape)}"
            )
    layers = len({name.split(".")[1] for name in state if name.startswith("h.")})
    (vocab_size, width), context = state["wte.weight"].shape, state["wpe.weight"].shape[0]
    tied = "lm_head.weight" not in state or torch.equal(
        state["lm_head.weight"], state["wte.weight"]
    )
    policy = Policy(
        TransformerConfig(vocab_size, context, width, layers, heads, tie_embeddings=tied)
    )

    names = {
        "body.token_embedding": "wte",
        "body.position_embedding": "wpe",
        "body.final_norm": "ln_f",
    }
    for layer in range(layers):
        parts = {
            "attention_norm": "ln_1",
            "query_key_value": "attn.c_attn",
            "attention_out": "attn.c_proj",
            "mlp_norm": "ln_2",
            "mlp_in": "mlp.c_fc",
            "mlp_out": "mlp.c_proj",
        }
        names |= {
            f"body.blocks.{layer}.{ours}": f"h.{layer}.{theirs}" for ours, theirs in parts.items()
        }
    loaded = {}
    for name, wanted in policy.state_dict().items():
        module, _, kind = name.rpartition(".")
        source = (
            f"{names[module]}.{kind}"
            if module in names
            else ("wte.weight" if tied else "lm_head.weight")
        )
        if source not in state:
            raise ValueError(f"GPT-2 weights: {source} is missing")
        tensor = state[source]
        if (
            ".c_" in source and kind == "weight"
        ):  # GPT-2 keeps these as (in, out), nn.Linear as (out, in)
            tensor = tensor.T
        if tensor.shape != wanted.shape:
            raise ValueError(
                f"GPT-2 weights: {source}: expected shape {tuple(wanted.shape)}, found {tuple(tensor.shape)}"
            )
        loaded[name] = tensor
    policy.load_state_dict(loaded)
    return policy
