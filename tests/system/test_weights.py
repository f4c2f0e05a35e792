"""A module filled from a dictionary of tensors: what does not fit is named."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from minirlhf.models.reward_model import RewardEnsemble, RewardModel
from minirlhf.models.transformer import TransformerConfig
from minirlhf.system.weights import load_weights, weights


@pytest.mark.parametrize(
    "change, words",
    [
        ({"0.weight": torch.zeros(2, 3)}, r"0\.weight: expected shape \(3, 2\), found \(2, 3\)"),
        ({"0.bias": torch.full((3,), torch.nan)}, r"0\.bias: expected finite numbers"),
        ({"0.scale": torch.ones(3)}, r"0\.scale: unknown to a model of these settings"),
        ({"1.weight": torch.ones(3, 3)}, r"1\.weight: unknown to a model of these settings"),
    ],
)
def test_a_weight_that_does_not_fit_is_named(change, words):
    module = nn.Sequential(nn.Linear(2, 3))
    before = module[0].weight.clone()
    state = {"0.weight": torch.ones(3, 2), "0.bias": torch.ones(3)} | change
    with pytest.raises(ValueError, match=f"^file: weight {words}"):
        load_weights(module, state, "file")
    assert torch.equal(module[0].weight, before)


def test_a_larger_ensemble_is_not_cut_down():
    """The members that a model has no place for are refused, not left out."""
    config = TransformerConfig(12, 8, 8, 1, 2)
    three, two = (RewardEnsemble([RewardModel(config) for _ in range(n)], 0.0) for n in (3, 2))
    with pytest.raises(ValueError, match=r"weight members\.2\..*: unknown"):
        load_weights(two, weights(three), "reward.safetensors")
