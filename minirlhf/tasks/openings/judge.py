"""The judge of the task `openings`: a rubric of plain rules, 1 to 5 points for any text, scaled to [0, 1].

It reads phrases of the hand-written knowledge (data/topics.json) and stock wording and knows only what they
hold: a true and well-put text in words of its own gets part of the points.

    1     to begin with
    +1.3  specific: says an effect of the topic (half without a subject; up to half in words of its own)
    +1.2  evidence: an example, reason or contrast of it (half without focus; up to half in words of its own)
    +0.6  focus: a subject of the topic (0.4 for its name or two of its words, 0.2 for one)
    +0.9  form: capital letters at sentence starts (0.4), length of 8 to 40 words (0.5)
    -0.4  for each phrase of padding (at most four)
    -1.0  for each phrase of another topic (half for half a phrase)
    -0.4  for each pair of words that do not belong side by side and, amid known wording, for each pair that
          the knowledge does not hold, -0.2 for each unknown word (at most two points in all)
    -0.6  for each effect, piece of evidence or subject after the second of its kind
At most 1.5 when off topic, 1.75 for a heap of words, 2 when unfinished or repetitive; 1 when empty.
"""

from __future__ import annotations

import re
from functools import lru_cache

from minirlhf.tasks.openings import compose as wording
from minirlhf.tasks.openings.knowledge import PARTS, Topic, knowledge

TOKEN = re.compile(r"[^\W_]+(?:['’.\-][^\W_]+)*|[.,;:!?]")
SLOT = re.compile(r"(\{\w\})")
STOPS = frozenset(".!?")
MARKS = frozenset(".,;:!?")
EVIDENCE = ("examples", "reasons", "contrasts")
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
# Words that no sentence, and no comma, comes right after.
DANGLING = frozenset(
    "a an the of to from for with by at into because while than and or but which its their "
    "our".split()
)
# Function words that never follow these, whatever the sentence.
ARTICLES = frozenset("a an the its their our".split())
PREPOSITIONS = frozenset("of to from for with by at into".split())
NEVER_AFTER_PREPOSITION = frozenset(
    "of to from by because while and or but is are was has they we also".split()
)
NEVER_AFTER_ARTICLE = (
    NEVER_AFTER_PREPOSITION
    | ARTICLES
    | frozenset("for with at in on into it us that which".split())
)


class Index:
    """What the judge looks up: a trie of all phrases by word, their word pairs, each topic's own words."""

    def __init__(self, topics: tuple[Topic, ...]):
        self.trie: dict = {}
        self.pairs: set[tuple[str, str]] = set()
        self.own_words: dict[str, frozenset[str]] = {}
        self.words: set[str] = set(DANGLING | NEVER_AFTER_ARTICLE)
        patterns = [
            *wording.EXCELLENT,
            *wording.GOOD,
            *wording.PLAIN,
            *wording.VAGUE,
            *wording.REPEATS,
            *wording.BLENDS["other example"],
            *wording.BLENDS["no claim"],
        ]
        pieces = [
            (words_of(part), pattern in wording.VAGUE)
            for pattern in patterns
            for part in SLOT.split(pattern)
            if not SLOT.fullmatch(part)
        ]
        pieces += [(words_of(phrase), True) for phrase in [*wording.OPENERS, *wording.CLOSERS]]
        for piece, padding in pieces:
            self.learn(piece)
            content = tuple(word for word in piece if word not in MARKS)
            if padding and len(content) >= 3:
                self.add(content, "", "padding")
        follow = MARKS | {
            piece[0] for piece, _ in pieces if piece
        }  # what may come after any phrase
        for topic in topics:
            own: set[str] = set()
            for field in ("name", *PARTS):
                for phrase in [topic.name] if field == "name" else getattr(topic, field):
                    words = words_of(phrase)
                    self.learn(words)
                    self.pairs.update((words[-1], start) for start in follow)
                    self.add(words, topic.topic, field)
                    own.update(words)
            # A subject may stand before any claim of its own topic.
            ends = [words_of(subject)[-1] for subject in topic.subjects]
            starts = [words_of(claim)[0] for claim in topic.effects + topic.vague]
            self.pairs.update((end, start) for end in ends for start in starts)
            own.update(words_of(topic.topic))
            self.own_words[topic.topic] = frozenset(word for word in own if word not in MARKS)
        # A word in many topics, such as "the", is glue: it says nothing of one topic and may stand anywhere.
        counts: dict[str, int] = {}
        for own_words in self.own_words.values():
            for word in own_words:
                counts[word] = counts.get(word, 0) + 1
        verbs = {words_of(effect)[0] for topic in topics for effect in topic.effects}
        common = {word for word, count in counts.items() if count > len(topics) / 5} - verbs
        self.glue = common | DANGLING | NEVER_AFTER_ARTICLE
        self.glue |= {word for piece, _ in pieces for word in piece}
        self.own_words = {name: words - self.glue for name, words in self.own_words.items()}
        self.own_stems = {
            name: frozenset(map(stem, words)) for name, words in self.own_words.items()
        }

    def learn(self, words: tuple[str, ...]) -> None:
        self.words.update(words)
        self.pairs.update(zip(words, words[1:]))

    def add(self, words: tuple[str, ...], topic: str, field: str) -> None:
        """A node of the trie holds the next words, what ends here (topic -> field), who passes through."""
        node = self.trie
        for word in words:
            node = node.setdefault(word, {"/ends": {}, "/through": {}})
            through = node["/through"]
            through[topic] = min(through.get(topic, (99, "")), (len(words), field))
        node["/ends"][topic] = field


