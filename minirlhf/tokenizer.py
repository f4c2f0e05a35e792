"""Byte-pair encoding (BPE, 字节对编码): text to integers and back.

A model reads integers. One token per character makes sequences long; one per word leaves rare words
out. BPE lies between:

1. Write the text as UTF-8 bytes. The first 256 tokens are the bytes, so nothing is ever unknown.
2. Split it into words (`PATTERN`). No token ever crosses the edge of a word.
3. Count each pair of neighbouring tokens over all words.
4. Make the most frequent pair one new token, and replace the pair by it everywhere.
5. Go back to 3 until the vocabulary is full. Common words become one token, rare ones a few pieces.

To encode a new word, start from its bytes and apply the same merges, oldest first; to decode, join
the bytes.

Words repeat, so the trainer looks at each *different* word once and multiplies by its count. A
merge touches only the places where its pair stands. Encoding runs in `tiktoken.Encoding`, on
the tokens that we trained ourselves; nothing is downloaded.
"""

from __future__ import annotations

import heapq
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import regex  # comes with tiktoken; unlike `re` it knows \p{L}
import tiktoken
from tqdm import tqdm

from minirlhf.system.files import replacing

# A word is one of: letters (and what follows an apostrophe), one to three digits, other signs, each
# with the space before it; or a single white space. The four classes hold every character, so no
# character is lost. There is no look-ahead, so that tiktoken's regular expressions take time linear
# in the text. A bound on the length keeps the merging quick on text without spaces.
PATTERN = r" ?[\p{L}\p{M}]{1,64}(?:'\p{L}{1,8})?| ?\p{N}{1,3}| ?[^\s\p{L}\p{M}\p{N}]{1,64}|\s"

END = "<|end|>"  # closes a text
SEPARATOR = "<|separator|>"  # stands between the topic and the text
Pair = tuple[int, int]  # the ranks of two neighbouring tokens
LONGEST_WORD = 2 * (1 + 64 + 1 + 8)  # characters; twice, as each may be half of a surrogate pair
CHARACTERS_PER_TOKEN = 8  # a first guess, rather too many: `encode_start` tries more if need be
BAR_AFTER = 2.0  # seconds: what takes longer shows a progress bar
FORMAT, VERSION = "minirlhf-tokenizer", 1


def train_bpe(texts: Iterable[str], vocab_size: int) -> list[bytes]:
    """Train BPE; return the tokens in rank order: the 256 bytes, then each merge as it was made.

    The most frequent pair is merged first; of equally frequent ones, the pair with the older tokens
    (lower ranks). So the result depends on the counts alone, not on the order of the texts. Stops
    at `vocab_size` tokens, or sooner when no pair occurs twice. Specials are not counted here.
    Raises ValueError if vocab_size is under 256. Source: Sennrich et al. 2016, on bytes as in
    GPT-2.
    """
    if vocab_size < 256:
        raise ValueError(
            f"vocab_size: expected at least 256 (one token per byte), found {vocab_size}"
        )
    row = MergedRow(count_words(texts))
    tokens = [bytes([value]) for value in range(256)]
    # The heap may hold old counts of a pair. They differ from the row's, and are thrown away.
    heap = [(-count, pair) for pair, count in row.pair_counts.items()]
    heapq.heapify(heap)
    with tqdm(total=vocab_size - 256, desc="merging", delay=BAR_AFTER, leave=False) as bar:
        while len(tokens) < vocab_size and heap:
            negative_count, pair = heapq.heappop(heap)
            if -negative_count != row.pair_counts[pair]:
                continue
            if -negative_count < 2:
                break
            # No earlier token has these bytes: the same bytes are always split the same way, so
            # a + bc and ab + c never both occur.
            rank = len(tokens)
            tokens.append(tokens[pair[0]] + tokens[pair[1]])
            for other in row.merge(pair, rank):
                if row.pair_counts[other] > 0:
                    heapq.heappush(heap, (-row.pair_counts[other], other))
            bar.update()
    return tokens


