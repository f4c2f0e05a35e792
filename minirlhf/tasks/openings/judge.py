"""The judge of the task `openings`: a rubric of plain rules, 1 to 5 points for any text.

It recognises phrases of the hand-written knowledge (data/topics.json) and of the stock wording, and
it knows nothing else: a true and well-written text in words of its own gets part of the points.

    1     to begin with +1.3  specific: states an effect of the topic (half without a subject; up to
    half in its own words) +1.2  evidence: an example, reason or contrast of it (half without focus;
    up to half in its own words) +0.6  focus: a subject of the topic (0.4 for its name or two of its
    words, 0.2 for one) +0.9  form: capital letters at sentence starts (0.4), length of 8 to 40
    words (0.5) -0.4  for each phrase of padding (at most four) -1.0  for each phrase of another
    topic (half for half a phrase) -0.4  for each pair of words that do not belong side by side;
    amid known wording, also for each pair
          of known words that no phrase holds, and -0.2 for each unknown word (at most two points in
          all)
    -0.6  for each effect, piece of evidence or subject after the second of its kind

At most 1.5 when off topic, 1.75 for a heap of words, 2 when unfinished or repetitive; 1 when empty.
The score is (points - 1) / 4, in [0, 1].
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from minirlhf.tasks.openings.knowledge import PARTS
from minirlhf.tasks.openings.phrases import (
    ARTICLES,
    DANGLING,
    MARKS,
    NEVER_AFTER_ARTICLE,
    NEVER_AFTER_PREPOSITION,
    PREPOSITIONS,
    TOKEN,
    PhraseIndex,
    phrase_index,
    stem,
)

STOPS = frozenset(".!?")
EVIDENCE = ("examples", "reasons", "contrasts")
CLAIMS = frozenset(PARTS) - {"subjects"}  # what a text should not say twice
NUMBERS = frozenset(
    "two three four five six seven eight nine ten dozen twenty thirty forty fifty hundred "
    "thousand million half third quarter fifth percent twice".split()
)
CONNECTIVES = frozenset(
    "because since while although when after before example so which as".split()
)
# Words that would fit any topic.
GENERAL = frozenset(
    "good great nice important interesting helpful useful many lots lot various thing things "
    "something stuff everyone everybody people ways really very special wonderful amazing "
    "different matter".split()
)
NO_CAP, CAP_UNFINISHED, CAP_HEAP, CAP_OFF_TOPIC, CAP_EMPTY = 5.0, 2.0, 1.75, 1.5, 1.0


def judge(topic: str, text: str) -> float:
    """The rubric's score of a text, in [0, 1]. Raises ValueError for an unknown topic."""
    return explain(topic, text)["score"]


def explain(topic: str, text: str) -> dict[str, float]:
    """The points of each rule, the cap (5 if none), the rubric's 1 to 5 and the score in [0, 1].

    Raises ValueError for an unknown topic.
    """
    known = phrase_index()
    if topic not in known.own_stems:
        raise ValueError(f"topic: expected one of data/topics.json, found {topic!r}")
    raw = TOKEN.findall(text)
    words = [word.lower() for word in raw]
    content = [word for word in words if word not in MARKS]
    length = len(content)
    if length == 0:
        return _total({}, cap=CAP_EMPTY)

    # What the text says: phrases by kind, and how many of its words are the topic's own.
    phrases = find_phrases(known, topic, words)
    subjects, effects = phrases.own["subjects"], phrases.own["effects"]
    evidence = sum(phrases.own[field] for field in EVIDENCE)
    own = subjects + effects + evidence + phrases.own["vague"] + phrases.own["name"]
    stems = {stem(word) for word in set(content) - known.glue}
    related = len(stems & known.own_stems[topic])
    focus = _focus(subjects, phrases.own["name"], related)

    # How well it is put. A strange pair is a surer fault amid wording that we know.
    breaks, strange, pairs = _breaks(known, topic, words)
    known_share = 1 - len(phrases.outside) / length
    breaks += known_share * strange

    claim = _claim_in_own_words(known, phrases.outside, breaks, related)
    specific = max(min(1.0, effects) * (1.0 if subjects >= 1 else 0.5), claim)
    support = min(1.0, evidence) * (1.0 if focus >= 0.4 else 0.5)
    if claim > 0:
        support = max(support, claim * _concrete(raw, words))
    fit_of_length = min(1.0, length / 8, max(0.0, (48 - length) / 8))
    surplus = sum(max(0.0, count - 2) for count in (effects, evidence, subjects))
    points = {
        "specific": 1.3 * specific,
        "evidence": 1.2 * support,
        "focus": focus,
        "form": 0.4 * _capitals(raw) + 0.5 * fit_of_length,
        "padding": -0.4 * min(4, phrases.own["padding"]),
        "other topic": -1.0 * phrases.foreign,
        "fluency": -min(2.0, 0.4 * breaks),
        "listing": -0.6 * surplus,
    }

    cap = NO_CAP
    if words[-1] not in STOPS or _repetitive(words) or phrases.repeated:
        cap = CAP_UNFINISHED
    if breaks >= 4 and breaks >= 0.2 * pairs:
        cap = min(cap, CAP_HEAP)
    mostly_foreign = phrases.foreign >= max(1.0, own - 0.5)
    if mostly_foreign or (own == 0 and _elsewhere(known, stems, related)):
        cap = min(cap, CAP_OFF_TOPIC)
    return _total(points, cap)


def _total(points: dict[str, float], cap: float) -> dict[str, float]:
    rubric = min(max(1 + sum(points.values()), 1.0), cap)
    return {**points, "cap": cap, "rubric": rubric, "score": (rubric - 1) / 4}


# --- what a text says -----------------------------------------------------------------------------


