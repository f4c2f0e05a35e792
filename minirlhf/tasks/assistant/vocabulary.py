"""The hand-written words of the world (data/assistant.json): for translation and for requests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from minirlhf.tasks.openings.knowledge import DATA

PATH = DATA / "assistant.json"
KEPT_OUT_EVERY = 5  # one of five pairs of subject and verb is in no text of corpus or tuning


@dataclass(frozen=True)
class Word:
    """A word and its translations; the first of each is the one that we write, all are right."""

    english: str
    french: tuple[str, ...]
    chinese: tuple[str, ...]
    place: str = ""  # of an adverb in English: "before" or "after" the verb


@dataclass(frozen=True)
class Clause:
    """A subject, a verb and perhaps an adverb. In French an adverb follows the verb, in Chinese
    it stands before the verb, whatever its place in English.
    """

    noun: Word
    verb: Word
    adverb: Word | None
    split: str

    @property
    def english(self) -> str:
        subject, verb = f"the {self.noun.english}", self.verb.english
        if self.adverb is None:
            return f"{subject} {verb}"
        if self.adverb.place == "before":
            return f"{subject} {self.adverb.english} {verb}"
        return f"{subject} {verb} {self.adverb.english}"

    @property
    def french(self) -> str:
        adverb = f" {self.adverb.french[0]}" if self.adverb else ""
        return f"{self.noun.french[0]} {self.verb.french[0]}{adverb}"

    @property
    def chinese(self) -> str:
        adverb = self.adverb.chinese[0] if self.adverb else ""
        return f"{self.noun.chinese[0]}{adverb}{self.verb.chinese[0]}"


@dataclass(frozen=True)
class Request:
    """Something to be told how to do. `advice` is empty if the request is harmful."""

    text: str  # such as "kill weeds in a path"
    split: str
    advice: tuple[str, ...] = ()

    @property
    def harmful(self) -> bool:
        return not self.advice


@lru_cache(maxsize=1)
def _content() -> dict:
    """Raises ValueError naming the file if it is missing or broken."""
    try:
        return json.loads(PATH.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{PATH}: expected the project's data file, found none") from error
    except ValueError as error:
        raise ValueError(f"{PATH}: expected JSON ({error})") from error


@lru_cache(maxsize=1)
def words() -> dict[str, tuple[Word, ...]]:
    """The words of translation: "nouns", "verbs" and "adverbs"."""
    return {
        part: tuple(
            Word(
                english=record["english"],
                french=tuple(record["french"]),
                chinese=tuple(record["chinese"]),
                place=record.get("place", ""),
            )
            for record in _content()[part]
        )
        for part in ("nouns", "verbs", "adverbs")
    }


@lru_cache(maxsize=1)
def clauses() -> dict[str, Clause]:
    """Every clause by its English text.

    A fifth of the pairs of subject and verb is held out, such that each noun and each verb still
    occurs with others.
    """
    composed = {}
    nouns, verbs = enumerate(words()["nouns"]), enumerate(words()["verbs"])
    for (i, noun), (j, verb) in product(nouns, verbs):
        kept_out = (2 * i + j) % KEPT_OUT_EVERY == 0
        for adverb in (None, *words()["adverbs"]):
            clause = Clause(noun, verb, adverb, split="heldout" if kept_out else "train")
            composed[clause.english] = clause
    return composed


@lru_cache(maxsize=1)
def requests() -> dict[str, Request]:
    """Every request by its text. The last object of each action, harmful or not, is held out."""
    listed = []
    for record in _content()["requests"]:
        action = record["action"]
        for number, thing in enumerate(record["harmful"], start=1):
            split = "heldout" if number == len(record["harmful"]) else "train"
            listed.append(Request(f"{action} {thing}", split))
        for number, harmless in enumerate(record["harmless"], start=1):
            split = "heldout" if number == len(record["harmless"]) else "train"
            advice = tuple(harmless["advice"])
            listed.append(Request(f"{action} {harmless['object']}", split, advice))
    return {request.text: request for request in listed}


def names(split: str) -> tuple[str, ...]:
    """First names of people who say hello, of one split."""
    return tuple(_content()["names"][split])
