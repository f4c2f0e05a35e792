"""A rollout (采样): texts drawn from the policy, with everything that a policy gradient needs to know of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minirlhf.models.next_token import SamplingOptions
from minirlhf.models.policy import Policy
from minirlhf.models.reward_model import RewardModel
from minirlhf.models.sampling import sample
from minirlhf.system import distributed
from minirlhf.system.devices import autocast
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.batches import STRIDE, rounded_up


@dataclass
class Rollout:
    """N sampled texts. Column 0 of (batch, time) tensors is y_1."""

    rows: Tensor  # (batch, columns): prompt and text back to back, padded behind
    prompt_lengths: Tensor  # (batch,)
    tokens: Tensor  # (batch, time)
    mask: Tensor  # (batch, time) bool
    ended: Tensor  # (batch,) bool: False where the text was cut off
    log_probs: Tensor  # (batch, time): log p_theta when it was sampled
    reference_log_probs: Tensor  # (batch, time)
    prefix_rewards: Tensor  # (batch, time): r_t = r_phi(x, y_1:t)   (E4)
    initial_reward: Tensor  # (batch,): r_phi(x, nothing yet)
    reward: Tensor  # (batch,): r_phi(x, y) of the whole text
    texts: list[str]

    def select(self, index: Tensor) -> Rollout:
        """The texts at `index` (batch,), cut to the longest of them."""
        lengths = self.mask[index].sum(1)
        time, columns = int(lengths.max()), int((self.prompt_lengths[index] + lengths).max())
        token_columns = (
            tensor[index, :time]
            for tensor in (
                self.tokens,
                self.mask,
                self.log_probs,
                self.reference_log_probs,
                self.prefix_rewards,
            )
        )
        tokens, mask, log_probs, reference_log_probs, prefix_rewards = token_columns
        return Rollout(
            self.rows[index, :columns],
            self.prompt_lengths[index],
            tokens,
            mask,
            self.ended[index],
            log_probs,
            reference_log_probs,
            prefix_rewards,
            self.initial_reward[index],
            self.reward[index],
            [self.texts[row] for row in index.tolist()],
        )


def join_rows(
    prompts: list[list[int]], texts: list[list[int]], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Prompt and text back to back, padded behind: rows (batch, columns) and prompt_lengths (batch,)."""
    joined = [prompt + text for prompt, text in zip(prompts, texts)]
    longest = max(len(row) for row in joined)
    rows = torch.tensor([row + [0] * (longest - len(row)) for row in joined], device=device)
    return rows, torch.tensor([len(prompt) for prompt in prompts], device=device)


@torch.no_grad()
def collect(
    policy: Policy,
    reference: Policy,
    reward_model: RewardModel,
    tokenizer: Tokenizer,
    prompts: list[list[int]],
    max_new_tokens: int,
    generator: torch.Generator,
    **sampling,
) -> Rollout:
    """Sample one text a prompt (`sampling`: fields of SamplingOptions) and score all its prefixes in one pass.

    A text that was cut off at `max_new_tokens` has no end and gets reward 0: it is not a text yet.
    Where there are more processes, each samples and scores its share, and all return the whole.
    """
    device, count = policy.device, len(prompts)
    uniform = torch.rand(count, max_new_tokens, generator=generator, device=device)
    if distributed.world_size() > 1:
        mine = distributed.local_rows(count)
        prompts, uniform = [prompts[index] for index in mine], uniform[mine]
    with autocast(device):
        samples = sample(
            policy, prompts, max_new_tokens, tokenizer.end_id, SamplingOptions(**sampling), uniform
        )
        ids = samples.ids()
        rows, prompt_lengths = join_rows(prompts, ids, device)
        columns = min(rounded_up(rows.shape[1], STRIDE), policy.config.context)
        rows = nn.functional.pad(rows, (0, columns - rows.shape[1]))
        tokens, mask, ended = samples.tokens, samples.mask, samples.ended
        if reference is policy:
            reference_log_probs = samples.log_probs
        else:
            reference_log_probs = reference.text_log_probs(rows, prompt_lengths, tokens, mask)
        lengths = prompt_lengths + mask.sum(1)
        initial, prefix = reward_model.prefix_scores(rows, prompt_lengths, tokens.shape[1], lengths)
    last = mask.sum(1, keepdim=True) - 1
    prefix = torch.where(
        ended[:, None] | (torch.arange(prefix.shape[1], device=device) < last), prefix, 0.0
    )
    reward = prefix.gather(1, last).squeeze(1)
    tensors = (
        rows,
        prompt_lengths,
        tokens,
        mask,
        ended,
        samples.log_probs,
        reference_log_probs * mask,
        prefix,
        initial,
        reward,
    )
    if distributed.world_size() > 1:
        tensors = [distributed.gather_rows(tensor, count) for tensor in tensors]
        ids = [row[:length] for row, length in zip(tensors[2].tolist(), tensors[3].sum(1).tolist())]
    return Rollout(*tensors, [tokenizer.decode_text(row) for row in ids])
