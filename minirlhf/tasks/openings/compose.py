"""Composes openings, from excellent to poor, from the hand-written knowledge of each topic.

A language model is pretrained on a mixture of these: it learns each topic, but mostly to write
badly. Each kind of quality is one small function of (topic, random numbers). Slots: {s} subject,
{e} and {f} two effects, {x} example, {r} reason, {c} contrast, {n} the topic's name, {v} a vague
verb phrase, {y} and {q} another topic's example and reason; upper case starts a sentence.
"""

from __future__ import annotations

import random

from minirlhf.tasks.openings.knowledge import PARTS, Topic, knowledge

EXCELLENT = [
    "{S} {e}: {x}.",
    "{S} {e}, because {r}.",
    "{S} {e}, and {x}.",
    "{S} {e} because {r}; {x}.",
    "{S} {e} and {f}: {x}.",
    "{S} {e} and {f}, because {r}.",
    "{S} {e}. For example, {x}.",
    "{S} not only {e} but also {f}: {x}.",
    "{S} {e}, and it also {f} because {r}.",
    "While {c}, {s} {e}, and {x}.",
    "While {c}, {s} {e} because {r}.",
    "While {c}, {s} {e} and {f}.",
    "Because {r}, {s} {e}: {x}.",
    "Because {r}, {s} {e} and {f}.",
    "{X}, and more broadly, {s} {e}.",
    "{X}. Because {r}, {s} {e}.",
    "{X}: {s} {e} because {r}.",
]
GOOD = [
    "{S} {e}.",
    "{S} {e} and {f}.",
    "{S} {e}, and it also {f}.",
    "{S} not only {e} but also {f}.",
    "{S} {e}. It also {f}.",
    "It is worth knowing that {s} {e}.",
    "Few people know that {s} {e}.",
    "Those who care about {n} know that {s} {e}.",
]
PLAIN = [
    "{S} {v}.",
    "{S} {v}, and people notice it.",
    "{S} {v}, and most of us have seen it.",
    "When people talk about {n}, they say that {s} {v}.",
    "I think that {s} {v}.",
    "Many of us feel that {s} {v}.",
    "For most people, {s} {v}.",
]
# Each says nothing. The fixed words between the slots count as filler for the judge.
VAGUE = [
    "There are many things to say about {n}.",
    "A subject such as {n} is interesting to many people.",
    "When it comes to {n}, there is a lot to think about.",
    "Many people have different opinions about {n}, and that is fine.",
    "Everyone has heard of {n} at some point in their life.",
    "In this text I will talk about {n} and why it is a big subject.",
    "Much can be said about {n}, since there are good sides and bad sides.",
    "People have been talking about {n} for a very long time.",
    "There is more to {n} than meets the eye.",
    "We all know something about {n}, and it is good to know more.",
    "{N} and other things like that play a role in our lives.",
    "Nobody can deny that {n} can be important in many ways.",
    "Some people like to think about {n}, and some people do not.",
    "It is nice to learn about {n}, since it is a good thing.",
    "Most of us have thought about {n}, which is something to think about.",
    "The world would be a different place without {n}.",
    "If you look at {n}, you will find all kinds of things.",
    "A lot has been written about {n}, and a lot more will be.",
    "With {n} there are always things that matter more or less.",
    "Every person has a view on {n}, and every view counts.",
    "One could go on and on about {n} without ever coming to an end.",
    "The subject of {n} comes up again and again in daily life.",
    "For better or worse, {n} will be with us for years to come.",
    "Whether we like it or not, {n} means something to everybody.",
]
OPENERS = [
    "It goes without saying that",
    "In this day and age,",
    "As we all know,",
    "At the end of the day,",
    "When all is said and done,",
    "It is important to note that",
    "Needless to say,",
    "In today's modern world,",
    "Generally speaking, it can be said that",
    "As far as I am concerned,",
    "To be perfectly honest,",
    "Since the dawn of time,",
    "It would be fair to say that",
    "All things considered,",
    "As a matter of fact,",
]
CLOSERS = [
    "in many different ways",
    "to a certain extent",
    "for all intents and purposes",
    "in one way or another",
    "more or less all the time",
    "at this point in time",
    "in some shape or form",
    "when you really think about it",
    "as the saying goes",
    "if you will",
    "as has often been said",
    "each and every time",
    "and so on and so forth",
    "and things of that nature",
    "and that is just the way it is",
]
REPEATS = [
    "{A} {A}",
    "{A} Yes, {a}",
    "{A} That is to say, {a}",
    "{A} Again, {a}",
    "{A} I repeat: {a}",
]
BLENDS = {
    "other example": [
        "{S} {e}: {y}.",
        "{S} {e}, and {y}.",
        "{S} {e}. For example, {y}.",
        "{S} {e} and {f}, because {q}.",
        "{S} {e}, because {q}.",
    ],
    "no claim": [
        "There are many things to say about {n}: {x}.",
        "{X}, and that is fine.",
        "Many of us feel that {s} {v}, because {r}.",
        "{S} {v}: {x}.",
        "{S} {v}, because {r}.",
        "When it comes to {n}, there is a lot to think about: {x}.",
    ],
}


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
        fours = list(zip(words, words[1:], words[2:], words[3:]))
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
