"""A rollout (采样): texts sampled from the policy, and all that a policy gradient needs of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minirlhf.feedback.conversation import AnyPrompt, Prompt
from minirlhf.models.encoder import EncoderReward
from minirlhf.models.next_token import SamplingOptions
from minirlhf.models.policy import Policy
from minirlhf.models.reward_model import RewardEnsemble, RewardModel
from minirlhf.models.sampling import sample
from minirlhf.models.transformer import STRIDE, rounded_up
from minirlhf.system import distributed
from minirlhf.system.devices import autocast, precision_of
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.truncation import prompt_tokens

AnyReward = RewardModel | EncoderReward | RewardEnsemble


@dataclass
class Models:
    """The four that take part in a rollout: writer, reference of the KL, scorer, tokenizer."""

    policy: Policy
    reference: Policy  # frozen
    reward_model: AnyReward
    tokenizer: Tokenizer

    @property
    def device(self) -> torch.device:
        return self.policy.device

    def prompt(self, topic: Prompt) -> list[int]:
        """The topic or conversation as tokens, cut as in every stage (see truncation.py)."""
        return prompt_tokens(self.tokenizer, topic, self.policy.config.context)


@dataclass
class Rollout:
    """N sampled texts. Column 0 of (batch, time) tensors is y_1."""

    rows: Tensor  # (batch, columns): prompt and text back to back, padded behind
    prompt_lengths: Tensor  # (batch,)
    tokens: Tensor  # (batch, time)
    mask: Tensor  # (batch, time) bool
    ended: Tensor  # (batch,) bool: False where the text was cut off
    log_probs: Tensor  # (batch, time): log p_theta when it was sampled, rounded as in learning
    reference_log_probs: Tensor  # (batch, time)
    prefix_rewards: Tensor  # (batch, time): r_t = r_phi(x, y_1:t)   (E4)
    initial_reward: Tensor  # (batch,): r_phi(x, nothing yet)
    reward: Tensor  # (batch,): r_phi(x, y) of the whole text
    texts: list[str]

    def select(self, index: Tensor) -> Rollout:
        """The texts at `index` (batch,), cut to the longest of them."""
        lengths = self.mask[index].sum(1)
        time, columns = int(lengths.max()), int((self.prompt_lengths[index] + lengths).max())
        return Rollout(
            rows=self.rows[index, :columns],
            prompt_lengths=self.prompt_lengths[index],
            tokens=self.tokens[index, :time],
            mask=self.mask[index, :time],
            ended=self.ended[index],
            log_probs=self.log_probs[index, :time],
            reference_log_probs=self.reference_log_probs[index, :time],
            prefix_rewards=self.prefix_rewards[index, :time],
            initial_reward=self.initial_reward[index],
            reward=self.reward[index],
            texts=[self.texts[row] for row in index.tolist()],
        )


def own_share(rollout: Rollout, weights: Tensor) -> tuple[Rollout, Tensor]:
    """This process's share of the texts and of their weights (batch, time).

    Ask for it only when everything that looks at the whole batch (a baseline, whitening) is done.
    """
    if distributed.world_size() == 1:
        return rollout, weights
    mine = torch.tensor(distributed.local_rows(len(weights)), device=weights.device)
    rollout = rollout.select(mine)
    return rollout, weights[mine, : rollout.mask.shape[1]]


def join_rows(
    prompts: list[list[int]], texts: list[list[int]], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Prompt and text back to back, padded: rows (batch, columns), prompt_lengths (batch,)."""
    joined = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
    longest = max(len(row) for row in joined)
    rows = torch.tensor([row + [0] * (longest - len(row)) for row in joined], device=device)
    return rows, torch.tensor([len(prompt) for prompt in prompts], device=device)


@torch.no_grad()
def scores_of(
    reward_model: AnyReward, prompt: list[int], texts: Sequence[list[int]]
) -> list[float]:
    """The reward model's scores in [0, 1] of whole texts (token ids) on one prompt."""
    rows, prompt_lengths = join_rows([prompt] * len(texts), list(texts), reward_model.device)
    lengths = prompt_lengths + torch.tensor([len(text) for text in texts]).to(prompt_lengths)
    with autocast(rows.device):
        return reward_model.text_scores(rows, lengths, prompt_lengths).tolist()


