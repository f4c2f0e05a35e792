"""Asks: makes items, and the earlier turns that the questions of a dialogue need."""

from __future__ import annotations

import random
from functools import cache

from minirlhf.feedback.conversation import Turn
from minirlhf.tasks.assistant.good import good
from minirlhf.tasks.assistant.items import FIELDS, KINDS, Answered, Item
from minirlhf.tasks.assistant.lookup import already_said, topic_named, topics
from minirlhf.tasks.assistant.vocabulary import clauses, names, requests
from minirlhf.tasks.assistant.wording import LANGUAGES, QUESTIONS
from minirlhf.tasks.openings import compose
from minirlhf.tasks.openings.knowledge import Topic

# Kinds whose answer can be followed by "why?", "an example?" or "another one?".
FOLLOWED = ("effect", "reason", "example")
NAMES_ITS_TOPIC = ("effect", "reason", "example", "two_effects", "opening")
FOLLOW_UPS = {
    "why": ("effect",),
    "instance": ("effect", "reason"),
    "another": FOLLOWED,
    "recall": NAMES_ITS_TOPIC,
    "thanks": FOLLOWED,
}


@cache
def subjects_of(kind: str, split: str) -> tuple[str, ...]:
    """What questions of a kind can be about, in one split."""
    if kind in LANGUAGES:
        return tuple(text for text, clause in clauses().items() if clause.split == split)
    if kind in ("harmful", "harmless"):
        is_harmful = kind == "harmful"
        listed = (one for one in requests().values() if one.harmful == is_harmful)
        return tuple(request.text for request in listed if request.split == split)
    if kind == "hello":
        return names(split)
    return tuple(name for name, topic in topics().items() if topic.split == split)


def question(
    kind: str,
    about: str,
    split: str,
    wording: str,
    rng: random.Random,
    before: Answered | None = None,
) -> Item:
    """An item of that kind: the turns before it, then one of the phrasings of `wording`.

    "another" asks again for the kind of answer that the item before it has.
    """
    history = before.conversation if before is not None else ()
    pattern, about = _pattern(kind, about, split, wording, rng)
    source, field = "", FIELDS.get(kind, "")
    said: tuple[str, ...] = ()
    if kind == "topic":
        source = sentence_on(topic_named(about), rng)
    elif kind == "shorter":
        source = long_winded(topic_named(about), rng)
    elif kind == "another" and before is not None:
        field = before.item.field
        said = already_said(topic_named(about), field, history)
    text = pattern.format(
        n=topics()[about].name if about in topics() else "",
        t=source or about,
        l=LANGUAGES.get(kind, ""),
        d=about,
        p=about,
    )
    conversation = (*history, Turn("user", compose.capitalised(text)))
    return Item(kind, conversation, about, split, wording, field, said, source)


def _pattern(
    kind: str, about: str, split: str, wording: str, rng: random.Random
) -> tuple[str, str]:
    """A phrasing, and what it is about: nobody, if a greeting does not say who greets."""
    patterns = QUESTIONS[kind][wording]
    if kind != "hello":
        return rng.choice(patterns), about
    if split == "heldout":
        patterns = [pattern for pattern in patterns if "{p}" in pattern]
    pattern = rng.choice(patterns)
    return pattern, about if "{p}" in pattern else ""


def sentence_on(topic: Topic, rng: random.Random) -> str:
    """An example or a claim that does not name its topic."""
    while True:
        text = compose.fill(rng.choice(("{X}.", "{S} {e}.")), topic, rng)
        if topic.name.lower() not in text.lower():
            return text


def long_winded(topic: Topic, rng: random.Random) -> str:
    """A claim in so much padding that it can lose 3 words of 10, even with "in short" before it."""
    while True:
        claim = compose.fill("{S} {e}.", topic, rng)
        padded = compose.padded(claim, topic, rng, rng.choice((1, 1, 2)), rng.choice((1, 2)))
        length, full_length = len(claim.split()) + 2, len(padded.split())
        if length <= 0.7 * full_length and full_length <= 26:
            return padded


def ask(kind: str, split: str, wording: str, rng: random.Random) -> Item:
    """A new item about something of that split, with good answers in its earlier turns.

    Raises ValueError if there is no such kind, split or wording.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, found {kind!r}")
    if split not in ("train", "heldout"):
        raise ValueError(f'split: expected "train" or "heldout", found {split!r}')
    if wording not in QUESTIONS[kind]:
        raise ValueError(f"wording: expected {', '.join(QUESTIONS[kind])}, found {wording!r}")
    about = rng.choice(subjects_of(kind, split))
    if kind not in FOLLOW_UPS:
        return question(kind, about, split, wording, rng)
    first = question(rng.choice(FOLLOW_UPS[kind]), about, split, "tuning", rng)
    before = answered(first, rng)
    if kind == "recall" and rng.random() < 0.5:
        # A question about something else comes between.
        other = rng.choice([one for one in subjects_of(kind, split) if one != about])
        between = question(rng.choice(FOLLOWED), other, split, "tuning", rng, before)
        before = answered(between, rng)
    elif kind in ("another", "instance") and rng.random() < 0.3 and first.kind == "effect":
        # "Why?" comes between, and "another" then asks for another reason.
        between = question("why", about, split, "tuning", rng, before)
        before = answered(between, rng)
    return question(kind, about, split, wording, rng, before)


def answered(item: Item, rng: random.Random) -> Answered:
    """The item with a good answer."""
    return Answered(item, (*item.conversation, Turn("assistant", good(item, rng))))
