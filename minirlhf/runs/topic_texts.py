"""Texts on one topic by the policies of a run, each the best of several; cli/sample.py prints them.

writer = TopicWriter(run)
before = writer.texts(TextsWanted("sleep", count=3), tuned=False)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minirlhf.models.next_token import SamplingOptions
from minirlhf.models.policy import Policy
from minirlhf.runs import run_models
from minirlhf.runs.folder import Run
from minirlhf.runs.products import REWARD_FINAL
from minirlhf.runs.topics import advice_on_topic
from minirlhf.system.seeds import step_generator
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.rollout import Models, collect


@dataclass(frozen=True)
class TextsWanted:
    """Texts on a topic, or answers to a question."""

    topic: str
    count: int
    best_of: int = 1  # so many are sampled for each text; the reward model chooses
    options: SamplingOptions = SamplingOptions()
    seed: int = 0


class TopicWriter:
    """A run with a tuned policy: its reward model, and its policies as they are needed."""

    def __init__(self, run: Run):
        """Raises ValueError if the run has no tuned policy."""
        if not run.is_done("finetune"):
            raise ValueError(
                f"{run.path}: no tuned policy here yet; "
                f"run: python -m minirlhf finetune {run.words}"
            )
        self.run = run
        self.tokenizer = Tokenizer.load(run.path / "tokenizer.json")
        self.reward_model = run_models.load_reward_model(run, REWARD_FINAL, self.tokenizer)

    def advice(self, topic: str) -> list[str]:
        """What to know before texts on this topic are sampled, one line each; usually nothing."""
        return advice_on_topic(self.run, self.tokenizer, topic)

    def texts(self, wanted: TextsWanted, tuned: bool = True) -> list[str]:
        """Texts of the tuned policy or, with the same random numbers, of the one before."""
        policy = run_models.model_for_sampling(self.run, self.tokenizer, tuned)
        return self._best(policy, wanted, wanted.count)

    def texts_behind(self, folders: Sequence[Path], wanted: TextsWanted) -> list[list[str]]:
        """Texts behind the soft prompt of each of these runs, all written in one batch.

        Raises ValueError, one line, as `run_models.behind_soft_prompts` does.
        """
        each = wanted.count * wanted.best_of
        policy = run_models.behind_soft_prompts(self.run, folders, each, self.tokenizer)
        texts = self._best(policy, wanted, wanted.count * len(folders))
        starts = range(0, len(texts), wanted.count)
        return [texts[start : start + wanted.count] for start in starts]

    def _best(self, policy: Policy, wanted: TextsWanted, count: int) -> list[str]:
        """Of each `best_of` samples, the text that the reward model scores highest."""
        models = Models(policy, policy, self.reward_model, self.tokenizer)
        rollout = collect(
            models,
            [models.prompt(wanted.topic)] * (count * wanted.best_of),
            self.run.config.finetune.max_new_tokens,
            step_generator(wanted.seed, "sample", 0, self.run.device),
            **vars(wanted.options),
        )
        rewards = rollout.reward.view(count, wanted.best_of)  # (count, best of)
        best = rewards.argmax(1).tolist()
        starts = range(0, len(rollout.texts), wanted.best_of)
        return [rollout.texts[start + place] for start, place in zip(starts, best, strict=True)]