def stem(word: str) -> str:
    """Enough of a word to know it again with another ending."""
    return word[:5]


def words_of(text: str) -> tuple[str, ...]:
    return tuple(word.lower() for word in TOKEN.findall(text))


@lru_cache(maxsize=1)
def index() -> Index:
    return Index(knowledge())


def judge(topic: str, text: str) -> float:
    """The rubric's score of a text for a topic, in [0, 1]. Raises ValueError for an unknown topic."""
    return explain(topic, text)["score"]


def explain(topic: str, text: str) -> dict[str, float]:
    """The points of each rule, the cap (5 if none), the rubric's 1 to 5 and the score in [0, 1]."""
    known = index()
    if topic not in known.own_stems:
        raise ValueError(f"topic: expected one of data/topics.json, found {topic!r}")
    raw = TOKEN.findall(text)
    words = [word.lower() for word in raw]
    length = sum(word not in MARKS for word in words)
    if not length:
        return _total({}, cap=1.0)
    found, foreign, own_repeated, outside = _phrases(known, topic, words)
    composed = (
        1 - len(outside) / length
    )  # a strange pair or word is a surer fault amid wording that we know
    breaks, strange, pairs = _breaks(known, topic, words)
    breaks += composed * strange
    subjects, effects = found["subjects"], found["effects"]
    evidence = sum(found[field] for field in EVIDENCE)
    own = subjects + effects + evidence + found["vague"] + found["name"]
    stems = {stem(word) for word in words if word not in known.glue and word not in MARKS}
    related = len(stems & known.own_stems[topic])
    focus = (
        0.6 if subjects >= 1 else 0.4 if found["name"] or related >= 2 else 0.2 if related else 0.0
    )

    # Words outside all phrases that we know count for something where they are on topic, stand in sentences,
    # and are not mere generalities.
    loose = {word for word in outside if word not in known.glue and word not in GENERAL}
    general = sum(word in GENERAL for word in outside)
    sense = max(0.0, 1 - breaks / 2) * min(1.0, related / 2)
    claim = 0.5 * sense * min(1.0, max(0, len(loose) - 2 * general) / 8)
    specific = 1.3 * max(min(1.0, effects) * (1.0 if subjects >= 1 else 0.5), claim)
    support = 1.2 * max(
        min(1.0, evidence) * (1.0 if focus >= 0.4 else 0.5), claim * _concrete(raw, words)
    )
    points = {
        "specific": specific,
        "evidence": support,
        "focus": focus,
        "form": 0.4 * _capitals(raw) + 0.5 * min(1.0, length / 8, max(0.0, (48 - length) / 8)),
        "padding": -0.4 * min(4, found["padding"]),
        "other topic": -1.0 * foreign,
        "fluency": -min(2.0, 0.4 * breaks),
        "listing": -0.6 * sum(max(0.0, count - 2) for count in (effects, evidence, subjects)),
    }
    cap = 5.0
    if words[-1] not in STOPS or _repetitive(words) or own_repeated:
        cap = 2.0
    if breaks >= 4 and breaks >= 0.2 * pairs:
        cap = min(cap, 1.75)
    if foreign >= max(1.0, own - 0.5) or (own == 0 and _elsewhere(known, topic, stems, related)):
        cap = min(cap, 1.5)
    return _total(points, cap)


