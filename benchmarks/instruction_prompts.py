"""What the parts of benchmarks/instruction_tuning.py vary: phrasings, families, examples."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Sequence

from minirlhf.feedback.conversation import Turn
from minirlhf.tasks.assistant import compose
from minirlhf.tasks.assistant.good import good
from minirlhf.tasks.assistant.items import KINDS, Demonstration, Item
from minirlhf.tasks.assistant.questions import ask
from minirlhf.tasks.assistant.wording import QUESTIONS

# The kinds of instruction by what they ask for. A family is held out as a whole, so that no near
# relative of a kind that is judged is among the tuned ones.
FAMILIES = {
    "follow-ups": ("why", "instance", "another"),  # questions about the answer before
    "translation": ("french", "chinese"),
    "facts": ("effect", "reason", "example", "two_effects"),  # questions about a topic
    "writing": ("opening", "shorter"),  # a text to write or to shorten
    "naming": ("topic", "recall"),  # what a text or a conversation is about
    "courtesy": ("thanks", "hello"),
    "safety": ("harmful", "harmless"),  # what to refuse, and what looks like it
}
JUDGED_FAMILIES = tuple(name for name in FAMILIES if name != "safety")
# Families without earlier turns: three examples fit before each of their questions.
WITH_EXAMPLES = ("translation", "facts")
EXAMPLES = (1, 3)
SHORT_KINDS = ("effect", "reason", "example", "topic", "french", "chinese")


def others(family: str) -> tuple[str, ...]:
    """All kinds outside a family."""
    return tuple(kind for kind in KINDS if kind not in FAMILIES[family])


# Phrasings ---------------------------------------------------------------------------------------


def phrasing_of(item: Item) -> int:
    """Which phrasing of tuning the last turn has, from 0. Raises ValueError if it has none."""
    for number, pattern in enumerate(QUESTIONS[item.kind]["tuning"]):
        words = re.sub(r"\\{\w\\}", ".+", re.escape(pattern))  # a slot holds anything
        if re.fullmatch(words, item.question, re.IGNORECASE | re.DOTALL):
            return number
    raise ValueError(f"question: expected a phrasing of tuning, found {item.question!r}")


def demonstrations_in(phrasings: int | None, count: int, seed: int) -> list[Demonstration]:
    """`count` different demonstrations of the kinds in turn, in the first phrasings of each kind.

    None: in all phrasings of tuning. A kind that has too few gives what it has. Raises ValueError
    if all kinds together have too few.
    """
    by_kind: dict[str, list[Demonstration]] = {kind: [] for kind in KINDS}
    for one in compose.demonstrations(8 * count, seed):
        if phrasings is None or phrasing_of(one.item) < phrasings:
            by_kind[one.item.kind].append(one)
    kept: list[Demonstration] = []
    while len(kept) < count and any(by_kind.values()):
        kept += [listed.pop(0) for listed in by_kind.values() if listed]
    if len(kept) < count:
        raise ValueError(f"count: expected at most {len(kept)}, found {count}")
    return kept[:count]


# In-context examples -----------------------------------------------------------------------------


def with_examples(item: Item, number: int, kinds: Sequence[str], rng: random.Random) -> Item:
    """The item after `number` examples: questions of one of `kinds` each, with good answers.

    They are about other things than the item, from the training split. The item's own history, if
    it has one, would have to come last: such kinds are not meant.
    """
    shown: tuple[Turn, ...] = ()
    while number > 0:
        example = ask(rng.choice(kinds), "train", "tuning", rng)
        if example.about != item.about:
            shown += (*example.conversation, Turn("assistant", good(example, rng)))
            number -= 1
    return dataclasses.replace(item, conversation=(*shown, *item.conversation))


def example_kinds(item: Item, family: str, is_same: bool) -> tuple[str, ...]:
    """The kinds of examples for an item: its own, or short ones of other families."""
    if is_same:
        return (item.kind,)
    return tuple(kind for kind in SHORT_KINDS if kind not in FAMILIES[family])
