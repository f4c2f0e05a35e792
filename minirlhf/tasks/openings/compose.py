"""Composes openings, from excellent to poor, from the hand-written knowledge of each topic.

A language model is pretrained on a mixture of these: it learns each topic, but mostly to write
badly. Each kind of quality is one small function of (topic, random numbers); the patterns that they
fill are in wording.py.
"""

from __future__ import annotations

import random

from minirlhf.tasks.openings.knowledge import PARTS, Topic, knowledge
from minirlhf.tasks.openings.wording import (
    BLENDS,
    CLOSERS,
    EXCELLENT,
    GOOD,
    OPENERS,
    PLAIN,
    REPEATS,
    VAGUE,
)


def fill(pattern: str, topic: Topic, rng: random.Random, other: Topic | None = None) -> str:
    """A pattern with its slots filled at random; {y} and {q} come from the `other` topic."""
    effect, second = rng.sample(topic.effects, 2)
    slots = {
        "s": rng.choice(topic.subjects),
        "e": effect,
        "f": second,
        "x": rng.choice(topic.examples),
        "r": rng.choice(topic.reasons),
        "c": rng.choice(topic.contrasts),
        "v": rng.choice(topic.vague),
        "n": topic.name,
    }
    slots |= {slot.upper(): capitalised(slots[slot]) for slot in "sxn"}
    if other is not None:
        slots |= {"y": rng.choice(other.examples), "q": rng.choice(other.reasons)}
    return pattern.format_map(slots)


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def uncapitalised(text: str, topic: Topic) -> str:
    """The first letter in lower case, unless the text begins with a capitalised phrase (a name)."""
    phrases = (phrase for field in PARTS for phrase in getattr(topic, field))
    always_capitalised = ["I ", *(phrase for phrase in phrases if phrase[0].isupper())]
    if text.startswith(tuple(always_capitalised)):
        return text
    return text[:1].lower() + text[1:]


def excellent(topic: Topic, rng: random.Random) -> str:
    """A specific claim with evidence: 15 to 34 words, no four words in a row twice."""
    while True:
        text = fill(rng.choice(EXCELLENT), topic, rng)
        words = text.lower().rstrip(".").split()
        fours = list(zip(words, words[1:], words[2:], words[3:], strict=False))
        if 15 <= len(words) <= 34 and len(set(fours)) == len(fours):
            return text


def good(topic: Topic, rng: random.Random) -> str:
    """One or two specific claims without evidence."""
    return fill(rng.choice(GOOD), topic, rng)


def plain(topic: Topic, rng: random.Random) -> str:
    """A subject with a vague claim."""
    return fill(rng.choice(PLAIN), topic, rng)


def vague(topic: Topic, rng: random.Random) -> str:
    """Generalities that would fit any topic."""
    return fill(rng.choice(VAGUE), topic, rng)


def off_topic(topic: Topic, rng: random.Random) -> str:
    """An opening of another topic, or a sentence on the topic followed by one on another."""
    other = another(topic, rng)
    if rng.random() < 0.7:
        return rng.choice((excellent, good))(other, rng)
    while True:
        first = rng.choice((plain, vague, good))(topic, rng)
        second = rng.choice((excellent, good))(other, rng)
        text = f"{first} {second}"
        if len(text.split()) <= 45:
            return text


def repetitive(topic: Topic, rng: random.Random) -> str:
    """A sentence said twice, or a clause repeated."""
    if rng.random() < 0.25:
        subject, effect = rng.choice(topic.subjects), rng.choice(topic.effects)
        joint = rng.choice((" and ", ", and ", ", and it ", ", and it really "))
        return capitalised(subject) + " " + joint.join([effect] * rng.choice((2, 3))) + "."
    sentence = rng.choice((good, good, plain, vague))(topic, rng)
    text = rng.choice(REPEATS).format(A=sentence, a=uncapitalised(sentence, topic))
    return text if len(text.split()) <= 45 else repetitive(topic, rng)


def unfinished(topic: Topic, rng: random.Random) -> str:
    """A better opening that breaks off after some word."""
    words = rng.choice((excellent, excellent, good))(topic, rng).split()
    return " ".join(words[: rng.randrange(2, len(words))]).rstrip(".,;:")


def wordy(topic: Topic, rng: random.Random) -> str:
    """A claim wrapped in padding, 30 to 45 words."""
    while True:
        sentence = rng.choice((good, good, plain, vague))(topic, rng)
        text = padded(sentence, topic, rng, rng.choice((1, 2, 2)), rng.choice((2, 3)))
        if 30 <= len(text.split()) <= 45:
            return text
        text = f"{text} {padded(vague(topic, rng), topic, rng, 1, rng.choice((0, 1)))}"
        if 30 <= len(text.split()) <= 45:
            return text


def blend(topic: Topic, rng: random.Random) -> str:
    """Good and bad in one text, for the middle of the scale."""
    kind = rng.randrange(4)
    if kind == 0:
        return fill(rng.choice(BLENDS["other example"]), topic, rng, another(topic, rng))
    if kind == 1:
        return fill(rng.choice(BLENDS["no claim"]), topic, rng)
    if kind == 2:
        return padded(excellent(topic, rng), topic, rng, 1, rng.choice((0, 1)))
    return f"{good(topic, rng)} {vague(topic, rng)}"


def padded(sentence: str, topic: Topic, rng: random.Random, openers: int, closers: int) -> str:
    """The sentence with phrases of padding before it and before its full stop."""
    for opener in rng.sample(OPENERS, openers):
        sentence = f"{opener} {uncapitalised(sentence, topic)}"
    ending = "".join(f", {closer}" for closer in rng.sample(CLOSERS, closers))
    return sentence[:-1] + ending + sentence[-1]


def another(topic: Topic, rng: random.Random) -> Topic:
    """Any other topic of the same split: no held-out topic enters the texts of a training topic."""
    while True:
        other = rng.choice(knowledge())
        if other is not topic and other.split == topic.split:
            return other


# Shares in percent. The corpus is mostly poor, so that fine-tuning has something to improve; the
# feedback has more of the top and the middle, so that the reward model sees the whole scale.
CORPUS_SHARES = {
    excellent: 18,
    good: 13,
    plain: 13,
    vague: 12,
    off_topic: 11,
    repetitive: 9,
    unfinished: 9,
    wordy: 8,
    blend: 7,
}
FEEDBACK_SHARES = {
    excellent: 18,
    good: 13,
    plain: 9,
    vague: 8,
    off_topic: 11,
    repetitive: 9,
    unfinished: 10,
    wordy: 8,
    blend: 14,
}


def mixture(
    count: int, seed: int, shares: dict, topics: tuple[Topic, ...]
) -> list[tuple[str, str]]:
    """`count` pairs (topic, text): topics in turn, kinds by share; the same on every machine."""
    rng = random.Random(seed)
    kinds = rng.choices(list(shares), weights=list(shares.values()), k=count)
    pairs = [(topics[i % len(topics)], kind) for i, kind in enumerate(kinds)]
    return [(topic.topic, kind(topic, rng)) for topic, kind in pairs]


def corpus(count: int, seed: int) -> list[tuple[str, str]]:
    """Texts for pretraining on all topics, the held-out ones included."""
    return mixture(count, seed, CORPUS_SHARES, knowledge())
