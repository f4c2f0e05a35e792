"""What the judge of `openings` looks up: every phrase of the knowledge and of the stock wording.

Phrases are kept in a trie by word, so that the longest phrase at any place in a text is found in
one walk. Beside it: which words may stand side by side, and which words belong to one topic alone.
"""

from __future__ import annotations

import itertools
import re
from functools import lru_cache

from minirlhf.tasks.openings import wording
from minirlhf.tasks.openings.knowledge import PARTS, Topic, knowledge

TOKEN = re.compile(r"[^\W_]+(?:['’.\-][^\W_]+)*|[.,;:!?]")
SLOT = re.compile(r"(\{\w\})")
MARKS = frozenset(".,;:!?")
PATTERNS = [
    *wording.EXCELLENT,
    *wording.GOOD,
    *wording.PLAIN,
    *wording.VAGUE,
    *wording.REPEATS,
    *wording.BLENDS["other example"],
    *wording.BLENDS["no claim"],
]
# Words that no sentence, and no comma, comes right after.
DANGLING = frozenset(
    "a an the of to from for with by at into because while than and or but which its their "
    "our".split()
)
# Function words that never follow an article or a preposition, whatever the sentence.
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
FUNCTION_WORDS = DANGLING | NEVER_AFTER_ARTICLE
MIN_PADDING_WORDS = 3  # a shorter piece of stock wording is no phrase
LONGER_THAN_ANY = 99

# A node of the trie maps a word to the next node, "/ends" to {topic: field} of the phrases that end
# here, and "/through" to {topic: (length, field)} of the shortest phrase that passes through. The
# topic of padding is "". No word contains a slash.
Node = dict


class PhraseIndex:
    """The trie of all phrases, the pairs of words in them, and each topic's own words."""

    def __init__(self, topics: tuple[Topic, ...]):
        self.trie: Node = {}
        self.pairs: set[tuple[str, str]] = set()  # words that may stand side by side
        self.words: set[str] = set(FUNCTION_WORDS)  # every known word
        stock = stock_pieces()
        for piece, is_padding in stock:
            self._learn(piece)
            content = tuple(word for word in piece if word not in MARKS)
            if is_padding and len(content) >= MIN_PADDING_WORDS:
                self._add(content, "", "padding")
        stock_starts = {piece[0] for piece, _ in stock if piece}
        may_follow = MARKS | stock_starts  # what may come after any phrase
        topic_words = {}
        for topic in topics:
            topic_words[topic.topic] = self._add_topic(topic, may_follow)
        self.glue = _glue(topics, topic_words) | FUNCTION_WORDS
        for piece, _ in stock:
            self.glue.update(piece)
        self.own_words: dict[str, frozenset[str]] = {}
        self.own_stems: dict[str, frozenset[str]] = {}
        for name, words in topic_words.items():
            own = frozenset(words - self.glue)
            self.own_words[name] = own
            self.own_stems[name] = frozenset(stem(word) for word in own)

    def _add_topic(self, topic: Topic, may_follow: frozenset[str]) -> set[str]:
        """Add the phrases of a topic; return all their words."""
        topic_words = set(words_of(topic.topic))
        for field in ("name", *PARTS):
            phrases = [topic.name] if field == "name" else getattr(topic, field)
            for phrase in phrases:
                words = words_of(phrase)
                self._learn(words)
                self._add(words, topic.topic, field)
                self.pairs.update((words[-1], start) for start in may_follow)
                topic_words.update(words)
        # A subject may stand before any claim of its own topic.
        subject_ends = [words_of(subject)[-1] for subject in topic.subjects]
        claim_starts = [words_of(claim)[0] for claim in topic.effects + topic.vague]
        self.pairs.update((end, start) for end in subject_ends for start in claim_starts)
        return topic_words - MARKS

    def _learn(self, words: tuple[str, ...]) -> None:
        self.words.update(words)
        self.pairs.update(itertools.pairwise(words))

    def _add(self, words: tuple[str, ...], topic: str, field: str) -> None:
        node = self.trie
        for word in words:
            node = node.setdefault(word, {"/ends": {}, "/through": {}})
            through = node["/through"]
            shortest = through.get(topic, (LONGER_THAN_ANY, ""))
            through[topic] = min(shortest, (len(words), field))
        node["/ends"][topic] = field


def stock_pieces() -> list[tuple[tuple[str, ...], bool]]:
    """The composer's fixed wording as (words, whether it is padding), cut at the slots."""
    pieces = []
    for pattern in PATTERNS:
        for part in SLOT.split(pattern):
            if not SLOT.fullmatch(part):
                pieces.append((words_of(part), pattern in wording.VAGUE))
    for phrase in [*wording.OPENERS, *wording.CLOSERS]:
        pieces.append((words_of(phrase), True))
    return pieces


def _glue(topics: tuple[Topic, ...], topic_words: dict[str, set[str]]) -> set[str]:
    """Words in more than a fifth of the topics, such as "the", except the first words of effects.

    They say nothing about one topic and may stand anywhere.
    """
    counts: dict[str, int] = {}
    for words in topic_words.values():
        for word in words:
            counts[word] = counts.get(word, 0) + 1
    common = {word for word, count in counts.items() if count > len(topics) / 5}
    verbs = {words_of(effect)[0] for topic in topics for effect in topic.effects}
    return common - verbs


def stem(word: str) -> str:
    """Enough of a word to recognise it with another ending."""
    return word[:5]


def words_of(text: str) -> tuple[str, ...]:
    """The words and punctuation marks of a text, lower-cased."""
    return tuple(word.lower() for word in TOKEN.findall(text))


@lru_cache(maxsize=1)
def phrase_index() -> PhraseIndex:
    """The index of the shipped topics, built at the first call."""
    return PhraseIndex(knowledge())
