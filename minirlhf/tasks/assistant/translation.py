"""Judges a translation: its parts (subject, verb, adverb), their order, and what else is there."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from minirlhf.tasks.assistant.vocabulary import Clause, words

PARTS = ("nouns", "verbs", "adverbs")
LONGEST_FORM = 4  # tokens
# Words that may stand around a translation.
FREE = {
    "french": frozenset("in french that is this it c' est en francais".split()),
    "chinese": frozenset("in chinese that is this it 中 文 是 那 这 只 个".split()),
}
# French time adverbs may also stand at either end, Chinese ones before the subject.
MAY_BEGIN = {"today", "every day", "sometimes", "often", "here", "outside"}
EACH_EXTRA = 0.3
WITHOUT_ARTICLE = 0.5  # of a French noun, or with a wrong one

Meaning = tuple[str, str, float]  # part, English word, weight


def translation_points(clause: Clause, language: str, answer: str) -> dict[str, float]:
    """Points for the parts (0.7 in all) and for their order (0.3), less for other words.

    A French noun without its right article counts half.
    """
    found, extra = _parts(answer, language)
    asked = {"nouns": clause.noun, "verbs": clause.verb}
    if clause.adverb is not None:
        asked["adverbs"] = clause.adverb
    parts = 0.0
    for part, word in asked.items():
        weights = [weight for p, english, weight in found if (p, english) == (part, word.english)]
        parts += max(weights, default=0.0)
        extra += max(0, len(weights) - 1)  # said again
    for part, english, _ in found:
        extra += part not in asked or asked[part].english != english
    right = parts == len(asked) and _in_order([part for part, _, _ in found], clause, language)
    return {
        "parts": 0.7 * parts / len(asked),
        "order": 0.3 * right,
        "other words": -EACH_EXTRA * extra,
    }


def _in_order(parts: list[str], clause: Clause, language: str) -> bool:
    adverb = clause.adverb
    if adverb is None:
        return parts == ["nouns", "verbs"]
    orders = [["nouns", "verbs", "adverbs"]]
    if language == "chinese":
        orders = [["nouns", "adverbs", "verbs"]]
    if adverb.english in MAY_BEGIN:
        orders.append(["adverbs", "nouns", "verbs"])
    return parts in orders


def _parts(answer: str, language: str) -> tuple[list[Meaning], int]:
    """The meanings found, in order, and the number of words that are none and not free."""
    known, free = _lexicon(language), FREE[language]
    tokens, joint = _plain(answer).split(), " "
    if language == "chinese":  # one token per character, but one per word of another alphabet
        tokens, joint = re.findall(r"[a-z]+|\S", _plain(answer)), ""
    found: list[Meaning] = []
    unknown = start = 0
    while start < len(tokens):
        # The longest form that begins here.
        for length in range(min(LONGEST_FORM, len(tokens) - start), 0, -1):
            form = joint.join(tokens[start : start + length])
            if form in known:
                found.append(known[form])
                break
        else:
            length = 1
            unknown += tokens[start] not in free
        start += length
    return found, unknown


@lru_cache(maxsize=2)
def _lexicon(language: str) -> dict[str, Meaning]:
    """Each accepted form as it is compared -> (part, English, weight)."""
    known: dict[str, Meaning] = {}
    for part in PARTS:
        for word in words()[part]:
            for form in getattr(word, language):
                known[_plain(form)] = (part, word.english, 1.0)
    for noun in words()["nouns"] if language == "french" else ():
        for form in noun.french:
            bare = _plain(form).split()[-1]
            for article in ("", "le ", "la ", "un ", "une ", "l' ", "les ", "des "):
                known.setdefault(article + bare, ("nouns", noun.english, WITHOUT_ARTICLE))
    return known


def _plain(text: str) -> str:
    """Lower case, no accents, no marks but the apostrophe, single spaces, one after "l'"."""
    text = unicodedata.normalize("NFD", text.lower().replace("’", "'"))
    kept = "".join(c for c in text if not unicodedata.combining(c))
    kept = unicodedata.normalize("NFC", kept)
    kept = "".join(c if c.isalnum() or c == "'" else " " for c in kept)
    return " ".join(kept.replace("'", "' ").split())
