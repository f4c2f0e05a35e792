"""Which prompts an update samples texts for: a function of (seed, update) alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from minirlhf.config import FinetuneConfig
from minirlhf.feedback.conversation import Prompt
from minirlhf.system.seeds import step_generator
from minirlhf.training.rollout import Models


class Prompts:
    """The training topics, drawn again for each update; the prompts of one group are adjacent."""

    def __init__(
        self,
        models: Models,
        topics: Sequence[Prompt],
        settings: FinetuneConfig,
        group_size: int,
        seed: int,
    ):
        self.topics, self.seed, self.group_size = topics, seed, group_size
        self.count = settings.batch_size // group_size
        self.tokens = {topic: models.prompt(topic) for topic in topics}
        longest = max(map(len, self.tokens.values()))
        context = models.policy.config.context
        if longest + settings.max_new_tokens > context:
            raise ValueError(
                f"--finetune.max-new-tokens: expected at most {context - longest}, beside the "
                f"longest topic ({longest} tokens) in a context of {context}, "
                f"found {settings.max_new_tokens}"
            )

    def draw(self, update: int) -> tuple[list[Prompt], list[list[int]]]:
        """The topic of each text of this update, and the same as tokens."""
        generator = step_generator(self.seed, "topics", update)
        drawn = draw_topics(self.topics, self.count, generator)
        topics = [topic for topic in drawn for _ in range(self.group_size)]
        return topics, [self.tokens[topic] for topic in topics]


def draw_topics(topics: Sequence[Prompt], count: int, generator: torch.Generator) -> list[Prompt]:
    """`count` topics, each as often as any other but for the remainder."""
    order: list[int] = []
    while len(order) < count:
        order += torch.randperm(len(topics), generator=generator).tolist()
    return [topics[index] for index in order[:count]]
