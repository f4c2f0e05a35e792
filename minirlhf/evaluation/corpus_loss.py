"""The alignment tax (对齐税): what a model loses of its pretraining while it learns to please.

Measured as the loss on held-out texts of the pretraining corpus, in nats per token. InstructGPT
(Ouyang et al. 2022) mixes pretraining into reinforcement learning (E11) to keep it low.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from minirlhf.models.policy import Policy
from minirlhf.stats import ratio_interval
from minirlhf.system.devices import autocast
from minirlhf.training.batches import EncodedTexts

BATCH = 64


@dataclass(frozen=True)
class TextLosses:
    """-log p of each text (texts,) in nats, and its number of tokens (texts,)."""

    nats: Tensor
    tokens: Tensor

    def mean(self) -> dict[str, float]:
        """In nats per token, over all tokens, with its 95% interval."""
        return ratio_interval(self.nats.tolist(), self.tokens.tolist())

    def rise_over(self, other: TextLosses) -> dict[str, float]:
        """How much more than another model's on the same texts, with its 95% interval.

        Closer than the two intervals of `mean`: a hard text is hard for both.
        """
        return ratio_interval((self.nats - other.nats).tolist(), self.tokens.tolist())


@torch.inference_mode()
def text_losses(policy: Policy, texts: EncodedTexts) -> TextLosses:
    """The loss of every text; their mean is `training.pretrain.heldout_loss`."""
    nats = torch.zeros(len(texts), dtype=torch.float64)
    tokens = torch.zeros(len(texts), dtype=torch.int64)
    for batch in texts.in_order(BATCH, policy.device):
        with autocast(policy.device):
            log_probs = policy.text_log_probs(
                batch.rows, batch.prompt_lengths, batch.tokens, batch.mask
            )  # (batch, time)
        index = batch.index.cpu()
        nats[index] = -(log_probs * batch.mask).sum(1).double().cpu()
        tokens[index] = batch.mask.sum(1).cpu()
    return TextLosses(nats, tokens)
