"""Nothing is lost: a file that is not ours stays as it is, and what is written can be read."""

from __future__ import annotations

import json
import os

import pytest
from conftest import TINY

from minirlhf.feedback.answers import AnswerFile
from minirlhf.feedback.person import PersonRaters
from minirlhf.feedback.records import Triple, read_comparisons, read_feedback, read_triples
from minirlhf.feedback.session import Item, RatingSession, make_items
from minirlhf.system.files import write_jsonl
from minirlhf.training.batches import Split
from minirlhf.training.log import TrainLog
from minirlhf.training.ratings import RatingRounds

SCORE = {"topic": "tea", "text": "Tea wakes people up.", "score": 4}
COMPARISON = {"topic": "tea", "better": "Tea wakes people up.", "worse": "Tea is tea."}
SCORE_LINE, COMPARISON_LINE = json.dumps(SCORE) + "\n", json.dumps(COMPARISON) + "\n"


@pytest.mark.parametrize(
    "content, kind, words",
    [
        ("Buy milk\nand bread", None, "line 1: expected a JSON object"),
        ("milk", None, "line 1: expected a JSON object"),
        ("3", None, "line 1: expected a JSON object"),
        ('{"step": 1, "loss": 2.5}\n{"st', None, "line 1: topic: expected"),
        (SCORE_LINE + "my own note", None, "line 2: expected a JSON object"),
        (SCORE_LINE + COMPARISON_LINE + '{"topic', None, "line 2: holds comparisons, expected sc"),
        (SCORE_LINE + '{"topic": "t', "comparisons", "line 1: holds scores, expected comparisons"),
        (SCORE_LINE.replace("4", "9"), None, "line 1: score: expected a number from 1 to 5"),
        (SCORE_LINE + "\udcff\n", None, "line 2: expected UTF-8, found byte 0xff"),
    ],
)
def test_a_file_that_is_not_ours_is_never_changed(tmp_path, content, kind, words):
    path = tmp_path / "notes.txt"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    before = path.read_bytes(), path.stat().st_mtime_ns
    with pytest.raises(ValueError, match=words) as caught:
        AnswerFile(path, kind)
    assert "notes.txt" in str(caught.value) and "--output" in str(caught.value)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_no_file_at_all_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a file to add answers to"):
        AnswerFile(tmp_path)


@pytest.mark.parametrize("rest", ["{", '{"topic": "tea", "te', '{"topic": "caf\udcc3'])
@pytest.mark.parametrize("before", ["", SCORE_LINE])
def test_an_interrupted_answer_is_cut_off(tmp_path, before, rest):
    path = tmp_path / "r.jsonl"
    path.write_bytes((before + rest).encode("utf-8", "surrogateescape"))
    file = AnswerFile(path, "scores")
    assert file.dropped == rest.replace("\udcc3", "\ufffd") and path.read_text() == before
    file.append(SCORE)
    assert len(read_triples(path)) == len(file.records())


@pytest.mark.parametrize(
    "record, words",
    [
        (SCORE | {"text": " \n"}, "text: expected a text that is not empty"),
        (SCORE | {"score": 0}, "score: expected a number from 1 to 5"),
        (SCORE | {"rater": "\udcff"}, "rater: expected whole characters"),
        (SCORE | {"text": "x" * 1_000_000}, "expected at most 1000000 bytes"),
        (COMPARISON, "holds comparisons, expected scores"),
    ],
)
def test_what_the_reader_would_refuse_is_not_written(tmp_path, record, words):
    path = tmp_path / "r.jsonl"
    file = AnswerFile(path)
    file.append(SCORE)
    with pytest.raises(ValueError, match=f"r.jsonl: this answer cannot be written: {words}"):
        file.append(record)
    assert path.read_text() == SCORE_LINE and len(file.spans) == 1


def test_a_session_asks_only_what_can_be_read_back(tmp_path):
    """Also the samples that a policy leaves empty, and two that are the same."""
    items = [
        Item("tea", ("", "b"), ("x", "x")),
        Item("tea", ("a", "a"), ("x", "x")),
        Item("tea", ("a", "b"), ("x", "x")),
    ]
    session = RatingSession(items, AnswerFile(tmp_path / "c.jsonl"), "me")
    assert session.queue == items[2:] and session.total == 1
    session.answer("1")
    assert len(read_comparisons(tmp_path / "c.jsonl")) == 1
    with pytest.raises(ValueError, match="--rater: expected whole characters"):
        RatingSession(items, AnswerFile(tmp_path / "c.jsonl"), os.fsdecode(b"\xff"))


def test_texts_that_look_the_same_are_no_pair():
    """A person cannot see white space or how an accent is composed."""
    texts = [("tea", text, "x") for text in ("Café.", " Cafe\u0301.", "Café.  ", "Milk.")]
    (item,) = make_items(texts, pairs=True, count=5, seed=0)
    assert "Milk." in item.texts and len(make_items(texts, False, 5, 0)) == 2


def test_a_person_is_not_asked_about_an_empty_sample(tmp_path, capsys):
    path = tmp_path / "r.jsonl"
    raters = PersonRaters(AnswerFile(path), "me", 3, key=iter("4").__next__)
    assert raters("tea", " \n", 0) == (1.0,) and raters("tea", "", 0) == (1.0,)
    assert capsys.readouterr().out == "" and not path.exists()
    assert raters("tea", "Tea.", 0) == (4.0,)
    assert len(read_feedback(path).triples) == 1


def test_what_a_run_collects_is_a_file_of_feedback(tmp_path, small_task):
    """On the raters' scale, so that `feedback summary` and `--feedback` read it."""
    rounds = RatingRounds(None, small_task, TINY, Split([], []), TrainLog("finetune"))
    whole = Triple("tea", "Tea.", 0.75, (4.0, 5.0, 3.0), "simulated")
    rounds.collected = [whole, Triple("tea", " ", 0.0, (1.0, 1.0, 1.0), "simulated")]
    write_jsonl(tmp_path / "collected.jsonl", rounds.as_feedback())
    assert read_triples(tmp_path / "collected.jsonl") == [whole]
