"""A conversation as a prompt (对话): turns of a user and of the assistant.

In a file a conversation is a list of turns, the user's first and last:

    [{"role": "user", "text": "Why sleep?"}, {"role": "assistant", "text": "It mends memory."},
     {"role": "user", "text": "And why is that?"}]

A prompt is either a topic (a string) or a conversation that waits for an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar


@dataclass(frozen=True, order=True)
class Turn:
    """One turn of a conversation; `role` is "user" or "assistant"."""

    role: str
    text: str


Conversation = tuple[Turn, ...]
Prompt = str | Conversation
AnyPrompt = TypeVar("AnyPrompt", bound=Prompt)
ROLES = ("user", "assistant")


def question_of(prompt: Prompt) -> str:
    """The topic, or the user's last turn."""
    return prompt if isinstance(prompt, str) else prompt[-1].text


def exchanges(prompt: Prompt) -> list[tuple[str, str]]:
    """The earlier (question, answer) pairs of a conversation, oldest first; [] for a topic.

    Raises ValueError unless user and assistant take turns and the user speaks first and last.
    """
    if isinstance(prompt, str):
        return []
    for place, turn in enumerate(prompt):
        wanted = ROLES[place % 2]
        if turn.role != wanted:
            raise ValueError(f"turn {place + 1}: expected role {wanted!r}, found {turn.role!r}")
    if len(prompt) % 2 == 0:
        raise ValueError(f"turns: expected the user's as the last, found {len(prompt)} turns")
    return [(prompt[i].text, prompt[i + 1].text) for i in range(0, len(prompt) - 1, 2)]


def as_conversation(prompt: Prompt) -> Conversation:
    """A topic as a conversation of one turn: to a model they are the same."""
    return (Turn(ROLES[0], prompt),) if isinstance(prompt, str) else prompt


def in_words(prompt: Prompt) -> str:
    """The prompt as a text, to show and to train a tokenizer on: each turn on a line."""
    return prompt if isinstance(prompt, str) else "\n".join(turn.text for turn in prompt)


def in_row(prompt: Prompt) -> dict:
    """The prompt as it stands in samples.jsonl: in words, and a conversation also as turns."""
    row: dict = {"topic": in_words(prompt)}
    if not isinstance(prompt, str):
        row["turns"] = to_json(prompt)
    return row


def to_json(prompt: Prompt) -> str | list[dict[str, str]]:
    """The prompt as it stands in a file."""
    if isinstance(prompt, str):
        return prompt
    return [{"role": turn.role, "text": turn.text} for turn in prompt]


def from_json(value: str | list[dict[str, str]]) -> Prompt:
    """The inverse of `to_json`, of a value without faults (checks.prompt_faults)."""
    if isinstance(value, str):
        return value
    return tuple(Turn(turn["role"], turn["text"]) for turn in value)
