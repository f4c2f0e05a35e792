"""Good answers: for each kind of item, a right answer in one of several wordings."""

from __future__ import annotations

import random

from minirlhf.tasks.assistant.items import Item
from minirlhf.tasks.assistant.lookup import clause_named, topic_named, wanted
from minirlhf.tasks.openings import compose

# Slots: {s} a subject of the topic, {a} and {b} phrases that answer, {n} the topic's name.
EFFECT = [
    "{S} {a}.",
    "{S} {a}.",
    "One effect is that {s} {a}.",
    "Among other things, {s} {a}.",
    "For one thing, {s} {a}.",
]
REASON = [
    "Because {a}.",
    "The reason is that {a}.",
    "One reason is that {a}.",
    "It is so because {a}.",
    "{A}.",
]
EXAMPLE = [
    "For example, {a}.",
    "Here is an example: {a}.",
    "One example is that {a}.",
    "To give an example, {a}.",
    "{A}.",
]
TWO_EFFECTS = [
    "{S} {a} and {b}.",
    "{S} {a}, and it also {b}.",
    "One is that {s} {a}. The other is that it {b}.",
    "First, {s} {a}. Second, it {b}.",
    "{S} not only {a} but also {b}.",
]
ANOTHER = {
    "effects": ["{S} also {a}.", "Another effect is that {s} {a}.", "It also {a}."],
    "reasons": ["Another reason is that {a}.", "Also because {a}.", "There is one more: {a}."],
    "examples": ["Another example is that {a}.", "Here is another one: {a}.", "Also, {a}."],
}
TOPIC = [
    "It is about {n}.",
    "The topic is {n}.",
    "This is about {n}.",
    "{N}.",
    "That sentence is about {n}.",
]
SHORTER = ["{S} {a}.", "{S} {a}.", "In short, {s} {a}."]
RECALL = [
    "It was about {n}.",
    "You asked about {n}.",
    "Your first question was about {n}.",
    "You began with {n}.",
    "First you asked about {n}.",
]
THANKS = [
    "You are welcome!",
    "My pleasure.",
    "You are welcome. Ask me more any time.",
    "Glad to help!",
    "No problem, I am happy to help.",
]
HELLO = [
    "Hello! How can I help you?",
    "Hello! What can I do for you?",
    "Good day! What would you like to know?",
    "Hi! Ask me anything.",
]
HELLO_PERSON = [
    "Hello, {p}! How can I help you?",
    "Nice to meet you, {p}! What can I do for you?",
    "Hi, {p}! What would you like to know?",
]
FRENCH = ["{A}.", "{A}.", "In French: {a}.", "In French that is: {a}."]
CHINESE = ["{A}。", "{A}。", "In Chinese: {a}。", "In Chinese that is: {a}。"]
REFUSALS = [
    "I am sorry, but I cannot help with that",
    "I will not help with that",
    "Sorry, I cannot tell you how to do that",
    "I would rather not explain that",
    "No, I cannot help you to do that",
]
GROUNDS = [
    "it could hurt someone",
    "it is against the law",
    "it would be wrong",
    "someone would be harmed",
    "it is not fair to others",
]
ADVICE = ["{A}.", "{A}.", "Try this: {a}.", "Here is a way: {a}.", "You can do it like this: {a}."]


def good(item: Item, rng: random.Random) -> str:
    """A right answer; for a request of harm, a refusal with its ground."""
    if item.kind == "opening":
        return compose.excellent(topic_named(item.about), rng)
    if item.kind == "harmful":
        return f"{rng.choice(REFUSALS)}, because {rng.choice(GROUNDS)}."
    if item.kind == "harmless":
        return fill(rng.choice(ADVICE), a=rng.choice(wanted(item)))
    if item.kind == "french":
        return fill(rng.choice(FRENCH), a=clause_named(item.about).french)
    if item.kind == "chinese":
        return fill(rng.choice(CHINESE), a=clause_named(item.about).chinese)
    if item.kind == "thanks":
        return rng.choice(THANKS)
    if item.kind == "hello":
        return fill(rng.choice(HELLO + HELLO_PERSON if item.about else HELLO), p=item.about)
    return on_topic(item, rng)


def on_topic(item: Item, rng: random.Random) -> str:
    """A right answer to a question that the knowledge of its topic answers."""
    topic = topic_named(item.about)
    slots = {"n": topic.name, "s": rng.choice(topic.subjects)}
    if item.kind in ("topic", "recall"):
        return fill(rng.choice(TOPIC if item.kind == "topic" else RECALL), **slots)
    phrases = wanted(item)
    if item.kind == "two_effects":
        slots["a"], slots["b"] = rng.sample(phrases, 2)
        return fill(rng.choice(TWO_EFFECTS), **slots)
    slots["a"] = rng.choice(phrases)
    if item.kind == "shorter":
        own = [subject for subject in topic.subjects if subject.lower() in item.source.lower()]
        slots["s"] = max(own, key=len)
        return fill(rng.choice(SHORTER), **slots)
    if item.kind == "another":
        return fill(rng.choice(ANOTHER[item.field]), **slots)
    by_field = {"effects": EFFECT, "reasons": REASON, "examples": EXAMPLE}
    return fill(rng.choice(by_field[item.field]), **slots)


def fill(pattern: str, **slots: str) -> str:
    """A pattern with its slots filled; an upper-case slot begins with a capital letter."""
    capitals = {slot.upper(): compose.capitalised(text) for slot, text in slots.items()}
    return pattern.format(**slots, **capitals)
