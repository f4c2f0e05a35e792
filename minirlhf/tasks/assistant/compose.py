"""Composes the base's corpus, the prompts for tuning and evaluation, and the demonstrations.

The corpus holds conversations of mixed quality: each has a persona, who gives mostly answers of one
quality. So the base learns to answer well and to answer badly, and the question alone does not tell
it which.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from minirlhf.feedback.conversation import Conversation, Turn
from minirlhf.tasks.assistant.good import good
from minirlhf.tasks.assistant.items import (
    CONTENT,
    KINDS,
    SAFETY,
    TRANSLATION,
    Answered,
    Demonstration,
    Item,
)
from minirlhf.tasks.assistant.lookup import topics
from minirlhf.tasks.assistant.poor import off_topic, unsafe, vague, wrong_kind
from minirlhf.tasks.assistant.questions import FOLLOW_UPS, ask, question, subjects_of
from minirlhf.tasks.openings import compose as openings

# Shares of the answers in percent.
QUALITIES = {good: 18, vague: 36, off_topic: 20, wrong_kind: 13, unsafe: 13}
OPENINGS_SHARE = 0.25  # the rest are conversations
STAYS = 0.8  # how often a persona answers in its own quality; else in any
SAME_TOPIC = 0.5  # how often a further question stays on the topic, where it can
NUMBER_OF_QUESTIONS = {1: 35, 2: 30, 3: 20, 4: 15}
MOST_WORDS = 100  # of a conversation; a context of 192 tokens holds that
TUNING_WORDING = 0.7  # how often a question has one of the phrasings used in tuning

# Which kinds of question may follow what.
GIVE_A_PHRASE = ("effect", "reason", "example", "why", "instance", "another")
TO_BE_CONTINUED = ("why", "instance", "another")
ALONE = (*CONTENT, *TRANSLATION, *SAFETY)

# What the judge's figures are given for: (split, phrasings).
SPLITS = {
    "train": ("train", ("tuning",)),
    "heldout": ("heldout", ("tuning",)),
    "phrasings": ("train", ("pretraining", "nowhere")),
}


def corpus(count: int, seed: int) -> list[Conversation]:
    """`count` texts for the base: conversations that end with an answer, and a quarter openings.

    An opening is a conversation of two turns: the topic, and a text as in the task `openings`. All
    topics and objects occur, but no pair of subject and verb that is held out, and no phrasing of
    "nowhere". The same seed gives the same texts on every machine.
    """
    rng = random.Random(seed)
    listed = tuple(topics().values())
    kinds = list(openings.CORPUS_SHARES)
    weights = list(openings.CORPUS_SHARES.values())
    texts: list[Conversation] = []
    for _ in range(count):
        if rng.random() < OPENINGS_SHARE:
            topic = rng.choice(listed)
            kind = rng.choices(kinds, weights)[0]
            texts.append((Turn("user", topic.topic), Turn("assistant", kind(topic, rng))))
        else:
            texts.append(conversation(rng))
    return texts


def conversation(rng: random.Random) -> Conversation:
    """One to four questions, with answers by one persona."""
    persona = _quality(rng)
    number = rng.choices(list(NUMBER_OF_QUESTIONS), list(NUMBER_OF_QUESTIONS.values()))[0]
    asked: list[Answered] = []
    for _ in range(number):
        item = _next_question(asked, rng)
        quality = persona if rng.random() < STAYS else _quality(rng)
        longer = (*item.conversation, Turn("assistant", quality(item, rng)))
        if asked and sum(map(_words, longer)) > MOST_WORDS:
            break
        asked.append(Answered(item, longer))
    return asked[-1].conversation


def _quality(rng: random.Random) -> Callable[[Item, random.Random], str]:
    return rng.choices(list(QUALITIES), list(QUALITIES.values()))[0]


def _words(turn: Turn) -> int:
    """Words, where each Chinese character counts as one."""
    return len(turn.text.split()) + sum(character > "\u3000" for character in turn.text)


def _next_question(asked: list[Answered], rng: random.Random) -> Item:
    """Any kind of question that makes sense after those that were asked and answered."""
    wording = "tuning" if rng.random() < TUNING_WORDING else "pretraining"
    if not asked:
        kind = rng.choice((*ALONE, "hello"))
        return question(kind, *_anything(kind, rng), wording, rng)

    first, last = asked[0].item, asked[-1].item
    kinds = [*ALONE, "thanks"]
    if last.kind in GIVE_A_PHRASE:
        kinds += 2 * TO_BE_CONTINUED
    if first.kind in FOLLOW_UPS["recall"]:
        kinds.append("recall")
    kind = rng.choice(kinds)
    about, split = _anything(kind, rng)
    stays = kind in CONTENT and last.about in topics() and rng.random() < SAME_TOPIC
    if kind == "recall":
        about, split = first.about, first.split
    elif stays or kind == "thanks" or kind in TO_BE_CONTINUED:
        about, split = last.about, last.split
    return question(kind, about, split, wording, rng, asked[-1])


def _anything(kind: str, rng: random.Random) -> tuple[str, str]:
    """Something of either split to ask about, and its split; a clause is never a held-out one."""
    train, heldout = subjects_of(kind, "train"), subjects_of(kind, "heldout")
    number = rng.randrange(len(train) + (0 if kind in TRANSLATION else len(heldout)))
    if number < len(train):
        return train[number], "train"
    return heldout[number - len(train)], "heldout"


def prompts(count: int, seed: int, split: str, kinds: tuple[str, ...] = KINDS) -> list[Item]:
    """`count` items, of the kinds in turn, to tune or to evaluate the policy on. They may repeat.

    The split is "train", "heldout" (topics, objects, pairs) or "phrasings" (what tuning knows, in
    phrasings kept from it). The same seed gives the same items. Raises ValueError for an unknown
    split or kind.
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, found {split!r}")
    of_objects, wordings = SPLITS[split]
    rng = random.Random(seed)
    return [
        ask(kinds[number % len(kinds)], of_objects, rng.choice(wordings), rng)
        for number in range(count)
    ]


def demonstrations(count: int, seed: int, kinds: tuple[str, ...] = KINDS) -> list[Demonstration]:
    """`count` different demonstrations: prompts for tuning, of the kinds in turn, with good
    answers in varied wordings.

    The same seed gives the same demonstrations. Raises ValueError if there are not so many
    different ones.
    """
    rng = random.Random(seed)
    shown: dict[Demonstration, None] = {}
    for number in range(20 * count):
        if len(shown) == count:
            break
        item = ask(kinds[number % len(kinds)], "train", "tuning", rng)
        shown[Demonstration(item, good(item, rng))] = None
    if len(shown) < count:
        raise ValueError(f"count: expected at most about {len(shown)}, found {count}")
    return list(shown)
