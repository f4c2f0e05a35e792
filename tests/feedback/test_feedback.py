"""Feedback files: what is read, what is refused and in which words, what is written, how it is
split."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirlhf.feedback.records import (
    MAX_LINE_BYTES,
    FeedbackError,
    Triple,
    read_triples,
    write_triples,
)
from minirlhf.feedback.splits import split_triples

GOOD = {"topic": "tides", "text": "The moon pulls the sea.", "score": 4}


def file_of(folder: Path, *lines: object) -> Path:
    """A file of these lines; what is not bytes is written as JSON."""
    path = folder / "feedback.jsonl"
    path.write_bytes(
        b"".join((x if isinstance(x, bytes) else json.dumps(x).encode()) + b"\n" for x in lines)
    )
    return path


def faults_of(path: Path, score_range=(1.0, 5.0)) -> list[str]:
    """The lines of the error, each without the file's name, which each must begin with."""
    with pytest.raises(FeedbackError) as caught:
        read_triples(path, score_range)
    lines = str(caught.value).splitlines()
    assert all(line.startswith((f"{path}: ", "... and ")) for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]


# ---- reading


def test_good_lines_are_read_and_scaled(tmp_path):
    path = file_of(
        tmp_path,
        GOOD,
        {**GOOD, "score": 1, "ratings": [1, 1.0], "provenance": "simulated"},
        {**GOOD, "score": 5.0, "topic": "潮汐", "text": "海水涨落 🌊", "id": 7},
    )
    assert read_triples(path) == [
        Triple("tides", "The moon pulls the sea.", 0.75),
        Triple("tides", "The moon pulls the sea.", 0.0, (1.0, 1.0), "simulated"),
        Triple("潮汐", "海水涨落 🌊", 1.0, (), "people"),
    ]


def test_the_score_range_is_the_callers(tmp_path):
    path = file_of(tmp_path, {**GOOD, "score": -4}, {**GOOD, "score": 1, "ratings": [4, -2]})
    assert [triple.score for triple in read_triples(path, (-4, 4))] == [0.0, 0.625]
    assert read_triples(path, (-4, 4))[1].ratings == (4.0, -2.0)  # ratings stay on the file's scale


def test_what_editors_do_to_files_is_tolerated(tmp_path):
    line = json.dumps(GOOD).encode()
    path = tmp_path / "f.jsonl"
    # A byte order mark, CRLF, blank lines, no newline at the end.
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\r\n  \n" + line)
    assert len(read_triples(str(path))) == 2


