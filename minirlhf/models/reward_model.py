"""The reward model r_phi(x, y) (奖励模型): a Transformer body, one linear layer, a sigmoid; a score in [0, 1].

Section 4.3 of the text scores the text "as it is so far" after each new token: r_t = r_phi(x, y_1:t). A *causal* body gives all
T of these scores in one pass, since position t sees exactly x and y_1:t. (A bidirectional one would need T passes.)
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from minirlhf.models.policy import Policy, gather_text
from minirlhf.models.transformer import Transformer, TransformerConfig


class RewardModel(nn.Module):
    """Body + linear + sigmoid."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.body = Transformer(config)
        self.score = nn.Linear(config.width, 1)
        nn.init.zeros_(
            self.score.weight
        )  # all texts start at the same score, so the first gradients are calm
        nn.init.zeros_(self.score.bias)

    @classmethod
    def from_policy(cls, policy: Policy) -> RewardModel:
        """A reward model whose body starts as a copy of the pretrained policy's (it already knows the language)."""
        model = cls(policy.config)
        model.body = copy.deepcopy(policy.body).requires_grad_(
            True
        )  # also when the policy is a frozen copy
        return model.to(policy.head.weight.device)

    @property
    def config(self) -> TransformerConfig:
        return self.body.config

    def forward(self, rows: Tensor, valid: Tensor | None = None) -> Tensor:
        """Scores (batch, time) in [0, 1] of every prefix of `rows` (batch, time)."""
        return torch.sigmoid(self.logits(rows, valid))

    def logits(self, rows: Tensor, valid: Tensor | None = None) -> Tensor:
        """The scores before the sigmoid, (batch, time); their differences are what a comparison is about (E8)."""
        return self.score(self.body(rows, valid)).squeeze(-1).float()

    def text_logits(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """Logits (batch,) of rows (batch, columns), of which the first `lengths` (batch,) columns are read."""
        return self.logits(rows).gather(1, lengths[:, None] - 1).squeeze(1)

    def text_scores(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """Scores (batch,) in [0, 1], as `text_logits`."""
        return torch.sigmoid(self.text_logits(rows, lengths))

    def prefix_scores(
        self, rows: Tensor, prompt_lengths: Tensor, time: int
    ) -> tuple[Tensor, Tensor]:
        """(r_0, r): the score of the bare prompt (batch,) and r_t = r_phi(x, y_1:t) (batch, time), in one pass (E4).

        `rows` (batch, prompt + text) are padded behind; `prompt_lengths` (batch,); `time` is the longest text.
        Raises ValueError if the body is bidirectional: its scores of a prefix would see the rest of the text.
        """
        if not self.config.causal:
            raise ValueError("prefix_scores: expected a causal reward model (causal=True)")
        scores = gather_text(self(rows)[:, :, None], prompt_lengths - 1, time + 1).squeeze(-1)
        return scores[:, 0], scores[:, 1:]

    def prefix_logits(self, rows: Tensor, prompt_lengths: Tensor, time: int) -> Tensor:
        """The logits of r_1 .. r_time, (batch, time); as `prefix_scores`."""
        if not self.config.causal:
            raise ValueError("prefix_logits: expected a causal reward model (causal=True)")
        return gather_text(self.logits(rows)[:, :, None], prompt_lengths, time).squeeze(-1)
