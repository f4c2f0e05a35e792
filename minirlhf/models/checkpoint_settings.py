"""config.json of a published GPT-2, BERT or RoBERTa: each field is read or refused.

A table for each kind of model says what its fields may hold. Fields are of four sorts:

    read             our model takes the value: the number of heads, the norms' epsilon, ...
    sizes            must agree with the weights, from which our models take their sizes
    fixed            only the value with which our models compute the same is accepted
    without effect   on what a trained model computes: dropout, how to sample, names of labels, ...

A field that stands in no table is refused: it may change the computation. A missing field has the
value that the transformers library assumes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minirlhf.system.files import read_json, unreadable


@dataclass(frozen=True)
class Field:
    """What a field may hold: in words, and as a function. `default`: its value if missing."""

    expected: str
    fits: Callable[[Any], bool]
    default: Any = None
    required: bool = False


def only(*values: Any) -> Field:
    """One of `values`, the first of which is the default."""

    def fits(found: Any) -> bool:
        # In Python True == 1, in a config.json not.
        return any(type(found) is type(value) and found == value for value in values)

    return Field(" or ".join(json.dumps(value) for value in values), fits, values[0])


def is_whole(value: Any, at_least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= at_least


def is_positive(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and 0 < value and math.isfinite(value)


SIZE = Field("an integer of at least 1", lambda value: is_whole(value, 1))
HEADS = replace(SIZE, required=True)  # cannot be read off the weights
OPTIONAL_SIZE = Field(f"null or {SIZE.expected}", lambda value: value is None or SIZE.fits(value))

ALL = {
    "add_cross_attention": only(False),
    "is_encoder_decoder": only(False),
    "pruned_heads": only({}, None),
    "quantization_config": only(None),
}
GPT2 = ALL | {
    "model_type": only("gpt2"),
    "n_head": HEADS,
    "n_layer": SIZE,
    "n_embd": SIZE,
    "n_inner": OPTIONAL_SIZE,
    "n_positions": SIZE,
    "n_ctx": SIZE,  # n_positions in the first files
    "vocab_size": SIZE,
    "activation_function": only("gelu_new", "gelu_pytorch_tanh"),  # two names of one function
    "layer_norm_epsilon": only(1e-5),
    "scale_attn_weights": only(True),
    "scale_attn_by_inverse_layer_idx": only(False),
    "reorder_and_upcast_attn": only(False),
    "tie_word_embeddings": only(True, False),
}
ENCODER = ALL | {
    "num_attention_heads": HEADS,
    "num_hidden_layers": SIZE,
    "hidden_size": SIZE,
    "intermediate_size": SIZE,
    "max_position_embeddings": SIZE,
    "vocab_size": SIZE,
    "type_vocab_size": SIZE,
    "hidden_act": only("gelu"),
    "layer_norm_eps": Field("a number above 0", is_positive, required=True),
    "position_embedding_type": only("absolute"),
    "is_decoder": only(False),  # True: causal attention
    "tie_word_embeddings": only(True),
}
FIELDS = {
    "gpt2": GPT2,
    "bert": ENCODER | {"model_type": only("bert")},
    "roberta": ENCODER
    | {
        "model_type": only("roberta"),
        # Positions begin after it.
        "pad_token_id": Field("an integer of at least 0", lambda value: is_whole(value, 0), 1),
    },
}

# Our models have no dropout, and are loaded in float32. GPT-2 is causal with is_decoder or without,
# BERT's padding is masked whatever its token.
WITHOUT_EFFECT = {
    "gpt2": {"is_decoder", "pad_token_id"},
    "bert": {"pad_token_id"},
    "roberta": set[str](),
}
WITHOUT_EFFECT_ANYWHERE = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _commit_hash _name_or_path _num_labels
    architectures attention_probs_dropout_prob attn_pdrop classifier_dropout embd_pdrop
    hidden_dropout_prob resid_pdrop bos_token_id eos_token_id sep_token_id mask_token_id
    cls_token_id chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id
    directionality dtype torch_dtype finetuning_task gradient_checkpointing id2label label2id
    initializer_range language name num_labels output_attentions output_hidden_states output_past
    pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type
    predict_special_tokens prefix problem_type return_dict summary_activation
    summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
    task_specific_params tf_legacy_loss tie_encoder_decoder tokenizer_class torchscript
    transformers_version use_bfloat16 use_cache
    bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping
    encoder_no_repeat_ngram_size exponential_decay_length_penalty forced_bos_token_id
    forced_eos_token_id length_penalty max_length min_length no_repeat_ngram_size num_beam_groups
    num_beams num_return_sequences output_scores remove_invalid_values repetition_penalty
    return_dict_in_generate suppress_tokens temperature top_k top_p typical_p
    """.split()
)


def read_settings(file: Path, kinds: tuple[str, ...]) -> dict[str, Any]:
    """The fields of a config.json whose model_type is one of `kinds`; missing ones by default.

    Raises ValueError, one line naming file and field, if the file cannot be read, a field is
    missing that must be there, or one has a value with which our models would compute otherwise.
    """
    try:
        content = read_json(file)
    except FileNotFoundError as error:
        raise unreadable(file, error) from None
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected a JSON object, found {type(content).__name__}")
    kind = _checked(file, "model_type", replace(only(*kinds), required=True), content)
    fields = FIELDS[kind]
    unknown = content.keys() - fields.keys() - WITHOUT_EFFECT[kind] - WITHOUT_EFFECT_ANYWHERE
    if unknown:
        raise ValueError(
            f"{file}: {min(unknown)}: expected a field of a {kind} model, found an unknown one, "
            "which may change what the model computes"
        )
    return {name: _checked(file, name, field, content) for name, field in fields.items()}


def _checked(file: Path, name: str, field: Field, content: dict[str, Any]) -> Any:
    """The field's value; raises ValueError if it does not fit."""
    if name not in content and not field.required:
        return field.default
    found = json.dumps(content[name])[:60] if name in content else "none"
    if name not in content or not field.fits(content[name]):
        raise ValueError(f"{file}: {name}: expected {field.expected}, found {found}")
    return content[name]


def check_sizes(file: Path, settings: dict[str, Any], of_weights: dict[str, int]) -> None:
    """Compare the sizes in a config.json with those of the weights, by the name of the field.

    A missing field agrees. Raises ValueError naming the first that does not.
    """
    for name, size in of_weights.items():
        if settings[name] not in (None, size):
            raise ValueError(
                f"{file}: {name}: expected {size}, as the weights have it, found {settings[name]}"
            )