def test_unusual_line_separators_stay_within_the_text(tmp_path):
    text = "one\u2028two\u0085three\x0bfour"
    path = tmp_path / "f.jsonl"
    path.write_text(json.dumps({**GOOD, "text": text}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [triple.text for triple in read_triples(path)] == [text]


def test_the_range_includes_its_ends_and_no_more(tmp_path):
    assert len(read_triples(file_of(tmp_path, {**GOOD, "score": 1}, {**GOOD, "score": 5}))) == 2
    path = file_of(tmp_path, {**GOOD, "score": 0.999}, {**GOOD, "score": 5.001})
    assert [fault.split(":")[0] for fault in faults_of(path)] == ["line 1", "line 2"]


NUMBER = "a number from 1 to 5"
TEXT = "a text that is not empty"


@pytest.mark.parametrize(
    "field, value, fault",
    [
        ("topic", ..., f"topic: expected {TEXT}, found no such field"),
        ("topic", "", f'topic: expected {TEXT}, found ""'),
        ("topic", " \n", f'topic: expected {TEXT}, found " \\n"'),
        ("topic", 5, f"topic: expected {TEXT}, found 5"),
        ("topic", None, f"topic: expected {TEXT}, found null"),
        ("topic", "\udc00", 'topic: expected whole characters, found half a surrogate pair in "?"'),
        ("text", ..., f"text: expected {TEXT}, found no such field"),
        ("text", "\t", f'text: expected {TEXT}, found "\\t"'),
        ("text", ["a", "b"], f"text: expected {TEXT}, found a list of 2"),
        ("text", {"a": 1}, f"text: expected {TEXT}, found an object"),
        ("text", "a\ud800", 'text: expected whole characters, found half a surrogate pair in "a?"'),
        ("score", ..., f"score: expected {NUMBER}, found no such field"),
        ("score", "4", f'score: expected {NUMBER}, found "4"'),
        ("score", None, f"score: expected {NUMBER}, found null"),
        ("score", True, f"score: expected {NUMBER}, found true"),
        ("score", 0, f"score: expected {NUMBER}, found 0"),
        ("score", 5.5, f"score: expected {NUMBER}, found 5.5"),
        ("score", math.nan, f"score: expected {NUMBER}, found NaN"),
        ("score", math.inf, f"score: expected {NUMBER}, found Infinity"),
        ("score", -math.inf, f"score: expected {NUMBER}, found -Infinity"),
        ("score", [4], f"score: expected {NUMBER}, found a list of 1"),
        ("score", 10**400, f"score: expected {NUMBER}, found 1{'0' * 56}..."),
        ("ratings", [], "ratings: expected a list of numbers that is not empty, found a list of 0"),
        ("ratings", None, "ratings: expected a list of numbers that is not empty, found null"),
        ("ratings", 4, "ratings: expected a list of numbers that is not empty, found 4"),
        ("ratings", "4 5", 'ratings: expected a list of numbers that is not empty, found "4 5"'),
        ("ratings", [4, "5"], f'ratings[1]: expected {NUMBER}, found "5"'),
        ("ratings", [False, 4], f"ratings[0]: expected {NUMBER}, found false"),
        ("ratings", [4, 5, 6], f"ratings[2]: expected {NUMBER}, found 6"),
        ("ratings", [math.nan], f"ratings[0]: expected {NUMBER}, found NaN"),
        ("ratings", [[4]], f"ratings[0]: expected {NUMBER}, found a list of 1"),
        ("provenance", None, "provenance: expected a text, found null"),
        ("provenance", 3, "provenance: expected a text, found 3"),
        (
            "provenance",
            "\ud83d",
            'provenance: expected whole characters, found half a surrogate pair in "?"',
        ),
    ],
)
def test_a_wrong_field_is_named(tmp_path, field, value, fault):
    record = {key: item for key, item in {**GOOD, field: value}.items() if item is not ...}
    assert faults_of(file_of(tmp_path, GOOD, record, GOOD)) == [f"line 2: {fault}"]


@pytest.mark.parametrize(
    "line, fault",
    [
        (
            b"{",
            "expected a JSON object, found { (Expecting property name enclosed in double quotes",
        ),
        (b"hello", "expected a JSON object, found hello (Expecting value at column 1)"),
        (b"[1, 2]", "expected a JSON object, found a list of 2"),
        (b'"text"', 'expected a JSON object, found "text"'),
        (b"null", "expected a JSON object, found null"),
        (b"3", "expected a JSON object, found 3"),
        (json.dumps(GOOD).encode() + b" x", "Extra data at column"),
        (
            b'{"topic": "a", "text": "b", "score": 3, "topic": "c"}',
            "topic: expected each key once, found it",
        ),
        (
            b'{"topic": "a", "text": "b", "score": 3, "x": {"y": 1, "y": 1}}',
            "y: expected each key once",
        ),
        (b'{"topic": "caf\xe9"}', "expected UTF-8, found byte 0xe9 at byte 15"),
        (b"\xff\xfe{\x00", "expected UTF-8, found byte 0xff at byte 1"),
        (
            b"\xef\xbb\xbf" + json.dumps(GOOD).encode(),
            "expected a JSON object",
        ),  # a BOM inside the file
        (b"[" * 200_000, "expected a JSON object, found [[["),
        (b"{'topic': 'a'}", "expected a JSON object, found {'topic': 'a'}"),
        (b'{"topic": "a\tb"}', "expected a JSON object, found"),  # a bare control character
        (b'{"topic": "\x1b[2J', 'found {"topic": "?[2J'),  # nothing that a terminal would obey
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path, line, fault):
    faults = faults_of(file_of(tmp_path, GOOD, line, GOOD))
    assert len(faults) == 1
    assert faults[0].startswith("line 2: ") and fault in faults[0]
    assert len(faults[0]) < 250 and faults[0].isprintable()


def test_a_number_of_too_many_digits_is_named(tmp_path):
    line = (
        b'{"topic": "a", "text": "b", "score": ' + b"9" * 5000 + b"}"
    )  # newer Pythons refuse to parse it
    faults = faults_of(file_of(tmp_path, line))
    assert len(faults) == 1 and faults[0].startswith("line 1: ") and len(faults[0]) < 300


def test_found_values_are_shortened(tmp_path):
    (fault,) = faults_of(file_of(tmp_path, {**GOOD, "score": "x" * 1000}))
    assert fault == f'line 1: score: expected {NUMBER}, found "{"x" * 56}...'


def test_every_fault_is_listed_at_once(tmp_path):
    path = file_of(
        tmp_path, {"topic": 1, "ratings": [0, 9]}, GOOD, b"", b"oops", {**GOOD, "score": 6}
    )
    assert [fault.split(" expected")[0] for fault in faults_of(path)] == [
        "line 1: topic:",
        "line 1: text:",
        "line 1: score:",
        "line 1: ratings[0]:",
        "line 1: ratings[1]:",
        "line 4:",
        "line 5: score:",
    ]


@pytest.mark.parametrize(
    "bad, last", [(20, "line 20:"), (21, "... and 1 more"), (1000, "... and 980 more")]
)
def test_twenty_faults_are_listed(tmp_path, bad, last):
    faults = faults_of(file_of(tmp_path, *[{**GOOD, "score": 9}] * bad))
    assert len(faults) == min(bad, 21)
    assert faults[-1].startswith(last)


def test_many_scores_outside_the_range_name_the_option_for_another(tmp_path):
    rows = [{**GOOD, "score": score} for score in (5, "7", 7, 10, 3)]
    first, second, third = faults_of(file_of(tmp_path, *rows))
    assert first == 'line 2: score: expected a number from 1 to 5, found "7"'
    assert second == (
        "line 3: score: expected a number from 1 to 5, found 7 (as 2 lines lie outside: another "
        "range is given by --score-range LOW HIGH)"
    )
    assert third == "line 4: score: expected a number from 1 to 5, found 10"
    few = [GOOD] * 30 + [{**GOOD, "score": 9}] * 2
    assert not any("--score-range" in fault for fault in faults_of(file_of(tmp_path, *few)))


def test_a_line_too_long_is_named_and_not_parsed(tmp_path, monkeypatch):
    filler = MAX_LINE_BYTES - len(json.dumps({**GOOD, "text": ""}))
    longest = {**GOOD, "text": "x" * filler}
    assert len(read_triples(file_of(tmp_path, longest, GOOD))) == 2
    path = tmp_path / "crlf.jsonl"
    path.write_bytes(json.dumps(longest).encode() + b"\r\n")
    assert len(read_triples(path)) == 1

    fault = f"expected at most {MAX_LINE_BYTES} bytes, found more"
    too_long = {**GOOD, "text": "x" * (filler + 1)}
    much_too_long = {**GOOD, "text": "x" * (3 * MAX_LINE_BYTES)}
    path = file_of(tmp_path, GOOD, too_long, much_too_long, {**GOOD, "score": 0})
    short = f"line 4: score: expected {NUMBER}, found 0"
    assert faults_of(path) == [f"line 2: {fault}", f"line 3: {fault}", short]

    parsed = []
    loads = json.loads
    monkeypatch.setattr(
        json, "loads", lambda text, **kw: parsed.append(len(text)) or loads(text, **kw)
    )
    faults_of(path)
    assert parsed == [len(json.dumps(GOOD))] * 2

    path.write_bytes(b"x" * (2 * MAX_LINE_BYTES))  # without a newline at the end
    assert faults_of(path) == [f"line 1: {fault}"]


@pytest.mark.parametrize("content", [b"", b"\n \r\n\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_an_empty_file_is_an_error(tmp_path, content):
    path = tmp_path / "f.jsonl"
    path.write_bytes(content)
    assert faults_of(path) == ["expected one JSON object per line, found an empty file"]


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (fault,) = faults_of(tmp_path / "none.jsonl")
    assert fault.startswith("cannot be read: No such file")
    (fault,) = faults_of(tmp_path)  # a folder
    assert fault.startswith("cannot be read: ")


@pytest.mark.parametrize(
    "score_range", [(5, 1), (3, 3), (math.nan, 5), (1, math.inf), (-math.inf, 1)]
)
def test_a_score_range_that_is_none_is_refused(tmp_path, score_range):
    path = file_of(tmp_path, GOOD)
    with pytest.raises(ValueError, match="score range: expected two finite numbers LO < HI"):
        read_triples(path, score_range)
    with pytest.raises(ValueError, match="score range"):
        write_triples(tmp_path / "new.jsonl", [Triple("a", "b", 0.5)], score_range)
    assert not (tmp_path / "new.jsonl").exists()


# ---- writing

texts = st.text(min_size=1, max_size=40).filter(str.strip)
triples_lists = st.lists(
    st.builds(
        Triple,
        topic=texts,
        text=texts,
        score=st.floats(0, 1),
        ratings=st.lists(st.floats(-4, 4), max_size=4).map(tuple),
        provenance=st.sampled_from(["people", "authors", "simulated", ""]),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=200, deadline=None)
@given(triples=triples_lists)
def test_written_triples_are_read_back(tmp_path_factory, triples):
    path = tmp_path_factory.mktemp("feedback") / "f.jsonl"
    write_triples(path, triples, (-4, 4))
    back = read_triples(path, (-4, 4))
    assert len(back) == len(triples)
    for old, new in zip(triples, back):
        assert (new.topic, new.text, new.ratings, new.provenance) == (
            old.topic,
            old.text,
            old.ratings,
            old.provenance,
        )
        assert (
            abs(new.score - old.score) <= 0.5e-4 / 8 + 1e-12
        )  # half a fourth decimal on a scale of width 8
    first = path.read_bytes()
    write_triples(path, back, (-4, 4))  # what was read once is written bit for bit the same
    assert path.read_bytes() == first


def test_the_file_holds_the_files_own_scale(tmp_path):
    path = tmp_path / "f.jsonl"
    write_triples(
        path, [Triple("潮汐", "a\nb", 1 / 3, (2, 2.5), "simulated"), Triple("t", "x", 1.0)]
    )
    lines = path.read_bytes().decode("utf-8").split("\n")
    assert lines == [
        '{"topic": "潮汐", "text": "a\\nb", "score": 2.3333, "ratings": [2, 2.5], "provenance": '
        '"simulated"}',
        '{"topic": "t", "text": "x", "score": 5, "provenance": "people"}',
        "",
    ]
    assert list(tmp_path.iterdir()) == [path]


def test_rounding_does_not_leave_the_range(tmp_path):
    score_range = (1 / 3, 2 / 3)  # .3333 and .6667 both lie outside
    path = tmp_path / "f.jsonl"
    write_triples(path, [Triple("t", "x", 0.0), Triple("t", "x", 1.0)], score_range)
    assert [triple.score for triple in read_triples(path, score_range)] == [0.0, 1.0]


@pytest.mark.parametrize(
    "triple, fault",
    [
        (Triple("t", "x", 1.01), "score: expected 0 to 1 in memory, found 1.01"),
        (Triple("t", "x", math.nan), "score: expected 0 to 1 in memory, found nan"),
        (Triple(" ", "x", 0.5), "topic: "),
        (Triple("t", "", 0.5), "text: "),
        (Triple("t", "\ud800", 0.5), "text: "),
        (Triple("t", "x", 0.5, (3, 6)), r"ratings\[1\]: "),
        (Triple("t", "x", 0.5, (math.inf,)), r"ratings\[0\]: "),
        (Triple("t", "x", 0.5, (), None), "provenance: "),
        (Triple("t", "x" * MAX_LINE_BYTES, 0.5), "expected at most"),
    ],
)
def test_what_would_not_be_read_back_is_not_written(tmp_path, triple, fault):
    path = tmp_path / "f.jsonl"
    path.write_text("old")
    with pytest.raises(FeedbackError, match=f"f.jsonl: line 2: {fault}"):
        write_triples(path, [Triple("t", "x", 0.5), triple])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_to_write_is_an_error(tmp_path):
    with pytest.raises(FeedbackError, match="at least one triple"):
        write_triples(tmp_path / "f.jsonl", [])
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "f.jsonl"
    path.write_text("old")

    def refuse(source, target):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="no space left"):
        write_triples(path, [Triple("t", "x", 0.5)])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# ---- splitting

MANY = [
    Triple(f"topic {i % 10}", f"text {i % 50}", (i % 5) / 4) for i in range(150)
]  # each text three times


@pytest.mark.parametrize("by", ["text", "topic"])
@pytest.mark.parametrize("seed", range(5))
def test_the_two_sides_share_nothing_and_lose_nothing(by, seed):
    train, heldout = split_triples(MANY, 0.2, seed, by)

    def keys(triples):
        return {(triple.topic, triple.text) if by == "text" else triple.topic for triple in triples}

    assert not keys(train) & keys(heldout)
    assert len(train) + len(heldout) == len(MANY)
    assert len(keys(heldout)) == (10 if by == "text" else 2)  # a fifth of 50 texts, of 10 topics
    for side in (train, heldout):
        order = [next(i for i, other in enumerate(MANY) if other is triple) for triple in side]
        assert order == sorted(order)


def test_the_split_depends_on_the_seed_and_not_on_the_order():
    train, heldout = split_triples(MANY, 0.2, seed=0)
    assert split_triples(MANY, 0.2, seed=0) == (train, heldout)
    assert set(split_triples(MANY[::-1], 0.2, seed=0)[1]) == set(heldout)
    others = [set(split_triples(MANY, 0.2, seed=seed)[1]) for seed in range(1, 6)]
    assert any(other != set(heldout) for other in others)


def test_the_same_text_for_two_topics_is_two_texts():
    triples = [Triple(f"topic {i}", "the same", 0.5) for i in range(10)]
    train, heldout = split_triples(triples, 0.3, seed=0)
    assert (len(train), len(heldout)) == (7, 3)


def test_the_ends_of_the_share():
    assert split_triples(MANY, 0, seed=0) == (MANY, [])
    assert split_triples([], 0.0, seed=0) == ([], [])
    two = [Triple("t", "a", 0.1), Triple("t", "b", 0.2)]
    for share in (0.01, 0.99):  # at least one on each side
        assert [len(side) for side in split_triples(two, share, seed=0)] == [1, 1]


@pytest.mark.parametrize(
    "triples, share, by, message",
    [
        (MANY, 1.0, "text", "heldout_share"),
        (MANY, -0.1, "text", "heldout_share"),
        (MANY, math.nan, "text", "heldout_share"),
        (MANY, 0.2, "film", "by: expected"),
        (MANY[:1], 0.2, "text", "at least 2 different texts to split, found 1"),
        (
            [Triple("t", "a", 0.1), Triple("t", "b", 0.1)],
            0.2,
            "topic",
            "at least 2 different topics",
        ),
        ([], 0.2, "text", "found 0"),
    ],
)
def test_an_impossible_split_is_refused(triples, share, by, message):
    with pytest.raises(ValueError, match=message):
        split_triples(triples, share, seed=0, by=by)
