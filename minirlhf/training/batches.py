"""Token rows as padded batches; rows of similar length are batched together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from minirlhf.feedback.conversation import Prompt
from minirlhf.models.transformer import STRIDE, rounded_up
from minirlhf.system.seeds import step_generator
from minirlhf.tasks.task import Task
from minirlhf.tokenizer import BAR_AFTER, Tokenizer
from minirlhf.training.truncation import prompt_tokens, text_tokens

BUCKET = 16  # batches drawn at a time and sorted by length among themselves


Part = TypeVar("Part")


@dataclass(frozen=True)
class Split(Generic[Part]):
    """The two parts of a data set: what is learned from, and what is kept out to measure on."""

    train: Part
    heldout: Part


@dataclass(frozen=True)
class Corpus:
    """Unscored (prompt, text) pairs to pretrain on."""

    train: Sequence[tuple[Prompt, str]]
    heldout: Sequence[tuple[Prompt, str]]
    match_topics: bool = False  # whether a text tells its topic, so that this can be learned, too
    learn_prompts: bool = False  # whether the prompts are predicted, too (conversations)


def corpus_of(task: Task) -> Corpus:
    return Corpus(task.corpus, task.corpus_heldout, task.match_topics, task.learn_prompts)


@dataclass
class Batch:
    """Rows of prompt and text back to back, padded behind with 0."""

    rows: Tensor  # (batch, columns) int64
    prompt_lengths: Tensor  # (batch,)
    tokens: Tensor  # (batch, time): the text alone, column 0 is y_1
    mask: Tensor  # (batch, time) bool
    index: Tensor  # (batch,): position of each row in the data

    def select(self, rows: slice) -> Batch:
        """The batch of these rows alone."""
        return Batch(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


class EncodedTexts:
    """All (prompt, text) pairs of a data set as one padded integer table.

    With `learn_prompts` a row counts as one text after its first token: all of it is predicted.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        pairs: Iterable[tuple[Prompt, str]],
        context: int,
        learn_prompts: bool = False,
    ):
        # Topics and texts may occur many times; each is encoded once.
        prompts: dict[Prompt, list[int]] = {}
        texts: dict[str, list[int]] = {}
        rows, prompt_lengths, self.cut = [], [], 0  # `cut`: texts that lost their end
        for topic, text in tqdm(pairs, desc="encoding texts", delay=BAR_AFTER, leave=False):
            if topic not in prompts:
                prompts[topic] = prompt_tokens(tokenizer, topic, context)
            if text not in texts:
                texts[text] = text_tokens(tokenizer, text, context)
            row = prompts[topic] + texts[text]
            self.cut += len(row) > context
            rows.append(row[:context])
            prompt_lengths.append(1 if learn_prompts else len(prompts[topic]))
        if not rows:
            raise ValueError("texts: expected at least one, found none")
        self.lengths = torch.tensor([len(row) for row in rows])
        self.prompt_lengths = torch.tensor(prompt_lengths)
        longest = int(self.lengths.max())
        self.rows = torch.tensor([row + [0] * (longest - len(row)) for row in rows])

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, index: Tensor, device: torch.device) -> Batch:
        """The rows at `index` (batch,), cut to the longest (up to STRIDE - 1 columns more)."""
        rows = self.rows[index, : rounded_up(int(self.lengths[index].max()), STRIDE)]
        prompts = self.prompt_lengths[index]
        lengths = self.lengths[index] - prompts  # of the texts
        columns = torch.arange(min(rounded_up(int(lengths.max()), STRIDE), rows.shape[1]))
        mask = columns < lengths[:, None]
        places = (prompts[:, None] + columns).clamp(max=rows.shape[1] - 1)  # (batch, time)
        tokens = rows.gather(1, places).masked_fill(~mask, 0)
        return Batch(
            rows=rows.to(device),
            prompt_lengths=prompts.to(device),
            tokens=tokens.to(device),
            mask=mask.to(device),
            index=index.to(device),
        )

    def in_order(self, batch_size: int, device: torch.device) -> Iterable[Batch]:
        """Every row once, in batches of rows of similar length."""
        for index in self.lengths.argsort(stable=True).split(batch_size):
            yield self.batch(index, device)

    def random_batch(
        self, batch_size: int, seed: int, stage: str, step: int, device: torch.device
    ) -> Batch:
        """The batch of one step, of similar length: a function of (seed, stage, step) alone."""
        return self.batch(draw_alike(self.lengths, batch_size, seed, stage, step), device)


def draw_alike(lengths: Tensor, count: int, seed: int, stage: str, step: int) -> Tensor:
    """`count` places in lengths (n,) at random, of similar length: (count,).

    A function of (seed, stage, step) alone. BUCKET such batches are drawn with replacement, sorted
    by length, cut apart and shuffled; this step takes one of them.
    """
    generator = step_generator(seed, f"{stage} batch", step // BUCKET)
    drawn = torch.randint(len(lengths), (BUCKET * count,), generator=generator)
    by_length = drawn[lengths[drawn].argsort(stable=True)].view(BUCKET, count)
    return by_length[torch.randperm(BUCKET, generator=generator)[step % BUCKET]]
