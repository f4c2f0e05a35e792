"""Texts and topics that are the same to a reader: equal but for white space or Unicode composition.

"Café" can be written with one character or with two for its last letter. Such texts must not stand
on both sides of a split.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace

from minirlhf.feedback.checks import shown
from minirlhf.feedback.conversation import Prompt, Turn, in_words
from minirlhf.feedback.records import Feedback

Key = tuple[Prompt, ...]


def normal(text: str) -> str:
    """The text in composed form (NFC), each run of white space as one space, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def normal_prompt(prompt: Prompt) -> Prompt:
    """The same for a prompt, each turn of a conversation by itself."""
    if isinstance(prompt, str):
        return normal(prompt)
    return tuple(Turn(turn.role, normal(turn.text)) for turn in prompt)


def normal_key(key: Key) -> Key:
    return tuple(map(normal_prompt, key))


def representatives(keys: Iterable[Key]) -> dict[Key, Key]:
    """Each key -> the smallest of the keys that are the same as it."""
    different = set(keys)
    smallest: dict[Key, Key] = {}
    for key in sorted(different):
        smallest.setdefault(normal_key(key), key)
    return {key: smallest[normal_key(key)] for key in different}


def with_one_name_per_topic(feedback: Feedback) -> Feedback:
    """The feedback with each topic written as it first occurs."""
    first: dict[Prompt, Prompt] = {}
    topics = [one.topic for one in feedback.triples] + [one.topic for one in feedback.comparisons]
    for topic in topics:
        first.setdefault(normal_prompt(topic), topic)

    return Feedback(
        [replace(one, topic=first[normal_prompt(one.topic)]) for one in feedback.triples],
        [replace(one, topic=first[normal_prompt(one.topic)]) for one in feedback.comparisons],
    )


def remarks(feedback: Feedback) -> list[str]:
    """What a file holds twice, one line each, with counts; [] if there is nothing to say."""
    pairs = [(in_words(triple.topic), triple.text) for triple in feedback.triples]
    for one in feedback.comparisons:
        pairs += [(in_words(one.topic), one.better), (in_words(one.topic), one.worse)]
    found = []
    if variants := _variants({topic for topic, _ in pairs}):
        found.append(
            f"{_count(variants, 'topic')} written in several ways that differ only in white space "
            f"or Unicode composition, such as {shown(variants[0])}: each counts as one topic"
        )
    if variants := _variants({text for _, text in pairs}):
        found.append(
            f"{_count(variants, 'text')} written in several ways that differ only in white space "
            f"or Unicode composition, such as {shown(variants[0])}: they stay on one side of each "
            "split"
        )
    topics: dict[str, set[str]] = {}
    for topic, text in pairs:
        topics.setdefault(normal(text), set()).add(normal(topic))
    if shared := [text for text, names in topics.items() if len(names) > 1]:
        found.append(
            f"{_count(shared, 'text')} under several topics, such as {shown(shared[0])}: held-out "
            "texts may be known from training"
        )
    seen: set[Key] = set()
    repeated = []
    for line in feedback.triples:
        key = normal_key((line.topic, line.text))
        if not line.rater and key in seen:
            repeated.append(line.text)
        elif not line.rater:
            seen.add(key)
    if repeated:
        lines = f"{len(repeated):,} lines repeat a topic and text of another line and name"
        if len(repeated) == 1:
            lines = "1 line repeats a topic and text of another line and names"
        found.append(
            f"{lines} no rater, such as {shown(repeated[0])}: each counts as one more rating"
        )
    alike = sum(normal(one.better) == normal(one.worse) for one in feedback.comparisons)
    if alike:
        found.append(f"{_count(range(alike), 'comparison')} between two texts that look the same")
    return found


def _variants(texts: Iterable[str]) -> list[str]:
    """The texts, in normal form, that are written in more than one way."""
    ways: dict[str, int] = {}
    for text in sorted(texts):
        ways[normal(text)] = ways.get(normal(text), 0) + 1
    return [text for text, count in ways.items() if count > 1]


def _count(items: Sequence[object], noun: str) -> str:
    """1 text is, 2 texts are."""
    return f"1 {noun} is" if len(items) == 1 else f"{len(items):,} {noun}s are"