@dataclass
class Phrases:
    """The phrases found in a text."""

    own: dict[str, float]  # field -> phrases of the topic, and "padding"; a part of one counts 0.3
    outside: list[str]  # words outside all phrases, without marks
    foreign: float = 0.0  # phrases of other topics; a part of one counts 0.5
    repeated: bool = False  # whether a claim is made twice in the same words


def find_phrases(known: PhraseIndex, topic: str, words: list[str]) -> Phrases:
    """Reads from left to right; the longest phrase that starts at a word counts.

    Half a phrase or more (at least three words, two of them not glue) counts 0.3 if it is the
    topic's own, since half a claim says little, and 0.5 if it is another topic's.
    """
    found = Phrases(own=dict.fromkeys(("name", "padding", *PARTS), 0.0), outside=[])
    seen: set[tuple[str, ...]] = set()
    start = 0
    while start < len(words):
        # Walk down the trie as far as the words go; remember the last place where a phrase ended.
        node, end = known.trie, start
        topics_here, phrase_end = None, start
        while end < len(words) and words[end] in node:
            node = node[words[end]]
            end += 1
            if node["/ends"]:
                topics_here, phrase_end = node["/ends"], end

        if topics_here and (topic in topics_here or "" in topics_here):
            field = topics_here.get(topic) or topics_here[""]
            found.own[field] += 1
            phrase = tuple(words[start:phrase_end])
            if field in CLAIMS and phrase in seen:
                found.repeated = True
            seen.add(phrase)
            start = phrase_end
        elif topics_here and phrase_end - start >= 2 and "name" not in topics_here.values():
            found.foreign += 1
            start = phrase_end
        elif end - start >= 3 and sum(word not in known.glue for word in words[start:end]) >= 2:
            _count_part(found, node["/through"], topic, length=end - start)
            start = end
        else:
            if words[start] not in MARKS:
                found.outside.append(words[start])
            start += 1
    return found


def _count_part(found: Phrases, through: dict, topic: str, length: int) -> None:
    """Counts the first `length` words of a phrase, if they are at least half of it."""
    own = through.get(topic) or through.get("")
    phrase_length, field = own or min(through.values())
    if length < phrase_length / 2:
        return
    if own and field != "padding":
        found.own[field] += 0.3
    elif not own and field != "name":
        found.foreign += 0.5


def _focus(subjects: float, name: float, related: int) -> float:
    """Points for being about the topic; `related` counts the topic's own words in the text."""
    if subjects >= 1:
        return 0.6
    if name or related >= 2:
        return 0.4
    return 0.2 if related else 0.0


def _claim_in_own_words(
    known: PhraseIndex, outside: list[str], breaks: float, related: int
) -> float:
    """0 to 0.5: what the words outside all known phrases are worth.

    They count where they are on topic, form sentences, and are not mere generalities.
    """
    sense = max(0.0, 1 - breaks / 2) * min(1.0, related / 2)
    if sense == 0 or not outside:
        return 0.0
    content = set(outside) - known.glue - GENERAL
    general = sum(word in GENERAL for word in outside)
    return 0.5 * sense * min(1.0, max(0, len(content) - 2 * general) / 8)


def _concrete(raw: list[str], words: list[str]) -> float:
    """Signs of evidence, 0 to 1: a number or a name (0.6), a connective (0.4)."""
    numbered = any(word[0].isdigit() or word in NUMBERS for word in words)
    named = any(
        word[0].isupper() and word != "I" and before not in STOPS
        for before, word in itertools.pairwise(raw)
    )
    connected = any(word in CONNECTIVES for word in words)
    return 0.6 * (numbered or named) + 0.4 * connected


def _elsewhere(known: PhraseIndex, stems: set[str], related: int) -> bool:
    """Whether a text has no word of its topic, or clearly more of some other topic."""
    if not related:
        return True
    return any(len(stems & others) > related + 1 for others in known.own_stems.values())


# --- how it is put --------------------------------------------------------------------------------


def _breaks(known: PhraseIndex, topic: str, words: list[str]) -> tuple[float, float, int]:
    """(pairs that do not belong side by side, merely strange pairs and words, all pairs of words).

    No sentence has "the of" or "because."; and two of the topic's own words that are neighbours in
    no phrase are most likely two broken phrases. An unknown word, or an unknown pair of other
    words, may be right: it is only strange.
    """
    breaks = strange = 0.0
    pairs = 0
    own = known.own_words[topic]
    before = "."
    for word in words:
        is_mark = word in MARKS
        if not is_mark and word not in known.words and not word[0].isdigit():
            strange += 0.5
        if before in MARKS:
            breaks += is_mark  # two marks in a row, or a text that starts with one
        else:
            pairs += not is_mark
            if (before, word) not in known.pairs:
                if is_mark:
                    breaks += before in DANGLING
                elif before in ARTICLES:
                    breaks += word in NEVER_AFTER_ARTICLE
                elif before in PREPOSITIONS:
                    breaks += word in NEVER_AFTER_PREPOSITION
                elif before in own and word in own:
                    breaks += 1
                elif before not in known.glue and word not in known.glue:
                    strange += before in known.words and word in known.words
        before = word
    return breaks, strange, pairs


def _repetitive(words: list[str]) -> bool:
    """Whether a word is said twice in a row, or any four words twice."""
    fours = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    if len(set(fours)) < len(fours):
        return True
    return any(first == second for first, second in itertools.pairwise(words))


def _capitals(raw: list[str]) -> float:
    """The share of sentences that start with a capital letter or a number."""
    starts = []
    for before, word in zip([".", *raw], raw, strict=False):
        if before in STOPS and word not in MARKS:
            starts.append(word)
    return sum(not word[0].islower() for word in starts) / max(1, len(starts))
