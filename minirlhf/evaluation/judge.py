"""Before and after, by a judge (裁判) that the reward model never saw: is the policy better?"""

from __future__ import annotations

import math
import statistics

import torch
from torch import Tensor
from tqdm import tqdm

from minirlhf import equations
from minirlhf.stats import interval
from minirlhf.system.devices import autocast
from minirlhf.system.seeds import step_generator
from minirlhf.tasks.task import Task
from minirlhf.training.rollout import Models, Rollout, collect

AT_ONCE = 128  # texts


@torch.inference_mode()
def sample_and_judge(
    models: Models,
    task: Task,
    topics: list[str],
    max_new_tokens: int,
    seed: int,
    label: str,
) -> list[dict]:
    """One text per entry of `topics`: its judge, reward, KL to the reference and length.

    The KL is in nats, exact over the vocabulary at each sampled position; the length in tokens, the
    end token included. The random numbers are a function of `seed` and `label`.
    """
    rows = []
    for start in tqdm(range(0, len(topics), AT_ONCE), desc=label, unit="batch", leave=False):
        part = topics[start : start + AT_ONCE]
        prompts = [models.prompt(topic, max_new_tokens) for topic in part]
        generator = step_generator(seed, label, start, models.device)
        rollout = collect(models, prompts, max_new_tokens, generator)
        rewards, lengths = rollout.reward.tolist(), rollout.mask.sum(1).tolist()
        distances = exact_kl(models, rollout).tolist()  # nats
        for topic, text, reward, kl, length in zip(
            part, rollout.texts, rewards, distances, lengths
        ):
            row = {
                "topic": topic,
                "text": text,
                "judge": task.judge(topic, text),
                "reward": reward,
                "kl_nats": kl,
                "length_tokens": length,
            }
            if task.fluency is not None:
                row["fluency_nats_per_word"] = task.fluency(text)
            rows.append(row)
    return rows


def exact_kl(models: Models, rollout: Rollout) -> Tensor:
    """KL(policy || reference) of the next tokens, summed along each text: (batch,), nats."""
    kl = torch.zeros(rollout.mask.shape, device=rollout.mask.device)  # (batch, time)
    if models.policy is models.reference:
        return kl.sum(1)
    with autocast(models.device):
        logits, reference_logits = (
            model.real_logits(rollout.rows, rollout.prompt_lengths, rollout.mask).float()[None]
            for model in (models.policy, models.reference)
        )  # (1, tokens, vocab): no padding
    return kl.masked_scatter(rollout.mask, equations.exact_token_kl(logits, reference_logits)).sum(
        1
    )


def best_of_n(rows: list[dict], n: int) -> list[dict]:
    """Of each n rows that stand together (texts on one topic), the one that the reward model likes
    best: better texts with no training, at n times the price. How far that leads from the policy:
    `equations.best_of_n_kl_bound`.
    """
    return [
        max(rows[start : start + n], key=lambda row: row["reward"])
        for start in range(0, len(rows) - n + 1, n)
    ]


def summarise(before: list[dict], after: list[dict]) -> dict:
    """The summary of one split (training or held-out topics): see the run folder's summary.json."""
    result = {}
    for when, rows in (("before", before), ("after", after)):
        result[f"judge_{when}"] = interval([row["judge"] for row in rows])
        result[f"reward_{when}"] = interval([row["reward"] for row in rows])
        if "fluency_nats_per_word" in rows[0]:
            result[f"fluency_{when}"] = interval([row["fluency_nats_per_word"] for row in rows])
        result[f"length_{when}"] = statistics.fmean(row["length_tokens"] for row in rows)
        result[f"distinct_{when}"] = len({row["text"] for row in rows}) / len(rows)
    result["kl_after"] = statistics.fmean(row["kl_nats"] for row in after)
    return result


def change(before: dict[str, float], after: dict[str, float]) -> str:
    """ "rose" or "fell" if the 95% interval of the difference of two `interval`s leaves out 0, else
    "did not clearly change".
    """
    half = math.hypot(before["mean"] - before["low"], after["mean"] - after["low"])
    difference = after["mean"] - before["mean"]
    return (
        "rose" if difference > half else "fell" if difference < -half else "did not clearly change"
    )


def is_reward_hacking(*splits: dict) -> bool:
    """True if on any split the reward rose and the judge fell, both by more than chance (`change`)."""
    return any(
        change(split["reward_before"], split["reward_after"]) == "rose"
        and change(split["judge_before"], split["judge_after"]) == "fell"
        for split in splits
    )
