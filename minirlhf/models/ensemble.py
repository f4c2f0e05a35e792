"""Several reward models, one careful score (奖励模型集成): mean minus c times the deviation.

Where the members agree they know; where the policy has wandered off to texts that no rater saw, each is wrong in its own way, and
their deviation says so. A policy that is paid the lower bound gains nothing from such texts.
Sources: Lakshminarayanan et al. 2017 (ensembles as uncertainty); Coste et al. 2023 (against over-optimisation).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minirlhf.models.reward_model import RewardModel
from minirlhf.models.transformer import TransformerConfig


class RewardEnsemble(nn.Module):
    """k members of one shape; stands wherever a RewardModel is asked for scores. `conservatism` is c, 0 for the mean alone."""

    def __init__(self, members: Sequence[RewardModel], conservatism: float = 0.0):
        super().__init__()
        if len(members) < 2:
            raise ValueError(f"ensemble: expected at least 2 reward models, found {len(members)}")
        if not conservatism >= 0:
            raise ValueError(f"conservatism: expected 0 or more, found {conservatism}")
        self.members, self.conservatism = nn.ModuleList(members), conservatism

    @property
    def config(self) -> TransformerConfig:
        return self.members[0].config

    @property
    def body(self) -> nn.Module:
        """The first member's body: PPO's value function may start as a copy of it."""
        return self.members[0].body

    @property
    def score(self) -> nn.Linear:
        """The first member's head: it says on which device the ensemble is."""
        return self.members[0].score

    def text_scores(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """As `RewardModel.text_scores`: (batch,), in [0, 1]."""
        return self._careful(
            torch.stack([member.text_scores(rows, lengths) for member in self.members])
        )

    def prefix_scores(
        self, rows: Tensor, prompt_lengths: Tensor, time: int
    ) -> tuple[Tensor, Tensor]:
        """As `RewardModel.prefix_scores`: (batch,) and (batch, time), in [0, 1]."""
        bare, scores = zip(
            *(member.prefix_scores(rows, prompt_lengths, time) for member in self.members)
        )
        return self._careful(torch.stack(bare)), self._careful(torch.stack(scores))

    def _careful(self, scores: Tensor) -> Tensor:
        """(members, ...) to (...); the deviation is that of a sample (k - 1)."""
        return (scores.mean(0) - self.conservatism * scores.std(0)).clamp(min=0)


def members_of(model: RewardModel | RewardEnsemble) -> list[RewardModel]:
    return list(model.members) if isinstance(model, RewardEnsemble) else [model]
