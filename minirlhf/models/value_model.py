"""TODO"""

from __future__ import annotations

import copy

import torch
from torch import nn

from minirlhf.models.reward_model import RewardModel


class ValueModel(nn.Module):
    """V(s_t): the reward still to come, seen from the state (x, y_<t) before token t.

    One linear layer on hidden states: those of the policy's own body (`body` None), or of a separate one.
    """

    def __init__(self, width: int, body: nn.Module | None = None):
        super().__init__()
        self.body = body
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @classmethod
    def from_reward_model(cls, reward_model: RewardModel) -> ValueModel:
        """A separate value model that starts as the reward model (Ouyang et al. 2022), whose score of a prefix is a good first
        guess of what its text will get. Values may be negative, so the sigmoid gives way to its tangent at 1/2."""
        model = cls(
            reward_model.config.width, copy.deepcopy(reward_model.body).requires_grad_(True)
        )
        with torch.no_grad():
            model.head.weight.copy_(reward_model.score.weight / 4)
            model.head.bias.copy_(reward_model.score.bias / 4 + 0.5)
        return model.to(reward_model.score.weight.device)