def in_turn(topics: Sequence[AnyPrompt], count: int) -> list[AnyPrompt]:
    """`count` topics: the given ones, over and over."""
    return [topics[index % len(topics)] for index in range(count)]


@torch.no_grad()
def collect(
    models: Models,
    prompts: list[list[int]],
    max_new_tokens: int,
    generator: torch.Generator,
    **sampling: Any,
) -> Rollout:
    """Sample one text per prompt and score all its prefixes in one pass.

    `sampling` are fields of SamplingOptions. A text that was cut off at `max_new_tokens` has no
    end and gets reward 0: it is not a text yet. Where there are more processes, each samples and
    scores its share, and all return the whole.
    """
    policy, tokenizer, device = models.policy, models.tokenizer, models.device
    count = len(prompts)
    # One number per token, drawn for the whole batch: a text does not depend on which process
    # writes it.
    uniform = torch.rand(count, max_new_tokens, generator=generator, device=device)
    if distributed.world_size() > 1:
        mine = distributed.local_rows(count)
        prompts, uniform = [prompts[index] for index in mine], uniform[mine]

    with autocast(device):
        samples = sample(
            policy, prompts, max_new_tokens, tokenizer.end_id, SamplingOptions(**sampling), uniform
        )
        tokens, mask, ended = samples.tokens, samples.mask, samples.ended  # (batch, time), (batch,)
        ids = samples.ids()
        rows, prompt_lengths = join_rows(prompts, ids, device)
        columns = min(rounded_up(rows.shape[1], STRIDE), policy.config.context)
        rows = nn.functional.pad(rows, (0, columns - rows.shape[1]))
        log_probs = samples.log_probs
        text_log_probs: Callable[..., Tensor] = Policy.text_log_probs
        if device.type == "cpu" and precision_of(device) == "bfloat16":
            # It sampled in float32 (sampling.py), but learning is in bfloat16.
            text_log_probs = log_probs_as_learned
            log_probs = text_log_probs(policy, rows, prompt_lengths, tokens, mask)
        reference_log_probs = log_probs
        if models.reference is not policy:
            reference_log_probs = text_log_probs(
                models.reference, rows, prompt_lengths, tokens, mask
            )
        initial, prefix = models.reward_model.prefix_scores(
            rows, prompt_lengths, tokens.shape[1], lengths=prompt_lengths + mask.sum(1)
        )

    # The last token of a text that was cut off is scored 0.
    last = mask.sum(1, keepdim=True) - 1  # (batch, 1)
    before_last = torch.arange(prefix.shape[1], device=device) < last  # (batch, time)
    prefix = torch.where(ended[:, None] | before_last, prefix, 0.0)
    tensors = {
        "rows": rows,
        "prompt_lengths": prompt_lengths,
        "tokens": tokens,
        "mask": mask,
        "ended": ended,
        "log_probs": log_probs,
        "reference_log_probs": reference_log_probs * mask,
        "prefix_rewards": prefix,
        "initial_reward": initial,
        "reward": prefix.gather(1, last).squeeze(1),
    }
    if distributed.world_size() > 1:
        tensors = {name: distributed.gather_rows(tensor, count) for name, tensor in tensors.items()}
        lengths = tensors["mask"].sum(1).tolist()
        ids = [
            row[:length] for row, length in zip(tensors["tokens"].tolist(), lengths, strict=True)
        ]
    return Rollout(**tensors, texts=[tokenizer.decode_text(row) for row in ids])


def log_probs_as_learned(
    policy: Policy, rows: Tensor, prompt_lengths: Tensor, tokens: Tensor, mask: Tensor
) -> Tensor:
    """`Policy.text_log_probs` (batch, time), rounded exactly as in the pass that learns.

    In bfloat16 a token's probability is off by a few percent, and how far depends on the kind of
    pass: with gradients, attention is float32 inside (transformer.py). Only two passes of one kind
    have the ratio 1 and the KL 0 where the weights are equal. The result has no gradient.
    """
    embedding = policy.body.token_embedding.weight
    learns = embedding.requires_grad
    embedding.requires_grad_(True)  # so that a frozen policy's pass is of that kind, too
    try:
        with torch.enable_grad():
            log_probs = policy.text_log_probs(rows, prompt_lengths, tokens, mask)
    finally:
        embedding.requires_grad_(learns)
    return log_probs.detach()
