"""From settings to models with random weights: the one place that turns a ModelConfig into sizes.

`vocab_size` is the tokenizer's everywhere. An encoder has two tokens more, at the end of the
vocabulary: the classification token and the mask token.
"""

from __future__ import annotations

from minirlhf.config import ModelConfig, RewardConfig
from minirlhf.models.encoder import Encoder, EncoderConfig, EncoderReward, MaskedLanguageModel
from minirlhf.models.likelihood_reward import LikelihoodReward
from minirlhf.models.policy import Policy
from minirlhf.models.reward_model import RewardEnsemble, RewardModel
from minirlhf.models.transformer import TransformerConfig


def transformer_config(model: ModelConfig, vocab_size: int) -> TransformerConfig:
    """The causal body of the policy and of the reward model."""
    return TransformerConfig(
        vocab_size=vocab_size,
        context=model.context,
        width=model.width,
        layers=model.layers,
        heads=model.heads,
        tie_embeddings=model.tie_embeddings,
    )


def class_id(vocab_size: int) -> int:
    """The encoder's classification token, which stands in front of every row."""
    return vocab_size


def mask_id(vocab_size: int) -> int:
    """The token that hides another one in masked-LM pretraining."""
    return vocab_size + 1


def encoder_config(model: ModelConfig, vocab_size: int) -> EncoderConfig:
    """A bidirectional body of the same size, one column longer for the classification token.

    `tie_embeddings` is not asked: a masked language model's output layer always reuses the
    embedding matrix.
    """
    return EncoderConfig(
        vocab_size=vocab_size + 2,
        context=model.context + 1,
        width=model.width,
        layers=model.layers,
        heads=model.heads,
        mlp_width=4 * model.width,
    )


def new_policy(model: ModelConfig, vocab_size: int) -> Policy:
    return Policy(transformer_config(model, vocab_size))


def new_masked_language_model(model: ModelConfig, vocab_size: int) -> MaskedLanguageModel:
    return MaskedLanguageModel(encoder_config(model, vocab_size))


def new_reward_model(
    model: ModelConfig, reward: RewardConfig, vocab_size: int, conservatism: float = 0.0
) -> RewardModel | EncoderReward | RewardEnsemble:
    """One reward model, or an ensemble of `reward.ensemble` of them.

    `conservatism` is the ensemble's c; see reward_model.py.
    """
    members = [_reward_member(model, reward, vocab_size) for _ in range(reward.ensemble)]
    return members[0] if len(members) == 1 else RewardEnsemble(members, conservatism)


def _reward_member(
    model: ModelConfig, reward: RewardConfig, vocab_size: int
) -> RewardModel | EncoderReward:
    if reward.body == "encoder":
        return EncoderReward(Encoder(encoder_config(model, vocab_size)), class_id(vocab_size))
    kind = LikelihoodReward if reward.likelihood else RewardModel
    return kind(transformer_config(model, vocab_size))