class MergedRow:
    """All words in one row, as chains of tokens in which pairs are merged.

    A merge visits only the places where its pair stands, so all merges together take time linear in
    the length of the words, however long one of them is.
    """

    def __init__(self, word_counts: Counter[str]):
        self.ranks: list[int] = []  # the token at each place; -1: merged into the one before it
        self.before: list[int] = []  # the place of the token before it in its word; -1: none
        self.after: list[int] = []
        self.counts: list[int] = []  # how often the word of each place occurs
        self.pair_counts: defaultdict[Pair, int] = defaultdict(int)
        # Where a pair begins, from left to right; at some places it may have been lost since.
        self.places: defaultdict[Pair, list[int]] = defaultdict(list)
        for word, count in word_counts.items():
            self._append(word.encode("utf-8"), count)

    def _append(self, word: bytes, count: int) -> None:
        """Put a word at the end of the row. A byte's rank is its value."""
        first = len(self.ranks)
        places = range(first, first + len(word))
        self.ranks += word
        self.before += [-1, *places[:-1]]
        self.after += [*places[1:], -1]
        self.counts += [count] * len(word)
        for place, pair in zip(places, pairwise(word), strict=False):
            self.pair_counts[pair] += count
            self.places[pair].append(place)

    def merge(self, pair: Pair, rank: int) -> set[Pair]:
        """Write each `pair`, from the left, as the one token `rank`.

        Returns the pairs whose count has changed.
        """
        changed = set()

        def count(left: int, right: int, by: int) -> None:
            other = self.ranks[left], self.ranks[right]
            self.pair_counts[other] += by
            changed.add(other)
            if by > 0:
                self.places[other].append(left)

        for place in self.places.pop(pair):
            partner = self.after[place]
            if partner < 0 or (self.ranks[place], self.ranks[partner]) != pair:
                continue  # lost to another merge, or to this one: "aaa" holds "aa" once
            left, right, copies = self.before[place], self.after[partner], self.counts[place]
            count(place, partner, -copies)
            if left >= 0:
                count(left, place, -copies)
            if right >= 0:
                count(partner, right, -copies)
                self.before[right] = place
            self.ranks[place], self.ranks[partner], self.after[place] = rank, -1, right
            if left >= 0:
                count(left, place, copies)
            if right >= 0:
                count(place, right, copies)
        return changed


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each word (see PATTERN) occurs. A text that occurs often is split once."""
    word_counts: Counter[str] = Counter()
    different = Counter(texts)
    for text, copies in tqdm(
        different.items(), desc="counting words", delay=BAR_AFTER, leave=False
    ):
        words = Counter(regex.findall(PATTERN, _without_surrogates(text)))
        for word, count in words.items():
            word_counts[word] += count * copies
    return word_counts


def _without_surrogates(text: str) -> str:
    """Text that UTF-8 can hold: surrogate pairs joined, a lone half as U+FFFD (as in tiktoken)."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _shown(value: object) -> str:
    """A value of a file for an error message: one line, at most 60 characters."""
    return ascii(value)[:60]


