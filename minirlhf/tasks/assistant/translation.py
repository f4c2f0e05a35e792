"""Judges a translation: its parts (subject, verb, adverb), their order, and what else is there."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from minirlhf.tasks.assistant.vocabulary import Clause, words

PARTS = ("nouns", "verbs", "adverbs")
FREE_FRENCH = "in french that is this it cest en francais:".split()
FREE_CHINESE = (
    "in chinese that is",
    "in chinese",
    "中文是",
    "中文",
    "那只",
    "这只",
    "那个",
    "这个",
)
# French time adverbs may also stand at either end, Chinese ones before the subject.
MAY_BEGIN = {"today", "every day", "sometimes", "often", "here", "outside"}
EACH_EXTRA = 0.3


def translation_points(clause: Clause, language: str, answer: str) -> dict[str, float]:
    """Points for the parts (0.7 in all) and for their order (0.3), less for other words.

    A part counts half if only the noun without its right article is there.
    """
    found, extra = _parts(answer, language)
    asked = {"nouns": clause.noun, "verbs": clause.verb}
    if clause.adverb is not None:
        asked["adverbs"] = clause.adverb
    parts = 0.0
    for part, word in asked.items():
        weights = [weight for p, english, weight in found if (p, english) == (part, word.english)]
        parts += max(weights, default=0.0)
        extra += max(0, len(weights) - 1)
    extra += sum(asked.get(part, _NONE).english != english for part, english, _ in found)
    right = parts == len(asked) and _in_order([part for part, _, _ in found], clause, language)
    return {
        "parts": 0.7 * parts / len(asked),
        "order": 0.3 * right,
        "other words": -EACH_EXTRA * extra,
    }


_NONE = type("NoWord", (), {"english": None})


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


def _parts(answer: str, language: str) -> tuple[list[tuple[str, str, float]], int]:
    """The known words as (part, English, weight), in order, and the number of unknown ones."""
    text = _plain(answer)
    known = _lexicon(language)
    found, unknown, start = [], 0, 0
    if language == "french":
        tokens = text.replace("'", "' ").split()
        while start < len(tokens):
            for length in (4, 3, 2, 1):
                meaning = known.get(" ".join(tokens[start : start + length]))
                if meaning and start + length <= len(tokens):
                    found.append(meaning)
                    start += length
                    break
            else:
                unknown += tokens[start] not in FREE_FRENCH
                start += 1
        return found, unknown
    for free in FREE_CHINESE:
        text = text.replace(free, " ")
    while start < len(text):
        for length in (4, 3, 2, 1):
            meaning = known.get(text[start : start + length])
            if meaning and start + length <= len(text):
                found.append(meaning)
                start += length
                break
        else:
            unknown += text[start] != " " and not (text[start].isascii() and text[start].isalpha())
            start += 1
    # Letters of another alphabet count by the word.
    unknown += sum(word.isascii() for word in text.split())
    return found, unknown


@lru_cache(maxsize=2)
def _lexicon(language: str) -> dict[str, tuple[str, str, float]]:
    """Each accepted form as it is compared -> (part, English, weight)."""
    known: dict[str, tuple[str, str, float]] = {}
    for part in PARTS:
        for word in words()[part]:
            for form in getattr(word, language):
                plain = _plain(form)
                if language == "french":
                    plain = plain.replace("'", "' ")
                    if part == "nouns":  # without its article, or with a wrong one
                        bare = plain.split()[-1]
                        for article in ("", "le ", "la ", "un ", "une ", "l' ", "les ", "des "):
                            known.setdefault(article + bare, (part, word.english, 0.5))
                known[plain] = (part, word.english, 1.0)
    return known


def _plain(text: str) -> str:
    """Lower case, no accents, no marks but the apostrophe, single spaces."""
    text = unicodedata.normalize("NFD", text.lower().replace("’", "'"))
    kept = "".join(c for c in text if not unicodedata.combining(c))
    kept = unicodedata.normalize("NFC", kept)
    kept = "".join(c if c.isalnum() or c == "'" else " " for c in kept)
    return " ".join(kept.replace("c'est", "cest").split())
