"""Demonstrations (示范): prompts with good answers, read from JSONL files for supervised
fine-tuning.

One JSON object per line. The prompt is a text, or a conversation (conversation.py):

    {"prompt": "Why sleep?", "answer": "It mends memory."}
    {"prompt": [{"role": "user", "text": "Why sleep?"},
                {"role": "assistant", "text": "For memory."},
                {"role": "user", "text": "Who says so?"}], "answer": "Several studies do."}

Other fields are ignored, and so are blank lines. As with feedback, a file is read completely or not
at all: every fault is listed with its line and field.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from minirlhf.feedback.checks import demonstration_faults
from minirlhf.feedback.conversation import Prompt, from_json, in_words
from minirlhf.feedback.duplicates import normal
from minirlhf.feedback.records import FeedbackError, lines_of, listed, raise_if_any
from minirlhf.feedback.splits import check_share, draw_heldout

Demonstrations = Sequence[tuple[Prompt, str]]  # (prompt, answer)


def read_demonstrations(path: str | os.PathLike[str]) -> list[tuple[Prompt, str]]:
    """The (prompt, answer) pairs of a JSONL file, which may be a pipe.

    Raises FeedbackError listing every fault (the first 20 in full) as file, line, field, expected
    and found; also for a file that is empty or cannot be read, or holds too few different prompts
    to hold one out.
    """
    lines = lines_of(path)
    faults: list[tuple[int, str]] = []
    for line in lines:
        found = [line.fault] if line.fault else demonstration_faults(line.record)
        faults += [(line.number, fault) for fault in found]
    raise_if_any(listed(faults), path)
    pairs = [(from_json(line.record["prompt"]), line.record["answer"]) for line in lines]
    if len({_key(prompt) for prompt, _ in pairs}) < 2:
        raise FeedbackError(f"{path}: expected at least 2 different prompts, found 1")
    return pairs


def split_demonstrations(
    demonstrations: Demonstrations, heldout_share: float, seed: int
) -> tuple[list[tuple[Prompt, str]], list[tuple[Prompt, str]]]:
    """Split at random into (train, heldout), each in the order given; no prompt is on both sides.

    Whole prompts are drawn, at least one on each side. Which ones depends on the seed and on which
    prompts there are, not on their order. Raises ValueError for a share outside [0, 1) or fewer
    than two different prompts.
    """
    check_share(heldout_share)
    keys = [_key(prompt) for prompt, _ in demonstrations]
    groups = sorted(set(keys))
    if len(groups) < 2:
        raise ValueError(
            f"demonstrations: expected at least 2 different prompts, found {len(groups)}"
        )
    heldout_keys = draw_heldout(groups, heldout_share, seed)
    train: list[tuple[Prompt, str]] = []
    heldout: list[tuple[Prompt, str]] = []
    for key, pair in zip(keys, demonstrations, strict=True):
        (heldout if key in heldout_keys else train).append(pair)
    return train, heldout


def _key(prompt: Prompt) -> str:
    """The same for prompts that differ only in white space or Unicode composition."""
    return normal(in_words(prompt))
