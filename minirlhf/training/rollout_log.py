"""What fine-tuning writes down: a row of metrics per update, warnings, now and then a sample."""

from __future__ import annotations

import statistics
import sys

import torch
from torch import Tensor, nn
from tqdm import tqdm

from minirlhf import equations
from minirlhf.config import FinetuneConfig
from minirlhf.feedback.conversation import Prompt, in_row
from minirlhf.stats import correlation
from minirlhf.system import distributed
from minirlhf.tasks.task import Task
from minirlhf.training.diagnostics import diagnose
from minirlhf.training.log import TrainLog
from minirlhf.training.rollout import Models, Rollout

SAMPLES = 8  # texts written down in a whole run


class RolloutLog:
    """Writes each rollout of fine-tuning to `log`.

    With `models`, a number that is NaN is traced to the weights that are, if any.
    """

    def __init__(
        self, log: TrainLog, task: Task, settings: FinetuneConfig, models: Models | None = None
    ):
        self.log, self.task, self.settings = log, task, settings
        self.modules: dict[str, nn.Module] = {}
        if models is not None:
            self.modules = {
                "reward model": models.reward_model,
                "reference": models.reference,
                "policy": models.policy,
            }

    def write(self, update: int, topics: list[Prompt], rollout: Rollout, metrics: dict) -> None:
        """`topics`: of the rollout's texts; `metrics`: what the algorithm says of the update."""
        numbers: dict = summarise(rollout, topics, self.task, metrics)
        numbers.setdefault("samples", (update + 1) * self.settings.batch_size)
        row = {"step": update + 1, **numbers}
        earlier = [row for row in self.log.rows if "judge" in row]
        if warnings := diagnose([*earlier, row], self.settings, self.modules):
            numbers["warnings"] = warnings
            self.warn(update + 1, warnings)
        meaning = "reward {reward:.2f}, judge {judge:.2f}, KL {kl_nats:.1f} nats"
        self.log.write(update + 1, meaning, **numbers)
        if update % max(1, self.settings.updates // SAMPLES) == 0:
            self.log.write_sample(update + 1, **sample_row(rollout, topics, self.task))

    def warn(self, step: int, warnings: dict[str, str]) -> None:
        if distributed.rank() > 0:
            return
        for message in warnings.values():
            tqdm.write(f"warning at update {step}: {message}", file=sys.stderr)


def summarise(
    rollout: Rollout, topics: list[Prompt], task: Task, metrics: dict[str, Tensor | float]
) -> dict[str, float]:
    """The numbers of one update; all tensors come to the CPU in one copy."""
    kl = equations.kl_k1(rollout.log_probs, rollout.reference_log_probs, rollout.mask)
    tensors = {
        "reward": rollout.reward.mean(),
        "reward_std": rollout.reward.std(),
        "kl_nats": kl.sum(1).mean(),
        "length_tokens": rollout.mask.sum(1).float().mean(),
        "ended": rollout.ended.float().mean(),
    }
    tensors |= {name: value for name, value in metrics.items() if torch.is_tensor(value)}
    plain = {name: value for name, value in metrics.items() if not torch.is_tensor(value)}
    stacked = torch.stack([value.float() for value in tensors.values()])
    numbers = dict(zip(tensors, stacked.tolist(), strict=True))

    judged = [task.judge(topic, text) for topic, text in zip(topics, rollout.texts, strict=True)]
    # How far the reward model is off on the policy's own texts, which is where it will be
    # exploited.
    reward, judge = rollout.reward.float().cpu(), torch.tensor(judged)
    numbers |= {
        "judge": statistics.fmean(judged),
        "distinct": len(set(rollout.texts)) / len(judged),
        "reward_judge_mse": (reward - judge).square().mean().item(),
        "reward_judge_pearson": correlation(reward, judge),
    }
    return numbers | plain


def sample_row(rollout: Rollout, topics: list[Prompt], task: Task) -> dict:
    """One text of the first training topic: how the writing changes as training goes on."""
    first = task.train_prompts[0]
    index = topics.index(first) if first in topics else 0
    one = slice(index, index + 1)
    kl = equations.kl_k1(
        rollout.log_probs[one], rollout.reference_log_probs[one], rollout.mask[one]
    )
    return {
        "split": "train",
        **in_row(topics[index]),
        "text": rollout.texts[index],
        "reward": float(rollout.reward[index]),
        "judge": task.judge(topics[index], rollout.texts[index]),
        "kl_nats": float(kl.sum()),
        "length_tokens": int(rollout.mask[index].sum()),
    }
