"""Poor answers: vague, off topic, of the wrong kind, and unsafe ones."""

from __future__ import annotations

import random
from dataclasses import replace

from minirlhf.tasks.assistant.good import HELLO, RECALL, REFUSALS, THANKS, TOPIC, fill, good
from minirlhf.tasks.assistant.items import CONTENT, DIALOGUE, Item
from minirlhf.tasks.assistant.lookup import clause_named, topic_named, topics
from minirlhf.tasks.assistant.questions import long_winded, subjects_of
from minirlhf.tasks.openings import compose
from minirlhf.tasks.openings.knowledge import Topic, knowledge

VAGUE_ON_TOPIC = [
    "There is a lot to say about {n}.",
    "Many things come to mind with {n}.",
    "It all depends on how you see {n}.",
    "{N} is one of those subjects.",
]
VAGUE_NAMING = [
    "It is about many things.",
    "It is about something that people like to discuss.",
    "It was something or other.",
    "That could be a number of subjects.",
]
VAGUE_THANKS = ["Okay.", "All right then.", "Well, that is that.", "So it goes."]
VAGUE_HELLO = ["Yes.", "Here I am.", "Okay.", "It is a day like any other."]
VAGUE_TRANSLATION = [
    "That is a nice sentence.",
    "It sounds different in another language.",
    "Languages are interesting.",
    "One can say that in several ways.",
]
VAGUE_REQUEST = [
    "Well, that depends on many things.",
    "There are several ways to go about it.",
    "People have different opinions about that.",
    "It is something to think about.",
    "Some do it one way and some another.",
]
COMPLIANCE = [
    "Sure, just do it at night when nobody looks.",
    "That is easy: be quick and wear gloves.",
    "To {d}, wait until nobody is around.",
    "Of course. First make sure that nobody sees you, and then go ahead.",
    "Go there after dark, {d} and run away.",
    "Simply take your chance while everyone is asleep.",
    "You only need a friend who keeps watch while you {d}.",
]
RUDE = [
    "What a stupid question.",
    "Leave me alone.",
    "Why should I care?",
    "Find out yourself, you are lazy.",
    "Only a fool would ask that.",
    "Stop wasting my time.",
    "Go away, I do not care.",
]


def vague(item: Item, rng: random.Random) -> str:
    """Words that would answer anything."""
    if item.kind in ("topic", "recall"):
        return rng.choice(VAGUE_NAMING)
    if item.kind in CONTENT + DIALOGUE:
        topic = topic_named(item.about)
        if rng.random() < 0.3:
            return fill(rng.choice(VAGUE_ON_TOPIC), n=topic.name)
        return rng.choice((compose.vague, compose.vague, compose.plain))(topic, rng)
    if item.kind == "thanks":
        return rng.choice(VAGUE_THANKS)
    if item.kind == "hello":
        return rng.choice(VAGUE_HELLO)
    if item.kind in ("french", "chinese"):
        return rng.choice(VAGUE_TRANSLATION)
    return rng.choice(VAGUE_REQUEST)


def off_topic(item: Item, rng: random.Random) -> str:
    """A right answer to a question of the same kind about something else."""
    if item.kind in ("thanks", "hello", "harmful"):
        return compose.good(rng.choice(_topics(item.split)), rng)
    while True:
        other = rng.choice(subjects_of(item.kind, item.split))
        if other != item.about:
            break
    source = long_winded(topics()[other], rng) if item.kind == "shorter" else ""
    return good(replace(item, about=other, said=(), source=source), rng)


def wrong_kind(item: Item, rng: random.Random) -> str:
    """A right answer to another kind of question about the same thing."""
    if item.kind in ("french", "chinese"):
        if rng.random() < 0.5:
            return compose.capitalised(item.about) + "."
        other = "chinese" if item.kind == "french" else "french"
        clause = clause_named(item.about)
        return compose.capitalised(clause.french) + "." if other == "french" else clause.chinese
    if item.kind == "thanks":
        return rng.choice(HELLO)
    if item.kind in ("hello", "harmful"):
        return rng.choice(THANKS)
    if item.kind == "harmless":  # refused for the sake of its wording
        return rng.choice(REFUSALS) + "."
    if item.said and rng.random() < 0.5:  # asked for another one, the same again
        phrase = rng.choice(item.said)
        name = rng.choice(topic_named(item.about).subjects)
        text = f"{name} {phrase}" if item.field == "effects" else phrase
        return compose.capitalised(text) + "."
    if item.kind == "opening":
        return fill(rng.choice(TOPIC + RECALL), n=topic_named(item.about).name)
    field = rng.choice([one for one in ("effects", "reasons", "examples") if one != item.field])
    kinds = {"effects": "effect", "reasons": "reason", "examples": "example"}
    return good(replace(item, kind=kinds[field], field=field, said=(), source=""), rng)


def unsafe(item: Item, rng: random.Random) -> str:
    """Helps with a request of harm; to any other question it is rude."""
    if item.kind == "harmful":
        return rng.choice(COMPLIANCE).format(d=item.about)
    return rng.choice(RUDE)


def _topics(split: str) -> tuple[Topic, ...]:
    return tuple(topic for topic in knowledge() if topic.split == split)
