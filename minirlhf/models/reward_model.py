"""The reward model r_phi(x, y) (奖励模型): a score in [0, 1] for every prefix of a text.

Section 4.3 of the article scores the text "as it is so far" after each new token,
r_t = r_phi(x, y_1:t). A *causal* body gives all T scores in one pass, since position t sees exactly
x and y_1:t. (A bidirectional one, encoder.py, needs T passes.)

An ensemble (奖励模型集成) holds several reward models. Its score is a lower confidence bound, the
mean minus c standard deviations. Members agree on familiar texts and disagree on unfamiliar ones,
so their deviation signals uncertainty, and a policy that is paid the bound gains nothing from texts
that no rater saw.

Sources: Lakshminarayanan et al. 2017 (ensembles as uncertainty); Coste et al. 2023 (against
over-optimisation).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from minirlhf.models.encoder import EncoderConfig, EncoderReward
from minirlhf.models.policy import Policy, gather_text
from minirlhf.models.transformer import Transformer, TransformerConfig


class RewardModel(nn.Module):
    """Transformer body + linear + sigmoid. Its `members` are itself: it is an ensemble of one."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.body = Transformer(config)
        self.score = nn.Linear(config.width, 1)
        # All texts start at the same score, so the first gradients are small.
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    @classmethod
    def from_policy(cls, policy: Policy) -> RewardModel:
        """A reward model whose body starts as a copy of the (pretrained) policy's."""
        model = cls(policy.config)
        # The copy learns even when the policy is frozen.
        model.body = copy.deepcopy(policy.body).requires_grad_(True)
        return model.to(policy.device)

    @property
    def config(self) -> TransformerConfig:
        return self.body.config

    @property
    def device(self) -> torch.device:
        return self.score.weight.device

    @property
    def members(self) -> list[RewardModel]:
        return [self]

    def forward(self, rows: Tensor, valid: Tensor | None = None) -> Tensor:
        """Scores (batch, time) in [0, 1] of every prefix of `rows` (batch, time)."""
        return torch.sigmoid(self.logits(rows, valid))

    def logits(self, rows: Tensor, valid: Tensor | None = None) -> Tensor:
        """The scores before the sigmoid, (batch, time); E8 compares their differences."""
        return self.score(self.body(rows, valid)).squeeze(-1).float()

    def text_logits(
        self, rows: Tensor, lengths: Tensor, prompt_lengths: Tensor | None = None
    ) -> Tensor:
        """Logits (batch,) of the first `lengths` (batch,) columns of rows (batch, columns).

        `prompt_lengths` (batch,) are read by `LikelihoodReward` alone.
        """
        return self.logits(rows).gather(1, lengths[:, None] - 1).squeeze(1)

    def text_scores(
        self, rows: Tensor, lengths: Tensor, prompt_lengths: Tensor | None = None
    ) -> Tensor:
        """Scores (batch,) in [0, 1], as `text_logits`."""
        return torch.sigmoid(self.text_logits(rows, lengths, prompt_lengths))

    def prefix_scores(
        self, rows: Tensor, prompt_lengths: Tensor, time: int, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """r_0, the score of the bare prompt (batch,), and r_t = r_phi(x, y_1:t) (batch, time) (E4).

        One pass. `rows` (batch, prompt + text) are padded on the right; `prompt_lengths` (batch,);
        `time` is the length of the longest text. With `lengths` (batch,), prompt and text without
        padding, padded columns are skipped where that saves time (their scores mean nothing).
        Raises ValueError if the body is bidirectional: its score of a prefix would see the rest
        of the text.
        """
        if not self.config.causal:
            raise ValueError("prefix_scores: expected a causal reward model (causal=True)")
        hidden = self.body(rows) if lengths is None else self.body.by_length(rows, lengths)
        scores = torch.sigmoid(self.score(hidden).float())  # (batch, columns, 1)
        scores = gather_text(scores, prompt_lengths - 1, time + 1).squeeze(-1)
        return scores[:, 0], scores[:, 1:]

    def prefix_logits(self, rows: Tensor, prompt_lengths: Tensor, time: int) -> Tensor:
        """The logits of r_1 .. r_time, (batch, time); as `prefix_scores`."""
        if not self.config.causal:
            raise ValueError("prefix_logits: expected a causal reward model (causal=True)")
        return gather_text(self.logits(rows)[:, :, None], prompt_lengths, time).squeeze(-1)


class RewardEnsemble(nn.Module):
    """Two or more reward models of one shape; scores texts wherever a RewardModel can.

    `conservatism` is c, in standard deviations between members; 0 for the mean alone.
    Raises ValueError for fewer than two members or a negative c.
    """

    members: Sequence[RewardModel | EncoderReward]  # an nn.ModuleList

    def __init__(self, members: Sequence[RewardModel | EncoderReward], conservatism: float = 0.0):
        super().__init__()
        if len(members) < 2:
            raise ValueError(f"ensemble: expected at least 2 reward models, found {len(members)}")
        if not conservatism >= 0:
            raise ValueError(f"conservatism: expected 0 or more, found {conservatism}")
        self.members = cast("Sequence[RewardModel | EncoderReward]", nn.ModuleList(members))
        self.conservatism = conservatism

    @property
    def config(self) -> TransformerConfig | EncoderConfig:
        return self.members[0].config

    @property
    def device(self) -> torch.device:
        return self.members[0].device

    def text_scores(
        self, rows: Tensor, lengths: Tensor, prompt_lengths: Tensor | None = None
    ) -> Tensor:
        """As `RewardModel.text_scores`: (batch,), in [0, 1]."""
        scores = [member.text_scores(rows, lengths, prompt_lengths) for member in self.members]
        return self.lower_confidence_bound(torch.stack(scores))

    def prefix_scores(
        self, rows: Tensor, prompt_lengths: Tensor, time: int, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `RewardModel.prefix_scores`: (batch,) and (batch, time), in [0, 1]."""
        pairs = [
            member.prefix_scores(rows, prompt_lengths, time, lengths) for member in self.members
        ]
        bare = torch.stack([bare for bare, _ in pairs])  # (members, batch)
        scores = torch.stack([scores for _, scores in pairs])  # (members, batch, time)
        return self.lower_confidence_bound(bare), self.lower_confidence_bound(scores)

    def lower_confidence_bound(self, scores: Tensor) -> Tensor:
        """mean - c * (sample) standard deviation, at least 0: (members, ...) to (...)."""
        return (scores.mean(0) - self.conservatism * scores.std(0)).clamp(min=0)
