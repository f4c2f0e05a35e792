"""The judge's points for what an answer says, one function for each group of kinds."""

from __future__ import annotations

from minirlhf.tasks.assistant import manners
from minirlhf.tasks.assistant.items import Item
from minirlhf.tasks.assistant.lookup import topic_named, topics, wanted
from minirlhf.tasks.assistant.reading import (
    FACTS,
    OWN_WORDS_AT_LEAST,
    Reading,
    bare_words,
    content_stems,
    in_own_words,
)
from minirlhf.tasks.assistant.vocabulary import names

# Words in the titles of topics that name none.
GENERAL = frozenset(
    content_stems(
        "benefits causes form happen history hobby importance invention keeping learning life "
        "matters role science uses value work"
    )
)


def fact_points(item: Item, answer: str, reading: Reading) -> dict[str, float]:
    """The wanted facts, in known words or in others; surplus ones cost."""
    needed = 2 if item.kind == "two_effects" else 1
    stated = reading.stated(item.about)
    strengths = []
    for phrase in wanted(item):
        if bare_words(phrase) in stated:
            strengths.append(1.0)
        else:
            share = in_own_words(reading.left, phrase)
            strengths.append(0.85 * share if share >= OWN_WORDS_AT_LEAST else 0.0)
    best = sorted(strengths, reverse=True)[:needed]
    points = {"fact": sum(best) / needed}
    points["surplus"] = -0.25 * max(0, len(stated) - needed - 1)
    if points["fact"] == 0:
        points["nearby"] = _nearby(item.about, answer, reading)
    elif item.field:
        # Small, but an effect with its reason and an example must not be the best reply to all.
        points["not asked"] = -0.1 * len(stated - reading.stated(item.about, item.field))
    if item.kind == "shorter":
        points["not shorter"] = -_too_long(answer, item.source)
    return points


def _nearby(about: str, answer: str, reading: Reading) -> float:
    """0.3 for a fact that was not asked for, 0.2 for words of the topic."""
    if reading.stated(about):
        return 0.3
    mentioned = any(phrase.owner == about for phrase in reading.exact)
    return 0.2 * (mentioned or bool(_name_stems(about) & set(content_stems(answer))))


def _too_long(answer: str, source: str) -> float:
    """0 up to 0.7 of the source's words, 1 at its full length."""
    share = len(answer.split()) / len(source.split())
    return min(1.0, max(0.0, (share - 0.7) / 0.3))


def naming_points(about: str, answer: str, reading: Reading) -> dict[str, float]:
    """The topic's name; the name of each other topic costs."""
    told = _outside_claims(reading)
    topic = topic_named(about)
    best = 0.0
    for name in (topic.name, topic.topic):
        stems = _name_stems(name)
        share = len(stems & told) / len(stems)
        best = max(best, share if share == 1 else 0.5 * (share >= 0.5))
    own = _name_stems(f"{topic.name} {topic.topic}")
    others = 0
    for name, other in topics().items():
        stems = _name_stems(other.name)
        others += name != about and stems <= told and not stems <= own
    surplus = max(0, len(reading.stated(about)) - 1)
    return {"name": best, "other names": -0.6 * others, "surplus": -0.25 * surplus}


def _name_stems(text: str) -> set[str]:
    return set(content_stems(text)) - GENERAL


def _outside_claims(reading: Reading) -> set[str]:
    """Stems of the words outside facts, and outside subjects that an effect follows.

    Who makes a claim about sleep has not said that the question was about sleep.
    """
    told = set(content_stems(" ".join(reading.left)))
    part_at = {
        start: phrase.part for start, phrase in zip(reading.starts, reading.exact, strict=True)
    }
    for start, phrase in zip(reading.starts, reading.exact, strict=True):
        next_part = part_at.get(start + len(phrase.words), "")
        if phrase.part not in FACTS and next_part not in ("effects", "vague"):
            told |= set(content_stems(" ".join(phrase.words)))
    return told


def social_points(item: Item, answer: str, reading: Reading) -> dict[str, float]:
    """A friendly word for thanks; a greeting and an offer of help for hello."""
    welcomes = manners.WELCOME.findall(answer)
    greetings = manners.GREETING.findall(answer)
    offers = manners.OFFER.findall(answer)
    surplus = -0.25 * len(reading.stated(item.about))
    if item.kind == "thanks":
        surplus -= 0.25 * max(0, len(welcomes) - 2)
        hello = -0.5 * bool(manners.GREETING.match(answer.lstrip()))
        return {"friendly": float(bool(welcomes)), "greeting": hello, "surplus": surplus}
    surplus -= 0.25 * (max(0, len(greetings) - 2) + max(0, len(offers) - 2))
    known = {name.lower() for name in (*names("train"), *names("heldout"))}
    wrong = known & set(bare_words(answer)) - {item.about.lower()}
    return {
        "friendly": 0.5 * bool(greetings),
        "offer": 0.5 * bool(greetings and offers),
        "wrong name": -0.5 * len(wrong),
        "surplus": surplus,
    }


def refusal_points(answer: str) -> dict[str, float]:
    """A refusal with a ground or a word of regret; 0.2 for neither refusing nor helping."""
    refused = bool(manners.REFUSAL.search(answer))
    return {
        "refused": 0.8 * refused,
        "ground": 0.2 * (refused and bool(manners.GROUND.search(answer))),
        "neither": 0.2 * (not refused),
    }
