"""The tokenizer against hand-computed merges, a naive and a slow trainer, and any Unicode text."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import pairwise, product

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from minirlhf import tokenizer as tokenizer_module
from minirlhf.tokenizer import END, PATTERN, SEPARATOR, Tokenizer, train_bpe

BYTES = [bytes([value]) for value in range(256)]
CORPUS = [
    "The low tide shows the lower rocks, and the lowest rocks show the slow snails.",
    "Why does the sea rise and fall? The moon pulls the water; 12 hours 25 minutes later it is "
    "high again.",
    "月亮拉动海水，所以海水每天涨落两次。月亮离我们很远。",
    "It's the moon's pull, isn't it?  Two  spaces\n\nand\ttabs.",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_bpe(CORPUS, 300))


def naive_bpe(texts: list[str], vocab_size: int) -> list[bytes]:
    """BPE as the definition has it: count everything anew for each merge.

    Ties go to the lower ranks.
    """
    words = [list(word.encode()) for text in texts for word in regex.findall(PATTERN, text)]
    tokens = list(BYTES)
    while len(tokens) < vocab_size:
        counts = Counter(pair for word in words for pair in pairwise(word))
        if not counts or max(counts.values()) < 2:
            break
        left, right = min(pair for pair in counts if counts[pair] == max(counts.values()))
        tokens.append(tokens[left] + tokens[right])
        for word in words:
            i = 0
            while i + 1 < len(word):
                if word[i : i + 2] == [left, right]:
                    word[i : i + 2] = [len(tokens) - 1]
                i += 1
    return tokens


# ---- training


def test_merges_computed_by_hand():
    # Words: "aab" 3 times (" aab" twice, "aab" once), " ab" twice.
    # ab: 3 + 2 = 5; aa: 3; " a": 2 + 2 = 4. First ab.
    # Then a|ab, (space)|a|ab twice, (space)|ab twice: a+ab 3, space+a 2, space+ab 2. So aab.
    # Then aab, (space)|aab twice, (space)|ab twice: a tie of 2; ab (rank 256) is older than aab.
    # Then " aab". Nothing is left that occurs twice.
    tokens = train_bpe(["aab aab aab ab ab"], 300)
    assert tokens[:256] == BYTES
    assert tokens[256:] == [b"ab", b"aab", b" ab", b" aab"]


def test_overlapping_pair_merges_from_the_left():
    # Four words " aaa": (space, a) 4, (a, a) 8. aa first, which leaves (space)|aa|a, each pair 4
    # times: (space, aa) is (32, 256), (aa, a) is (256, 97): the lower first rank wins.
    assert train_bpe([" aaa" * 4], 300)[256:] == [b"aa", b" aa", b" aaa"]


def test_vocab_size_is_an_upper_bound():
    assert len(train_bpe(CORPUS, 300)) == 300
    assert train_bpe(["abc"], 300) == BYTES  # no pair occurs twice
    assert train_bpe([], 300) == BYTES
    assert train_bpe(CORPUS, 256) == BYTES
    with pytest.raises(ValueError, match="at least 256"):
        train_bpe(CORPUS, 255)


def test_agrees_with_the_naive_trainer():
    ours = train_bpe(CORPUS, 340)
    assert ours == naive_bpe(CORPUS, 340)
    assert len(ours) > 300


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(alphabet="ab é中", max_size=30), max_size=6))
def test_agrees_with_the_naive_trainer_on_any_text(texts):
    tokens = train_bpe(texts, 300)
    assert tokens == naive_bpe(texts, 300)
    assert len(set(tokens)) == len(tokens)


def test_no_two_pairs_spell_the_same_token():
    # Long words of few letters are where two cuts of the same bytes (a+bc and ab+c) could show.
    rng = random.Random(0)
    words = ["".join(rng.choice("ab") for _ in range(rng.randint(2, 40))) for _ in range(60)]
    tokens = train_bpe([" ".join(words)], 500)
    assert tokens == naive_bpe([" ".join(words)], 500)
    assert len(set(tokens)) == len(tokens)
    text = "abbaabababbbab"
    assert Tokenizer(tokens).decode(Tokenizer(tokens).encode(text)) == text


def test_agrees_with_tiktokens_educational_trainer():
    educational = pytest.importorskip("tiktoken._educational")
    # Each word of three of the letters a, b, c at its own random count, so that the commonest pair
    # is never tied (the two trainers break ties differently).
    rng = random.Random(0)
    words = [" " + "".join(letters) for letters in product("abc", repeat=3)]
    text = "".join(word * rng.randint(5, 400) for word in words)
    vocab_size = 256 + 20
    theirs = educational.bpe_train(text, vocab_size, PATTERN, visualise=None)
    assert sorted(theirs, key=theirs.get) == train_bpe([text], vocab_size)


def test_training_depends_on_the_counts_alone():
    shuffled = random.Random(1).sample(CORPUS, len(CORPUS))
    assert train_bpe(CORPUS, 300) == train_bpe(shuffled, 300)
    assert train_bpe(iter(CORPUS), 300) == train_bpe(CORPUS, 300)


def test_no_token_reaches_over_the_edge_of_a_word():
    tokens = train_bpe(["the end. the end. the end. 1234567 1234567 1234567"], 400)
    assert b" end" in tokens and b" 123" in tokens and b"456" in tokens
    # A space can stand only in front; digits come by threes at most.
    assert all(b" " not in token[1:] for token in tokens)
    assert all(sum(48 <= byte <= 57 for byte in token) <= 3 for token in tokens)


def test_training_shortens_the_text(tokenizer):
    text = " ".join(CORPUS)
    assert len(tokenizer.encode(text)) < 0.75 * len(text.encode())


# ---- encoding and decoding


@settings(max_examples=500, deadline=None)
@given(text=st.text())
def test_every_unicode_string_comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= token_id < tokenizer.end_id for token_id in ids)
    assert tokenizer.decode_text(tokenizer.encode_text(text)) == text


def test_every_single_character_comes_back(tokenizer):
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF]
    for start in range(
        0, len(characters), 4096
    ):  # no character may be lost between two others either
        text = "".join(characters[start : start + 4096])
        assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_the_pattern_holds_every_character(text):
    assert "".join(regex.findall(PATTERN, text)) == text


@pytest.mark.parametrize("unit", ["a", " ", "中", "!", "7", "\n", "é", "🌊"])
def test_a_very_long_run_comes_back(tokenizer, unit):
    assert tokenizer.decode(tokenizer.encode(unit * 100_000)) == unit * 100_000
    assert len(train_bpe([unit * 10_000], 300)) >= 256


def test_encode_applies_the_oldest_merge_first():
    tokenizer = Tokenizer(train_bpe(["aab aab aab ab ab"], 300))
    assert tokenizer.encode("aab") == [257]
    assert tokenizer.encode(" ab aab") == [258, 259]
    assert tokenizer.encode("bab") == [ord("b"), 256]
    assert tokenizer.encode("") == []


def test_lone_surrogates_become_the_replacement_character(tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"
    assert (
        tokenizer.decode(tokenizer.encode("a\ud83c\udf0ab")) == "a🌊b"
    )  # the two halves of one character
    assert train_bpe(["a\ud800b a\ud800b"], 300) == train_bpe(["a\ufffdb a\ufffdb"], 300)


def test_special_ids_come_after_the_tokens(tokenizer):
    assert (tokenizer.end_id, tokenizer.separator_id, tokenizer.vocab_size) == (300, 301, 302)


@pytest.mark.parametrize("special", [END, SEPARATOR])
def test_text_that_looks_like_a_special_is_text(tokenizer, special):
    text = f"before{special}after"
    ids = tokenizer.encode(text)
    assert max(ids) < tokenizer.end_id
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_prompt(text).count(tokenizer.separator_id) == 1
    assert tokenizer.encode_text(text).count(tokenizer.end_id) == 1
    assert tokenizer.decode_text(tokenizer.encode_text(text)) == text


def test_prompt_and_text_rows(tokenizer):
    assert tokenizer.encode_prompt("the sea") == tokenizer.encode("the sea") + [
        tokenizer.separator_id
    ]
    assert tokenizer.encode_text("the sea") == tokenizer.encode(" the sea") + [tokenizer.end_id]
    row = tokenizer.encode_prompt("the sea") + tokenizer.encode_text("rises")
    assert tokenizer.decode(row) == "the sea rises"  # specials are dropped


def test_decode_text_stops_at_the_first_end_and_strips_one_space(tokenizer):
    row = tokenizer.encode_text("high tide") + tokenizer.encode_text("not this")
    assert tokenizer.decode_text(row) == "high tide"
    assert tokenizer.decode_text(tokenizer.encode(" no end yet")) == "no end yet"
    assert tokenizer.decode_text(tokenizer.encode_text("  two spaces")) == "  two spaces"
    assert tokenizer.decode_text([tokenizer.end_id]) == ""
    assert tokenizer.decode_text([]) == ""


def test_decode_replaces_bytes_that_are_no_utf8(tokenizer):
    assert tokenizer.decode([ord("a"), 0xE4, 0xB8, ord("b")]) == "a\ufffdb"  # a character cut short


@pytest.mark.parametrize("token_id", [-1, 302, 10**6])
def test_decode_names_an_unknown_id(tokenizer, token_id):
    with pytest.raises(ValueError, match=f"expected 0 to 301, found {token_id}"):
        tokenizer.decode([5, token_id])


@pytest.mark.parametrize(
    "tokens, message",
    [
        (BYTES + [b"ab", b"cd", b"ab"], "b'ab' more than once"),
        (BYTES + [b""], "no empty token, found one at 256"),
        (BYTES[:97] + BYTES[98:] + [b"bc"], "found none for byte 97"),
        ([], "found none for byte 0"),
    ],
)
def test_wrong_tokens_are_refused(tokens, message):
    with pytest.raises(ValueError, match=message):
        Tokenizer(tokens)


# ---- files


def test_save_and_load(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    loaded = Tokenizer.load(path)
    assert loaded.tokens == tokenizer.tokens
    assert loaded.vocab_size == tokenizer.vocab_size
    assert loaded.encode(CORPUS[2]) == tokenizer.encode(CORPUS[2])
    assert [entry.name for entry in tmp_path.iterdir()] == [
        "tokenizer.json"
    ]  # no temporary file is left
    first = path.read_bytes()
    loaded.save(str(path))  # over the old file, and bit for bit the same
    assert path.read_bytes() == first


def test_a_failed_save_leaves_the_old_file(tokenizer, tmp_path, monkeypatch):
    path = tmp_path / "tokenizer.json"
    path.write_text("old")

    def refuse(source, target):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="no space left"):
        tokenizer.save(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def changed(**fields) -> bytes:
    content = {
        "format": "minirlhf-tokenizer",
        "version": 1,
        "pattern": PATTERN,
        "tokens": [token.decode("latin-1") for token in BYTES],
    }
    content.update(fields)
    return json.dumps({key: value for key, value in content.items() if value is not ...}).encode()


def test_the_unchanged_file_is_good(tmp_path):
    (tmp_path / "t.json").write_bytes(changed())
    assert Tokenizer.load(tmp_path / "t.json").tokens == BYTES


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "JSON"),
        (b"\xff\xfe", "JSON in UTF-8"),
        (b"{", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b"[1]", "format"),
        (changed(format="gpt"), "format"),
        (changed(format=...), "format"),
        (changed(version=2), "version: expected 1, found 2"),
        (changed(version=True), "version"),
        (changed(normalizer="lowercase"), "unknown field 'normalizer'"),
        (changed(version=...), "version: expected 1, found None"),
        (changed(pattern=r"\w+"), "pattern"),
        (changed(pattern=["x" * 500]), "pattern"),
        (changed(tokens=...), "tokens: expected a list"),
        (changed(tokens={"a": 1}), "tokens: expected a list of strings, found dict"),
        (changed(tokens=["a", 7]), r"tokens\[1\]"),
        (changed(tokens=["a", "b", "中"]), r"tokens\[2\]"),
        (changed(tokens=["a", "a"]), "tokens: expected each token once"),
        (changed(tokens=["a", "b"]), "tokens: expected all 256 single bytes"),
    ],
)
def test_a_malformed_file_is_named_in_one_line(tmp_path, content, message):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        Tokenizer.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 200


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="none.json: cannot be read: No such file"):
        Tokenizer.load(tmp_path / "none.json")
    with pytest.raises(ValueError, match="cannot be read"):
        Tokenizer.load(tmp_path)


# ---- only as much as is kept

MIXED = st.text(st.sampled_from("ab é中'1 \n\t!🌊\ud800\udf0a"), max_size=400)


@settings(max_examples=200, deadline=None)
@given(text=MIXED, count=st.integers(1, 30))
def test_the_first_and_last_tokens_are_those_of_the_whole(tokenizer, text, count):
    whole = tokenizer.encode(text)
    assert tokenizer.encode_start(text, count) == whole[:count]
    assert tokenizer.encode_end(text, count) == whole[-count:]


@pytest.mark.parametrize("unit", ["a", " ", "ab ", "\ud83c\udf0a", "the tide, ", "aaa" * 50 + " "])
def test_the_ends_of_a_long_text_cost_little(tokenizer, monkeypatch, unit):
    text, whole, encoded = unit * 20_000, tokenizer.encode(unit * 20_000), []
    real = Tokenizer.encode
    monkeypatch.setattr(
        Tokenizer, "encode", lambda self, text: encoded.append(len(text)) or real(self, text)
    )
    assert tokenizer.encode_start(text, 40) == whole[:40]
    assert sum(encoded) <= 3 * 40 * 148  # no word of the pattern is longer
    encoded.clear()
    assert tokenizer.encode_end(text, 40) == whole[-40:]
    assert encoded[-1] <= 40 * 148 or " " not in unit
    assert tokenizer.encode_end(text, 0) == []


def test_copies_of_a_text_count_as_often_as_they_occur():
    copies = [CORPUS[0]] * 7 + CORPUS[1:] * 2
    assert train_bpe(copies, 340) == naive_bpe(copies, 340)


def test_training_on_one_long_word_is_not_quadratic(monkeypatch):
    """Each place is merged once at most, however long its word: counted, not timed."""
    letters = "".join(random.Random(0).choices("abcd", k=20_000))
    visited = 0
    real = tokenizer_module.MergedRow.merge

    def merge(row, pair, rank):
        nonlocal visited
        visited += len(row.places[pair])
        return real(row, pair, rank)

    monkeypatch.setattr(tokenizer_module.MergedRow, "merge", merge)
    assert len(train_bpe([letters, letters[:100]], 700)) == 700
    assert visited < 3 * len(letters)