def _total(points: dict[str, float], cap: float) -> dict[str, float]:
    rubric = min(max(1 + sum(points.values()), 1.0), cap)
    return {**points, "cap": cap, "rubric": rubric, "score": (rubric - 1) / 4}


def _phrases(
    known: Index, topic: str, words: list[str]
) -> tuple[dict[str, float], float, bool, list[str]]:
    """(own phrases by field, other topics' phrases, whether a claim is said twice, words outside phrases).

    The longest phrase that starts at a word counts, and reading goes on after it. Half a phrase or more (at
    least three words, two of them not glue) counts 0.3 if it is the topic's own, since half a claim says
    little, and 0.5 if another topic's.
    """
    found = dict.fromkeys(("name", "padding", *PARTS), 0.0)
    foreign, start, seen, repeated, outside = 0.0, 0, set(), False, []
    while start < len(words):
        node, end, best, best_end = known.trie, start, None, start
        while end < len(words) and words[end] in node:
            node = node[words[end]]
            end += 1
            if node["/ends"]:
                best, best_end = node["/ends"], end
        length = best_end - start
        if best and (topic in best or "" in best):
            field = best.get(topic) or best[""]
            found[field] += 1
            phrase = tuple(words[start:best_end])
            repeated |= field not in ("name", "padding", "subjects") and phrase in seen
            seen.add(phrase)
            start = best_end
        elif best and length >= 2 and "name" not in best.values():
            foreign += 1
            start = best_end
        elif end - start >= 3 and sum(word not in known.glue for word in words[start:end]) >= 2:
            through = node["/through"]
            own = through.get(topic) or through.get("")
            size, field = own or min(through.values())
            if end - start >= size / 2:
                if own:
                    found[field] += 0.3 if field != "padding" else 0.0
                elif field != "name":
                    foreign += 0.5
            start = end
        else:
            if words[start] not in MARKS:
                outside.append(words[start])
            start += 1
    return found, foreign, repeated, outside


def _breaks(known: Index, topic: str, words: list[str]) -> tuple[float, float, int]:
    """(pairs that do not belong side by side, pairs and words that are merely strange to us, all pairs).

    No sentence has "the of" or "because."; and two of the topic's own words that no phrase holds so
    are most likely two broken phrases. An unknown word, or an unknown pair of other words, may be right: it
    is only strange.
    """
    breaks = strange = 0.0
    pairs = 0
    own = known.own_words[topic]
    before = "."
    for word in words:
        if word not in MARKS:
            strange += 0.5 * (word not in known.words and not word[0].isdigit())
        if before in MARKS:
            breaks += word in MARKS  # two marks in a row, or a text that starts with one
        else:
            pairs += word not in MARKS
            if (before, word) not in known.pairs:
                if word in MARKS:
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
    """A word said twice in a row, or any four words twice."""
    fours = list(zip(words, words[1:], words[2:], words[3:]))
    return len(set(fours)) < len(fours) or any(a == b for a, b in zip(words, words[1:]))


def _capitals(raw: list[str]) -> float:
    """The share of sentences that start with a capital letter or a number."""
    starts = [
        word for before, word in zip([".", *raw], raw) if before in STOPS and word not in MARKS
    ]
    return sum(not word[0].islower() for word in starts) / max(1, len(starts))


def _elsewhere(known: Index, topic: str, stems: set[str], related: int) -> bool:
    """Whether a text without the topic's phrases has no word of it, or clearly more of some other topic."""
    return not related or any(
        len(stems & others) > related + 1 for others in known.own_stems.values()
    )


def _concrete(raw: list[str], words: list[str]) -> float:
    """Signs of evidence, 0 to 1: a number or a name (0.6), a connective (0.4)."""
    named = any(word[0].isdigit() or word in NUMBERS for word in words) or any(
        word[0].isupper() and word != "I" and before not in STOPS
        for before, word in zip(raw, raw[1:])
    )
    return 0.6 * named + 0.4 * any(word in CONNECTIVES for word in words)
