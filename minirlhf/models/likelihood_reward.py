"""A reward model that also reads how likely the text is (奖励模型 with a likelihood term).

    f(x, y_1:t) = score of the last hidden state + w (1/t) sum_{k<=t} log p(y_k | x, y_<k)

p is the language model inside it: its body, with the embeddings as output layer. Both start as
those of the policy, which after supervised fine-tuning knows what an answer to this prompt looks
like. The last hidden state does not tell, as it was trained to predict the *next* token: a reward
model without the term took an answer to a similar question for a good one. Body and w learn from
the rankings, so p becomes a judge of answers and is no longer the policy's.

Source: our own measurement (benchmarks/README.md, assistant). Kin: the implicit reward of DPO
(E12), a log-probability too; Yang et al. 2024, who keep a language-modelling loss in the reward
model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minirlhf.models.policy import gather_text, gather_unpadded, masked_log_probs
from minirlhf.models.reward_model import RewardModel
from minirlhf.models.transformer import TransformerConfig

# Logits per nat per token. It hardly moves in training. Ten ordered the answers no better and was
# far too sure: its ranking loss stayed above that of a coin; with this one it is a little below.
FIRST_WEIGHT = 4.0


class LikelihoodReward(RewardModel):
    """A RewardModel whose logits (and so its scores) also rise with the text's likelihood."""

    def __init__(self, config: TransformerConfig):
        super().__init__(config)
        self.likelihood_weight = nn.Parameter(torch.tensor([FIRST_WEIGHT]))  # w

    def logits(self, rows: Tensor, valid: Tensor | None = None) -> Tensor:
        """Raises ValueError: what a row scores depends on where its prompt ends."""
        raise ValueError(
            "logits: expected to know where the prompts end; use text_logits, prefix_logits or "
            "prefix_scores"
        )

    def text_logits(
        self, rows: Tensor, lengths: Tensor, prompt_lengths: Tensor | None = None
    ) -> Tensor:
        """As `RewardModel.text_logits`. Raises ValueError without `prompt_lengths`."""
        if prompt_lengths is None:
            raise ValueError("text_logits: expected prompt_lengths, as the text is to be scored")
        text_lengths = lengths - prompt_lengths
        mask = text_mask(text_lengths, int(text_lengths.max()))
        logits = self._prefix_logits(self.body(rows), rows, prompt_lengths, mask)
        return logits.gather(1, text_lengths[:, None] - 1).squeeze(1)

    def prefix_scores(
        self, rows: Tensor, prompt_lengths: Tensor, time: int, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `RewardModel.prefix_scores`. The bare prompt's score has no likelihood in it."""
        hidden = self.body(rows) if lengths is None else self.body.by_length(rows, lengths)
        bare = self.score(gather_text(hidden, prompt_lengths - 1, 1)).float()  # (batch, 1, 1)
        ends = rows.shape[1] if lengths is None else lengths
        mask = text_mask(ends - prompt_lengths, time)
        prefixes = self._prefix_logits(hidden, rows, prompt_lengths, mask)
        return torch.sigmoid(bare.flatten()), torch.sigmoid(prefixes)

    def prefix_logits(self, rows: Tensor, prompt_lengths: Tensor, time: int) -> Tensor:
        """As `RewardModel.prefix_logits`: (batch, time)."""
        mask = text_mask(rows.shape[1] - prompt_lengths, time)
        return self._prefix_logits(self.body(rows), rows, prompt_lengths, mask)

    def _prefix_logits(
        self, hidden: Tensor, rows: Tensor, prompt_lengths: Tensor, mask: Tensor
    ) -> Tensor:
        logits = self.score(gather_text(hidden, prompt_lengths, mask.shape[1])).squeeze(-1).float()
        likelihood = self.mean_log_probs(hidden, rows, prompt_lengths, mask)
        return logits + self.likelihood_weight * likelihood

    def mean_log_probs(
        self, hidden: Tensor, rows: Tensor, prompt_lengths: Tensor, mask: Tensor
    ) -> Tensor:
        """Mean log p(y_k | x, y_<k) of the first t tokens, nats per token: (batch, time).

        hidden (batch, columns, width): the body's, over `rows`. mask (batch, time): True on tokens
        of the text; what stands elsewhere means nothing.
        """
        tokens = gather_text(rows[:, :, None], prompt_lengths, mask.shape[1]).squeeze(-1)
        before = gather_unpadded(hidden, prompt_lengths - 1, mask)  # each predicts one of them
        logits = before @ self.body.token_embedding.weight.T  # (tokens, vocab)
        log_probs = masked_log_probs(logits, tokens, mask)  # (batch, time)
        return log_probs.cumsum(1) / torch.arange(1, mask.shape[1] + 1, device=log_probs.device)


def text_mask(text_lengths: Tensor, time: int) -> Tensor:
    """(batch, time), True on the first `text_lengths` (batch,) columns."""
    return torch.arange(time, device=text_lengths.device) < text_lengths[:, None]
