"""Published BERT and RoBERTa weights in our model, as a MaskedLanguageModel.

As pretrained_gpt2.py, with two kinds of names:

    load_encoder(folder), or from_encoder_state_dict(state, kind, heads)
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from minirlhf.models.checkpoint_settings import check_sizes, read_settings
from minirlhf.models.checkpoint_weights import CheckpointWeights, naming
from minirlhf.models.encoder import EncoderConfig, MaskedLanguageModel
from minirlhf.models.transformer import check_count
from minirlhf.system.files import load_tensors

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
ENCODER_COPIES = {  # a weight of the head -> the weight that it is a second name of
    "bert": {
        "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    "roberta": {
        "lm_head.decoder.weight": "embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
}
HEAD_PREFIX = {"bert": "cls.predictions.", "roberta": "lm_head."}
POSITION_OFFSET = {"bert": 0, "roberta": 2}  # RoBERTa's positions start after its padding token, 1
NORM_EPSILON = {"bert": 1e-12, "roberta": 1e-5}  # where no config says otherwise

# What a file may hold that our models can do without: positions and segments that follow from the
# sizes; BERT's pooler and next-sentence head, which predict whether one segment follows the other.
BUFFERS = r"embeddings\.(position_ids|token_type_ids)"
LEFT_OUT = {
    "bert": rf"{BUFFERS}|(pooler\.dense|cls\.seq_relationship)\.(weight|bias)",
    "roberta": rf"{BUFFERS}|pooler\.dense\.(weight|bias)",
}


def load_encoder(folder: Path) -> MaskedLanguageModel:
    """The model in a folder as transformers' `save_pretrained` makes it.

    The folder holds config.json and model.safetensors. BERT's pooler and next-sentence head are
    left out: ours has none. Raises ValueError, one line, if a file is
    missing or broken, the model is neither BERT nor RoBERTa, or it computes otherwise than ours.
    """
    file = Path(folder) / "config.json"
    settings = read_settings(file, ("bert", "roberta"))
    kind = settings["model_type"]
    state, _ = load_tensors(Path(folder) / "model.safetensors")
    with naming(folder):
        model = from_encoder_state_dict(
            state,
            kind,
            settings["num_attention_heads"],
            settings["layer_norm_eps"],
            position_offset=settings["pad_token_id"] + 1 if kind == "roberta" else 0,
        )
    sizes = model.config
    check_sizes(
        file,
        settings,
        {
            "num_hidden_layers": sizes.layers,
            "hidden_size": sizes.width,
            "intermediate_size": sizes.mlp_width,
            "max_position_embeddings": sizes.position_offset + sizes.context,
            "type_vocab_size": sizes.token_types,
            "vocab_size": sizes.vocab_size,
        },
    )
    return model


def from_encoder_state_dict(
    state: dict[str, Tensor],
    kind: str,
    heads: int,
    norm_epsilon: float | None = None,
    position_offset: int | None = None,
) -> MaskedLanguageModel:
    """A MaskedLanguageModel with the weights of a checkpoint of `kind` "bert" or "roberta".

    The prefix "bert." or "roberta." may be missing, and norms may be named gamma and beta (as in
    BERT's first files). A checkpoint without any masked-LM head gives a body with a new head; of a
    head that is there, no part may be missing. `heads` cannot be read off the weights (12 for the
    base models). `position_offset`: the position of the first token, RoBERTa's pad_token_id + 1.
    Raises ValueError naming a weight that is missing, of another shape, not finite, or not known.
    """
    if kind not in POSITION_OFFSET:
        raise ValueError(f"kind: expected bert or roberta, found {kind!r}")
    offset = POSITION_OFFSET[kind] if position_offset is None else position_offset
    check_count("position_offset", offset, at_least=0)
    weights = CheckpointWeights(f"{kind} weights", state, lambda name: _current_name(name, kind))
    has_head = weights.has(HEAD_PREFIX[kind])
    for copy, original in ENCODER_COPIES[kind].items():
        weights.merge(copy, original)
    vocab_size, width = weights.take("embeddings.word_embeddings.weight", dimensions=2).shape
    positions = len(weights.take("embeddings.position_embeddings.weight", dimensions=2))
    if positions <= offset:
        raise weights.fault(
            "embeddings.position_embeddings.weight",
            f"expected more than {offset} rows (pad_token_id + 1), found {positions}",
        )
    config = EncoderConfig(
        vocab_size=vocab_size,
        context=positions - offset,
        width=width,
        layers=weights.layers("encoder.layer."),
        heads=heads,
        mlp_width=len(weights.take("encoder.layer.0.intermediate.dense.bias", dimensions=1)),
        token_types=len(weights.take("embeddings.token_type_embeddings.weight", dimensions=2)),
        position_offset=offset,
        norm_epsilon=NORM_EPSILON[kind] if norm_epsilon is None else norm_epsilon,
    )
    model = MaskedLanguageModel(config)

    def source_of(name: str) -> tuple[str, Tensor]:
        source = _encoder_name(name, kind)
        if ".query_key_value." not in name:
            return source, weights.take(source)
        # Three matrices in the checkpoint, one of ours.
        names = [source.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        return source, torch.cat([weights.take(name) for name in names])

    names = [name for name in model.state_dict() if has_head or name.startswith("body.")]
    weights.fill(model, source_of, names)
    weights.check_all_taken(LEFT_OUT[kind])
    return model


def _current_name(name: str, kind: str) -> str:
    """A checkpoint's name without the prefix, and with the names that norms have today."""
    name = name.removeprefix(f"{kind}.")
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


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
