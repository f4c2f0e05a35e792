"""Samples before and after fine-tuning, scored by a judge (裁判) that the reward model never saw.

Each sample gets the judge's score, the reward, its KL to the reference and its length; a summary
holds their means with 95% intervals, and says whether the reward was hacked.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from minirlhf import equations
from minirlhf.evaluation.comparisons import by_kind, win_rate
from minirlhf.feedback.conversation import Prompt, in_row, in_words
from minirlhf.models.policy import Policy
from minirlhf.models.sampling import sample
from minirlhf.stats import change, interval
from minirlhf.system.devices import autocast
from minirlhf.system.seeds import step_generator
from minirlhf.tasks.task import Task
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.rollout import Models, Rollout, collect
from minirlhf.training.truncation import prompt_tokens

BATCH = 128  # samples drawn at a time


@torch.inference_mode()
def sample_and_judge(
    models: Models,
    task: Task,
    topics: Sequence[Prompt],
    max_new_tokens: int,
    seed: int,
    label: str,
) -> list[dict]:
    """One sample of the policy per entry of `topics`; one row each.

    A row holds topic (of a conversation also its turns), text, judge and reward in [0, 1], kl_nats
    (to the reference, exact over the vocabulary at each sampled position), length_tokens (the end
    token included) and, if the task has them, kind and fluency_nats_per_word. The random numbers
    depend on `seed` and `label`, which also names the progress bar.
    """
    # The KL below is exact: the rollout needs no estimate, and no pass of the reference for one.
    alone = dataclasses.replace(models, reference=models.policy)
    rows: list[dict] = [{}] * len(topics)
    order = sampling_order(topics)
    for start in tqdm(range(0, len(topics), BATCH), desc=label, unit="batch", leave=False):
        places = order[start : start + BATCH]
        prompts = [models.prompt(topics[place]) for place in places]
        generator = step_generator(seed, label, start, models.device)
        rollout = collect(alone, prompts, max_new_tokens, generator)
        kl = sequence_kl(models.policy, models.reference, rollout).tolist()
        rewards, lengths = rollout.reward.tolist(), rollout.mask.sum(1).tolist()
        for index, (place, text) in enumerate(zip(places, rollout.texts, strict=True)):
            row = judged_row(task, topics[place], text) | {
                "reward": rewards[index],
                "kl_nats": kl[index],
                "length_tokens": lengths[index],
            }
            if task.fluency is not None:
                row["fluency_nats_per_word"] = task.fluency(text)
            rows[place] = row
    return rows


def sampling_order(prompts: Sequence[Prompt]) -> list[int]:
    """Conversations by their length, so that a batch holds similar ones; topics as they stand."""
    lengths = [0 if isinstance(prompt, str) else len(in_words(prompt)) for prompt in prompts]
    return sorted(range(len(prompts)), key=lengths.__getitem__)


def judged_row(task: Task, prompt: Prompt, text: str) -> dict:
    """A text as it stands in samples.jsonl, with its kind of instruction if the task has kinds."""
    row = in_row(prompt) | {"text": text, "judge": task.judge(prompt, text)}
    if task.kind_of is not None:
        row["kind"] = task.kind_of(prompt)
    return row


def sample_texts(
    policy: Policy,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    seed: int,
    label: str,
) -> list[str]:
    """One sample per prompt, neither scored nor judged; random numbers as in `sample_and_judge`."""
    order = sampling_order(prompts)
    ordered = [prompts[place] for place in order]
    texts = sample_as_they_stand(policy, tokenizer, ordered, max_new_tokens, seed, label)
    return in_places(texts, order)


def in_places(texts: Sequence[str], order: Sequence[int]) -> list[str]:
    """The text of prompt order[0], order[1], ... put back to the places of the prompts."""
    texts_by_place = dict(zip(order, texts, strict=True))
    return [texts_by_place[place] for place in range(len(texts))]


@torch.inference_mode()
def sample_as_they_stand(
    policy: Policy,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    seed: int,
    label: str,
) -> list[str]:
    """As `sample_texts`; but the prompts that go together are those that stand together."""
    context, texts = policy.config.context, []
    for start in tqdm(range(0, len(prompts), BATCH), desc=label, unit="batch", leave=False):
        generator = step_generator(seed, label, start, policy.device)
        with autocast(policy.device):
            drawn = sample(
                policy,
                [prompt_tokens(tokenizer, one, context) for one in prompts[start : start + BATCH]],
                max_new_tokens,
                tokenizer.end_id,
                randomness=generator,
            )
        texts += [tokenizer.decode_text(ids) for ids in drawn.ids()]
    return texts


def sequence_kl(policy: Policy, reference: Policy, rollout: Rollout) -> Tensor:
    """KL(policy || reference) in nats, summed over the positions of each sample: (batch,)."""
    kl = torch.zeros(rollout.mask.shape, device=rollout.mask.device)  # (batch, time)
    if policy is reference:
        return kl.sum(1)

    def unpadded_logits(model: Policy) -> Tensor:  # (1, tokens, vocab)
        logits = model.unpadded_logits(rollout.rows, rollout.prompt_lengths, rollout.mask)
        return logits.float()[None]

    with autocast(rollout.mask.device):
        logits, reference_logits = unpadded_logits(policy), unpadded_logits(reference)
    token_kl = equations.exact_token_kl(logits, reference_logits)
    return kl.masked_scatter(rollout.mask, token_kl).sum(1)


def best_of_n(rows: list[dict], n: int) -> list[dict]:
    """Of each n consecutive rows (samples on one topic), the one with the highest reward.

    Better texts without training, at n times the cost of sampling. How far that leads from the
    policy: `equations.best_of_n_kl_bound`.
    """
    best = []
    for start in range(0, len(rows) - n + 1, n):
        best.append(max(rows[start : start + n], key=lambda row: row["reward"]))
    return best


def summarise(before: list[dict], after: list[dict], base: Sequence[dict] = ()) -> dict:
    """The summary of one split (such as training topics), as in a run's summary.json.

    All rows are on the same prompts in the same order. `base` holds those of the pretrained model,
    where `before` is not that.
    """
    result: dict = {}
    if base:
        result["judge_base"] = interval([row["judge"] for row in base])
    for when, rows in (("before", before), ("after", after)):
        result[f"judge_{when}"] = interval([row["judge"] for row in rows])
        result[f"reward_{when}"] = interval([row["reward"] for row in rows])
        if "fluency_nats_per_word" in rows[0]:
            result[f"fluency_{when}"] = interval([row["fluency_nats_per_word"] for row in rows])
        result[f"length_{when}"] = statistics.fmean(row["length_tokens"] for row in rows)
        result[f"distinct_{when}"] = len({row["text"] for row in rows}) / len(rows)
    result["kl_after"] = statistics.fmean(row["kl_nats"] for row in after)
    result["win_rate"] = win_rate(before, after)
    if "kind" in before[0]:
        listed = {"base": base} if base else {}
        result["kinds"] = by_kind({**listed, "before": before, "after": after})
    return result


def is_reward_hacking(*splits: dict) -> bool:
    """True if on any split the reward rose and the judge fell, both by more than chance."""
    for split in splits:
        reward = change(split["reward_before"], split["reward_after"])
        judge = change(split["judge_before"], split["judge_after"])
        if reward == "rose" and judge == "fell":
            return True
    return False