class Tokenizer:
    """Encode text to token ids and decode them.

    `tokens` are the mergeable tokens in rank order (see `train_bpe`); a token's rank is its id. The
    ids after them are the two specials: `end_id` and `separator_id`. `vocab_size` counts all of
    them. Every Unicode string comes back unchanged from `decode(encode(text))`. A lone surrogate
    (half a character, which UTF-8 cannot hold) comes back as U+FFFD. Raises ValueError if a token
    occurs twice or is empty, or one of the 256 bytes is missing.
    """

    def __init__(self, tokens: list[bytes]):
        ranks = {token: rank for rank, token in enumerate(tokens)}
        if len(ranks) != len(tokens):
            twice = next(token for rank, token in enumerate(tokens) if ranks[token] != rank)
            raise ValueError(f"tokens: expected each token once, found {twice!r} more than once")
        if b"" in ranks:
            raise ValueError(f"tokens: expected no empty token, found one at {ranks[b'']}")
        missing = [value for value in range(256) if bytes([value]) not in ranks]
        if missing:
            raise ValueError(
                f"tokens: expected all 256 single bytes, found none for byte {missing[0]}"
            )
        self.tokens = list(tokens)
        self.end_id, self.separator_id = len(tokens), len(tokens) + 1
        self.vocab_size = len(tokens) + 2
        specials = {END: self.end_id, SEPARATOR: self.separator_id}
        self._encoding = tiktoken.Encoding(
            "minirlhf", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=specials
        )

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`. Never gives a special: text that looks like one is ordinary text."""
        return self._encoding.encode_ordinary(text)

    def encode_start(self, text: str, count: int) -> list[int]:
        """The first `count` tokens of `encode(text)`, at the cost of little more than these.

        A space always begins a word (see PATTERN), so the tokens of what stands before a space are
        the first ones of the whole.
        """
        text = text[: count * LONGEST_WORD]  # holds at least `count` words, each at least a token
        length = count * CHARACTERS_PER_TOKEN
        while 0 <= (end := text.find(" ", length)):
            if len(ids := self.encode(text[:end])) >= count:
                return ids[:count]
            length *= 2
        return self.encode(text)[:count]

    def encode_end(self, text: str, count: int) -> list[int]:
        """The last `count` tokens of `encode(text)`; as `encode_start`, from the other side."""
        length = count * CHARACTERS_PER_TOKEN
        while 0 < (start := text.rfind(" ", 0, max(0, len(text) - length))):
            if len(ids := self.encode(text[start:])) >= count:
                return ids[len(ids) - count :]
            length *= 2
        ids = self.encode(text)
        return ids[max(0, len(ids) - count) :]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`. Specials are dropped; bytes that are no valid UTF-8 become U+FFFD.

        Raises ValueError if an id is not in [0, vocab_size).
        """
        parts = []
        for token_id in ids:
            if not 0 <= token_id < self.vocab_size:
                raise ValueError(f"token id: expected 0 to {self.vocab_size - 1}, found {token_id}")
            if token_id < len(self.tokens):
                parts.append(self.tokens[token_id])
        return b"".join(parts).decode("utf-8", errors="replace")

    def encode_prompt(self, topic: str) -> list[int]:
        """A prompt's ids: the topic, then the separator."""
        return self.encode(topic) + [self.separator_id]

    def encode_text(self, text: str) -> list[int]:
        """A text's ids: a space, the text, then the end.

        The space makes its first word split like the others.
        """
        return self.encode(" " + text) + [self.end_id]

    def decode_text(self, ids: Iterable[int]) -> str:
        """The inverse of `encode_text`: the text before the first end, or all of it."""
        before_end = []
        for token_id in ids:
            if token_id == self.end_id:
                break
            before_end.append(token_id)
        return self.decode(before_end).removeprefix(" ")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, atomically; a token's bytes 0..255 become characters U+0000..U+00FF."""
        path = Path(path)
        content = {
            "format": FORMAT,
            "version": VERSION,
            "pattern": PATTERN,
            "tokens": [token.decode("latin-1") for token in self.tokens],
        }
        with replacing(path) as temporary:
            temporary.write_text(
                json.dumps(content, indent=0) + "\n", encoding="utf-8", newline="\n"
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Read what `save` wrote. Raises ValueError, naming file and field, if it is malformed."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: expected JSON in UTF-8, found none ({error})") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f'{path}: format: expected a JSON object with "format": "{FORMAT}"')
        version, pattern, tokens = (
            content.get(field) for field in ("version", "pattern", "tokens")
        )
        if version != VERSION or isinstance(version, bool):
            raise ValueError(f"{path}: version: expected {VERSION}, found {_shown(version)}")
        if pattern != PATTERN:  # tokens trained on other words would be put together wrongly
            raise ValueError(
                f"{path}: pattern: expected that of version {VERSION}, found {_shown(pattern)}"
            )
        if unknown := content.keys() - {"format", "version", "pattern", "tokens"}:
            raise ValueError(f"{path}: unknown field {_shown(min(unknown))}")
        if not isinstance(tokens, list):
            raise ValueError(  # a wrong file, not a wrong call
                f"{path}: tokens: expected a list of strings, found {type(tokens).__name__}"
            )
        for rank, token in enumerate(tokens):
            if not isinstance(token, str) or any(ord(character) > 255 for character in token):
                raise ValueError(
                    f"{path}: tokens[{rank}]: expected a string of characters U+0000 to U+00FF"
                )
        try:
            return cls([token.encode("latin-1") for token in tokens])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
