"""What one sees of a text: its tokens with their numbers, its scores and the judge's reasons.

Plain data: it imports no model, so that a page can be made without any.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from minirlhf.feedback import conversation
from minirlhf.feedback.conversation import Prompt


@dataclass(frozen=True)
class Alternative:
    """Another token that could have stood here, and its probability at temperature 1."""

    text: str  # printable
    token: int
    probability: float


@dataclass(frozen=True)
class TokenLook:
    """One token y_t of a text, seen by the models. Numbers are None where a model is missing."""

    text: str  # printable: control characters, changes of direction and half characters as escapes
    token: int
    # r_t = r_phi(x, y_1:t) in [0, 1] (E4); the score of the text so far.
    prefix_score: float | None
    # The weight that training would give to this token: see look_inside/advantage.py.
    advantage: float | None
    log_probability: float  # log p(y_t | x, y_<t) (E3), nats, at temperature 1
    # log p(y_t | x, y_<t) - log p_ref(y_t | x, y_<t), nats: this token's share of the KL estimate.
    log_ratio: float
    entropy: float  # of p(. | x, y_<t), nats
    likeliest: tuple[Alternative, ...]  # the five likeliest other tokens, likeliest first


@dataclass(frozen=True)
class TextLook:
    """A text, seen by the models of a run. `stage` is who wrote it: base, sft or tuned."""

    prompt: Prompt
    text: str
    stage: str
    tokens: tuple[TokenLook, ...]  # the end token included, if the text has ended
    score: float | None  # the reward model's, of the whole text, in [0, 1]; None without a model
    initial_score: float | None  # r_0, the reward model's score of the prompt alone
    judge: float | None  # in [0, 1]; None if the judge does not know this prompt
    reasons: tuple[str, ...]  # why the judge says so, in words; or why it says nothing
    kl: float  # nats: the sum of all log ratios, an estimate of the KL from this one sample
    ended: bool  # False if the text was cut off or does not fit the context


def to_json(look: TextLook) -> dict:
    """The look as plain JSON data; a conversation is a list of turns."""
    return dataclasses.asdict(look) | {"prompt": conversation.to_json(look.prompt)}


def from_json(row: dict) -> TextLook:
    """The inverse of `to_json`. Raises KeyError or TypeError for a row that is none."""
    tokens = tuple(
        TokenLook(
            **token | {"likeliest": tuple(Alternative(**other) for other in token["likeliest"])}
        )
        for token in row["tokens"]
    )
    prompt, reasons = conversation.from_json(row["prompt"]), tuple(row["reasons"])
    return TextLook(**row | {"prompt": prompt, "reasons": reasons, "tokens": tokens})
