"""Before and after, by a judge (裁判) that the reward model never saw; with 95% intervals, KL, length and diversity."""

from __future__ import annotations

import math
import statistics

import torch
from tqdm import tqdm

from minirlhf import equations
from minirlhf.models.policy import Policy
from minirlhf.models.reward_model import RewardModel
from minirlhf.stats import interval
from minirlhf.system.devices import autocast
from minirlhf.system.seeds import step_generator
from minirlhf.tasks.task import Task
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.rollout import collect


@torch.inference_mode()
def sample_and_judge(
    policy: Policy,
    reference: Policy,
    reward_model: RewardModel,
    tokenizer: Tokenizer,
    task: Task,
    topics: list[str],
    count: int,
    max_new_tokens: int,
    seed: int,
    label: str,
) -> list[dict]:
    """`count` texts, the topics in turn, each with judge, reward, KL to the reference (nats, exact over the vocabulary at
    each sampled position) and length (tokens, the end token included)."""
    device, rows = policy.device, []
    longest = policy.config.context - max_new_tokens
    asked = [topics[index % len(topics)] for index in range(count)]
    size = 128  # texts at a time
    for start in tqdm(range(0, count, size), desc=label, unit="batch", leave=False):
        part = asked[start : start + size]
        prompts = [tokenizer.encode_prompt(topic)[-longest:] for topic in part]
        rollout = collect(
            policy,
            reference,
            reward_model,
            tokenizer,
            prompts,
            max_new_tokens,
            step_generator(seed, label, start, device),
        )
        kl = torch.zeros(rollout.mask.shape, device=device)  # (batch, time)
        if policy is not reference:
            with autocast(device):
                logits, reference_logits = (
                    model.real_logits(rollout.rows, rollout.prompt_lengths, rollout.mask).float()[
                        None
                    ]
                    for model in (policy, reference)
                )  # (1, tokens, vocab)
            kl = kl.masked_scatter(rollout.mask, equations.exact_token_kl(logits, reference_logits))
        for topic, text, reward, nats, length in zip(
            part,
            rollout.texts,
            rollout.reward.tolist(),
            kl.sum(1).tolist(),
            rollout.mask.sum(1).tolist(),
        ):
            rows.append(
                {
                    "topic": topic,
                    "text": text,
                    "judge": task.judge(topic, text),
                    "reward": reward,
                    "kl_nats": nats,
                    "length_tokens": length,
                }
            )
            if task.fluency is not None:
                rows[-1]["fluency_nats_per_word"] = task.fluency(text)
    return rows


def best_of_n(rows: list[dict], n: int) -> list[dict]:
    """Of each n rows that stand together (texts on one topic), the one that the reward model likes best: better texts with no
    training, at n times the price. How far that leads from the policy: `equations.best_of_n_kl_bound`."""
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
    """ "rose" or "fell" if the 95% interval of the difference of two `interval`s leaves out 0, else "did not clearly change"."""
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
