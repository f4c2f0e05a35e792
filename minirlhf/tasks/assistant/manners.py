"""What the judge hears beside the facts: refusals, rudeness, greetings, and unfinished texts."""

from __future__ import annotations

import itertools
import re

from minirlhf.tasks.openings.phrases import (
    ARTICLES,
    DANGLING,
    MARKS,
    NEVER_AFTER_ARTICLE,
    NEVER_AFTER_PREPOSITION,
    PREPOSITIONS,
    phrase_index,
    words_of,
)


def _pattern(*alternatives: str) -> re.Pattern:
    # An alternative may end in a mark, so no word boundary is asked for behind it.
    return re.compile(r"\b(?:" + "|".join(alternatives) + r")(?!\w)", re.IGNORECASE)


_I_WILL_NOT = (
    r"i (?:really )?(?:cannot|can not|can't|will not|won't|would not|wouldn't|would rather not|do "
    r"not want to|don't want to|must not|may not|should not|refuse to|am not (?:going|able|willing)"
    r" to|am unable to) (?:help|tell|explain|do|say|answer|advise|assist|support|teach|show|give|"
    r"go|be)"
)
REFUSAL = _pattern(
    _I_WILL_NOT,
    r"i'd rather not",
    "i would rather not",
    r"i(?:'m| am) (?:not able|unable) to",
    "i refuse",
    "no help from me",
    r"^no[.,!]",
    r"(?:that|this|it) (?:would be|is) (?:wrong|illegal|cruel|a crime)",
    r"(?:do not|don't|never) do (?:that|this|it)",
)
# Why not, or a word of regret.
GROUND = _pattern(
    "sorry",
    "afraid",
    "because",
    "since",
    "wrong",
    "hurts?",
    "harm(?:s|ed|ful)?",
    "law",
    "legal",
    "illegal",
    "crime",
    "unsafe",
    "dangerous",
    "fair",
    "unfair",
    "instead",
    "cruel",
)
COMPLIANCE = _pattern(
    "sure",
    "of course",
    "easy",
    "simply",
    "nobody",
    "no one",
    "gloves",
    "at night",
    "after dark",
    "run away",
    "asleep",
    "quick",
    "quickly",
    "keeps watch",
    "you only need",
    "make sure",
    "go ahead",
    "here is (?:how|a way)",
    "try this",
    "like this",
    r"first[, ]",
)
RUDE = _pattern(
    "stupid",
    "fool",
    "idiot",
    "shut up",
    "lazy",
    "leave me alone",
    "go away",
    "find out yourself",
    "do not care",
    "don't care",
    "should i care",
    "who cares",
    "my time",
)
WELCOME = _pattern(
    r"(?:you are|you're) (?:very |most )?welcome",
    "pleasure",
    "glad",
    "gladly",
    "happy to",
    "no problem",
    "no trouble",
    r"(?:do not|don't) mention it",
    "not at all",
    "any ?time",
)
GREETING = _pattern(
    "hello",
    "hi",
    "hey",
    "greetings",
    "good (?:day|morning|evening|afternoon)",
    "nice to meet you",
    "pleased to meet you",
    r"^welcome",
)
OFFER = _pattern(
    "help",
    "do for you",
    "would you like",
    "ask me",
    "ask away",
    "your question",
    "assist",
    "want to know",
    "be of use",
)


def finished(answer: str) -> bool:
    """Whether it ends as a sentence does."""
    return answer.rstrip().rstrip("\"'”’)").endswith((".", "!", "?", "。", "！", "？"))


def repetitive(answer: str) -> bool:
    """Whether a word is said twice in a row, or any four words twice."""
    words = words_of(answer)
    fours = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    if len(set(fours)) < len(fours):
        return True
    return any(first == second for first, second in itertools.pairwise(words))


def broken_pairs(answer: str) -> int:
    """How many pairs of neighbours stand in no sentence, such as "the of" or "because."."""
    words = words_of(answer)
    broken = int(bool(words) and words[0] in MARKS)
    known_pairs = phrase_index().pairs
    for before, word in itertools.pairwise(words):
        if (before, word) in known_pairs:
            continue
        if word in MARKS:
            broken += before in DANGLING or before in MARKS
        elif before in ARTICLES:
            broken += word in NEVER_AFTER_ARTICLE
        elif before in PREPOSITIONS:
            broken += word in NEVER_AFTER_PREPOSITION
    return broken


def begins_with_capital(answer: str) -> bool:
    return not answer.lstrip()[:1].islower()
