"""Settings become models of the sizes that they name."""

from __future__ import annotations

import pytest
import torch

from minirlhf.config import ModelConfig, RewardConfig
from minirlhf.models import build
from minirlhf.models.encoder import EncoderReward
from minirlhf.models.reward_model import RewardEnsemble, RewardModel

SIZES = ModelConfig(context=24, width=16, layers=2, heads=4, tie_embeddings=False)


def test_policy_and_encoder_have_the_sizes_asked_for():
    policy = build.new_policy(SIZES, vocab_size=50)
    config = policy.config
    assert (config.vocab_size, config.context, config.width) == (50, 24, 16)
    assert (config.layers, config.heads, config.causal, config.tie_embeddings) == (
        2,
        4,
        True,
        False,
    )
    encoder = build.new_masked_language_model(SIZES, vocab_size=50).config
    assert (encoder.vocab_size, encoder.context, encoder.mlp_width) == (52, 25, 64)
    assert {build.class_id(50), build.mask_id(50)} == {50, 51}


@pytest.mark.parametrize("body, kind", [("causal", RewardModel), ("encoder", EncoderReward)])
def test_one_reward_model_or_an_ensemble(body, kind):
    one = build.new_reward_model(SIZES, RewardConfig(body=body), vocab_size=50)
    assert type(one) is kind and one.members == [one]
    three = build.new_reward_model(SIZES, RewardConfig(body=body, ensemble=3), 50, conservatism=2.0)
    assert type(three) is RewardEnsemble and three.conservatism == 2.0
    assert [type(member) for member in three.members] == [kind] * 3
    assert one.device == three.device == torch.device("cpu")


def test_members_differ():
    ensemble = build.new_reward_model(SIZES, RewardConfig(ensemble=2), vocab_size=50)
    first, second = (member.body.token_embedding.weight for member in ensemble.members)
    assert not torch.equal(first, second)
