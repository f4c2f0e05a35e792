"""Reads what an answer states: known facts word for word, or in words of its own.

A fact is an effect, a reason, an example or a contrast of a topic, or a piece of advice. Facts that
stand in the answer word for word are found first. The words that are left are then compared with
the facts wanted: as many of a fact's content words as come in its order, with any endings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, lru_cache

from minirlhf.tasks.assistant import poor
from minirlhf.tasks.assistant.lookup import topics
from minirlhf.tasks.assistant.vocabulary import requests
from minirlhf.tasks.openings.phrases import MARKS, stock_pieces, words_of

FACTS = ("effects", "reasons", "examples", "contrasts", "advice")
OWN_WORDS_AT_LEAST = 0.6  # a smaller share of a fact's words states nothing
# How many letters of two words must be the same: to recognise a fact, and to recognise a name.
LOOSE, STRICT = 4, 5
# Words that an answer may use freely around its facts.
FRAME = frozenset(
    "a about again all along also among an and answer any anything are as ask at be because but "
    "by can case do does effect example examples fact few first for from give glad good happens "
    "have he help helps here hope how i if in instance is it its kind like may me mean means "
    "might more my not of often on one only or other our out reason second short shows so such "
    "sure that the their them then there these they thing things this those to too topic try two "
    "up us was way we well what when which while why will with would yes you your".split()
)


@dataclass(frozen=True)
class Phrase:
    """Some known words: a fact, a subject, a name or stock padding of an owner."""

    owner: str  # a topic, or a request; "" for stock padding
    part: str
    words: tuple[str, ...]


@dataclass
class Reading:
    """What was found in an answer to a question about `owner`."""

    exact: list[Phrase] = field(default_factory=list)  # in the order of the answer
    starts: list[int] = field(default_factory=list)  # each one's first word, by its number
    left: list[str] = field(default_factory=list)  # words outside, without marks

    def stated(self, owner: str, part: str = "") -> set[tuple[str, ...]]:
        """The different facts of that owner, or of one part of its facts."""
        parts = (part,) if part else FACTS
        return {p.words for p in self.exact if p.owner == owner and p.part in parts}

    def foreign(self, owner: str) -> set[tuple[str, ...]]:
        """Facts and subjects of other owners."""
        return {
            phrase.words
            for phrase in self.exact
            if phrase.owner not in ("", owner) and phrase.part in (*FACTS, "subjects")
        }

    def padding(self) -> int:
        return sum(phrase.part == "padding" for phrase in self.exact)


def read(answer: str, owner: str) -> Reading:
    """Finds known phrases from left to right, the longest first, the owner's before others'."""
    words = bare_words(answer)
    known = _phrases()
    found = Reading()
    start = 0
    while start < len(words):
        fitting = [
            phrase
            for phrase in (*known.get(words[start : start + 2], ()), *known.get(words[start], ()))
            if words[start : start + len(phrase.words)] == phrase.words
            and (len(phrase.words) > 1 or phrase.owner == owner)
        ]
        if fitting:
            best = max(fitting, key=lambda phrase: (phrase.owner == owner, len(phrase.words)))
            found.exact.append(best)
            found.starts.append(start)
            start += len(best.words)
        else:
            found.left.append(words[start])
            start += 1
    return found


def bare_words(text: str) -> tuple[str, ...]:
    """Its words in lower case, without punctuation marks."""
    return tuple(word for word in words_of(text) if word not in MARKS)


def in_own_words(left: list[str], fact: str) -> float:
    """The share of a fact's content words that the words left over hold in its order, 0 to 1."""
    asked = content_stems(fact, LOOSE)
    told = [stem for stem in (_stem(word, LOOSE) for word in left) if stem in asked]
    if len(asked) < 2 or not told:
        return 0.0
    # The longest common subsequence of the two, row by row.
    best = [0] * (len(asked) + 1)
    for word in told:
        before = best[:]
        for i, other in enumerate(asked, start=1):
            best[i] = before[i - 1] + 1 if word == other else max(before[i], best[i - 1])
    return best[-1] / len(asked)


@lru_cache(maxsize=4096)
def content_stems(text: str, letters: int = STRICT) -> tuple[str, ...]:
    """The stems of the words that say something, in order."""
    return tuple(_stem(word, letters) for word in bare_words(text) if word not in FRAME)


def _stem(word: str, letters: int) -> str:
    """The first letters of a word without the s of the plural."""
    singular = word[:-1] if word.endswith("s") and len(word) > 3 else word
    return singular[:letters]


def unexplained(left: list[str], owner: str) -> int:
    """How many of the words left over are neither the owner's own nor free for anyone."""
    own = _own_stems(owner)
    return sum(word not in FRAME and _stem(word, LOOSE) not in own for word in left)


@cache
def _own_stems(owner: str) -> frozenset[str]:
    texts = [owner]
    if owner in topics():
        topic = topics()[owner]
        texts += [topic.name, *topic.subjects, *topic.effects, *topic.reasons]
        texts += [*topic.examples, *topic.contrasts, *topic.vague]
    elif owner in requests():
        texts += requests()[owner].advice
    return frozenset(stem for text in texts for stem in content_stems(text, LOOSE))


@lru_cache(maxsize=1)
def _phrases() -> dict[str | tuple[str, ...], tuple[Phrase, ...]]:
    """Every known phrase by its first two words, or by its only one."""
    listed: list[Phrase] = []
    for name, topic in topics().items():
        for part in ("subjects", "effects", "reasons", "examples", "contrasts", "vague"):
            listed += [Phrase(name, part, bare_words(text)) for text in getattr(topic, part)]
        listed.append(Phrase(name, "name", bare_words(topic.name)))
    for request in requests().values():
        listed += [Phrase(request.text, "advice", bare_words(text)) for text in request.advice]
    for words, is_padding in stock_pieces():
        if is_padding:
            listed.append(Phrase("", "padding", bare_words(" ".join(words))))
    for text in (*poor.VAGUE_NAMING, *poor.VAGUE_REQUEST, *poor.VAGUE_TRANSLATION):
        listed.append(Phrase("", "padding", bare_words(text)))
    by_start: dict[str | tuple[str, ...], list[Phrase]] = {}
    for phrase in listed:
        if len(phrase.words) >= (3 if phrase.part == "padding" else 1):
            start = phrase.words[:2] if len(phrase.words) > 1 else phrase.words[0]
            by_start.setdefault(start, []).append(phrase)
    return {start: tuple(phrases) for start, phrases in by_start.items()}
