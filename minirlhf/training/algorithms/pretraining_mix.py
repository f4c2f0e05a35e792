"""PPO-ptx (E11; Ouyang et al. 2022): pretraining goes on beside the policy gradient.

What a policy learns from feedback costs it some of what it knew: its loss on the pretraining corpus
rises (the alignment tax). Unscored texts in each step, learned as in pretraining, keep that small.
"""

from __future__ import annotations

from torch import Tensor

from minirlhf.config import Config
from minirlhf.system import distributed
from minirlhf.system.devices import autocast
from minirlhf.training.batches import Corpus, EncodedTexts
from minirlhf.training.pretrain import language_model_loss
from minirlhf.training.rollout import Models

SHARE = 4  # one unscored text for so many samples: it is predicted whole, which takes time


class PretrainingMix:
    """Batches of unscored texts, and their loss times `finetune.pretraining_weight`."""

    def __init__(self, models: Models, config: Config, corpus: Corpus):
        self.policy, self.weight = models.policy, config.finetune.pretraining_weight
        self.seed = config.seed
        context = self.policy.config.context
        self.texts = EncodedTexts(models.tokenizer, corpus.train, context, corpus.learn_prompts)

    def loss(self, samples: int, step: int, number: int = 0) -> Tensor:
        """Weighted nats per token of the texts beside the `samples` of one step.

        `number` is that of the minibatch, where an update has several. With several processes each
        takes its part of the texts; the mean of their losses is the loss of all texts.
        """
        device, stage = self.policy.device, f"pretraining mix {step}"
        count = max(1, samples // SHARE)
        batch = self.texts.random_batch(count, self.seed, stage, number, device)
        weight, processes = self.weight, distributed.world_size()
        if 1 < processes <= count:  # with fewer texts than processes, all take all of them
            part = batch.select(slice(distributed.rank(), None, processes))
            # A part with more tokens counts for more, so that each token counts the same.
            weight = weight * processes * float(part.mask.sum() / batch.mask.sum())
            batch = part
        with autocast(device):
            return weight * language_model_loss(self.policy, batch)


def make_mix(models: Models, config: Config, corpus: Corpus | None) -> PretrainingMix | None:
    """None where the weight is 0. Raises ValueError if texts are wanted and there are none."""
    if config.finetune.pretraining_weight == 0:
        return None
    if corpus is None or not corpus.train:
        raise ValueError(
            "--finetune.pretraining-weight: expected 0 without texts to pretrain on, "
            f"found {config.finetune.pretraining_weight}"
        )
    return PretrainingMix(models, config, corpus)
