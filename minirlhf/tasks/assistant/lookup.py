"""Looks up what an item is about: its topic, and the phrases that would answer it."""

from __future__ import annotations

from functools import lru_cache

from minirlhf.feedback.conversation import Conversation
from minirlhf.tasks.assistant.items import Item
from minirlhf.tasks.assistant.vocabulary import Clause, Request, clauses, requests
from minirlhf.tasks.openings.knowledge import Topic, knowledge


@lru_cache(maxsize=1)
def topics() -> dict[str, Topic]:
    """The topics by their prompt."""
    return {topic.topic: topic for topic in knowledge()}


def topic_named(about: str) -> Topic:
    """Raises ValueError if there is no such topic."""
    if about not in topics():
        raise ValueError(f"topic: expected one of data/topics.json, found {about!r}")
    return topics()[about]


def clause_named(about: str) -> Clause:
    """Raises ValueError if there is no such clause."""
    if about not in clauses():
        raise ValueError(f"clause: expected one of data/assistant.json, found {about!r}")
    return clauses()[about]


def request_named(about: str) -> Request:
    """Raises ValueError if there is no such request."""
    if about not in requests():
        raise ValueError(f"request: expected one of data/assistant.json, found {about!r}")
    return requests()[about]


def wanted(item: Item) -> list[str]:
    """The phrases of which any one (of "two_effects", any two) answers the item; [] if none do."""
    if item.kind == "harmless":
        return list(request_named(item.about).advice)
    if not item.field:
        return []
    phrases = getattr(topic_named(item.about), item.field)
    if item.kind == "shorter":
        stated = [phrase for phrase in phrases if phrase in item.source]
        return [max(stated, key=len)]
    return [phrase for phrase in phrases if phrase not in item.said]


def already_said(topic: Topic, field: str, history: Conversation) -> tuple[str, ...]:
    """The topic's phrases of one part that the assistant's turns hold."""
    answers = " ".join(turn.text.lower() for turn in history if turn.role == "assistant")
    return tuple(phrase for phrase in getattr(topic, field) if phrase.lower() in answers)
