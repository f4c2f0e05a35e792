"""The value model V(s_t) (价值模型) of PPO: the expected reward still to come."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from minirlhf.models.encoder import EncoderReward
from minirlhf.models.reward_model import RewardEnsemble, RewardModel
from minirlhf.models.transformer import Transformer


class ValueModel(nn.Module):
    """V(s_t): the reward still to come, seen from the state (x, y_<t) before token t.

    One linear layer on hidden states, (..., width) to (..., 1): on those of the policy's own body
    (`body` None), or of a separate one. It starts at 0 everywhere.
    """

    def __init__(self, width: int, body: Transformer | None = None):
        super().__init__()
        self.body = body
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, states: Tensor) -> Tensor:
        """V (...,), in float32, of the hidden states (..., width) of the body that it reads."""
        return self.head(states).squeeze(-1).float()

    @classmethod
    def from_reward_model(
        cls, reward_model: RewardModel | EncoderReward | RewardEnsemble
    ) -> ValueModel:
        """A separate value model that starts as the reward model (Ouyang et al. 2022).

        The reward model's score of a prefix is a good first guess of what its text will get. Values
        may be negative, so the sigmoid is replaced by its linearization at 0: 1/2 + logit / 4. Of
        an ensemble the first member is copied; the likelihood that a LikelihoodReward adds is left
        out. Raises ValueError for an encoder: it sees the tokens to come.
        """
        first = reward_model.members[0]
        if not isinstance(first, RewardModel):
            raise ValueError("value model: expected a causal reward model, found an encoder")
        model = cls(first.config.width, copy.deepcopy(first.body).requires_grad_(True))
        with torch.no_grad():
            model.head.weight.copy_(first.score.weight / 4)
            model.head.bias.copy_(first.score.bias / 4 + 0.5)
        return model.to(first.device)
