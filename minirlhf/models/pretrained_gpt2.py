"""Published GPT-2 weights in our model, as a Policy.

A checkpoint is a dictionary of tensors under the names that the transformers library gives them.
For each weight of ours a table below says where it comes from; sizes are read off the tensors.

    load_gpt2(folder), or from_gpt2_state_dict(state, heads)

A folder's config.json is checked field by field: checkpoint_settings.py. Each weight of the file is
used or refused by name, but for those in LEFT_OUT.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from minirlhf.models.checkpoint_settings import check_sizes, read_settings
from minirlhf.models.checkpoint_weights import CheckpointWeights, naming
from minirlhf.models.policy import Policy
from minirlhf.models.transformer import TransformerConfig
from minirlhf.system.files import load_tensors

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
# What a file may hold that our model can do without: the causal mask.
LEFT_OUT = r"h\.\d+\.attn\.(bias|masked_bias)"


def load_gpt2(folder: Path) -> Policy:
    """The policy in a folder as transformers' `save_pretrained` makes it of a GPT2LMHeadModel.

    The folder holds config.json and model.safetensors. Raises ValueError, one line, if a file is
    missing or broken, the model is no GPT-2, or it computes otherwise than ours.
    """
    file = Path(folder) / "config.json"
    settings = read_settings(file, ("gpt2",))
    state, _ = load_tensors(Path(folder) / "model.safetensors")
    with naming(folder):
        policy = from_gpt2_state_dict(state, settings["n_head"], settings["tie_word_embeddings"])
    sizes = policy.config
    check_sizes(
        file,
        settings,
        {
            "n_layer": sizes.layers,
            "n_embd": sizes.width,
            "n_inner": 4 * sizes.width,
            "n_positions": sizes.context,
            "n_ctx": sizes.context,
            "vocab_size": sizes.vocab_size,
        },
    )
    return policy


def from_gpt2_state_dict(state: dict[str, Tensor], heads: int, tied: bool | None = None) -> Policy:
    """A Policy with the weights of a GPT-2 checkpoint, named as by transformers' GPT2LMHeadModel.

    `state` maps names ("transformer.wte.weight", "transformer.h.0.attn.c_attn.weight", ...) to
    tensors; the prefix "transformer." may be missing. `heads` cannot be read off the weights (12
    for the smallest GPT-2). `tied`: whether the output layer is the embedding matrix; by default,
    if both are equal or the file holds one of them only.
    Raises ValueError naming a weight that is missing, of another shape, not finite, or not known.
    """
    weights = CheckpointWeights(
        "GPT-2 weights", state, lambda name: name.removeprefix("transformer.")
    )
    if tied:
        weights.merge("lm_head.weight", "wte.weight")
    embedding = weights.take("wte.weight", dimensions=2)
    vocab_size, width = embedding.shape
    context = len(weights.take("wpe.weight", dimensions=2))
    layers = weights.layers("h.")
    if tied is None:
        has_output = weights.has("lm_head.weight")
        tied = not has_output or torch.equal(weights.take("lm_head.weight"), embedding)
    policy = Policy(
        TransformerConfig(vocab_size, context, width, layers, heads, tie_embeddings=tied)
    )

    def source_of(name: str) -> tuple[str, Tensor]:
        if name == "head.weight":
            source = "wte.weight" if tied else "lm_head.weight"
            return source, weights.take(source)
        source = _gpt2_name(name)
        tensor = weights.take(source)
        # GPT-2 stores these matrices as (in, out), nn.Linear as (out, in).
        if ".c_" in source and source.endswith(".weight"):
            tensor = tensor.T
        return source, tensor

    weights.fill(policy, source_of, list(policy.state_dict()))
    weights.check_all_taken(LEFT_OUT)
    return policy


def _gpt2_name(name: str) -> str:
    """ "body.blocks.0.mlp_in.weight" -> "h.0.mlp.c_fc.weight", and so on."""
    parts = name.split(".")  # body, blocks, layer, module, kind; or body, module, kind
    if parts[1] == "blocks":
        return f"h.{parts[2]}.{GPT2_LAYER[parts[3]]}.{parts[4]}"
    return f"{GPT2_BODY[parts[1]]}.{parts[2]}"
