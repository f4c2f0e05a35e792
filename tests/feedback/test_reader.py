"""The one reader of JSONL files: pipes, long lines, damaged lines, files of the wrong kind."""

from __future__ import annotations

import json
import os
import threading
import tracemalloc
from pathlib import Path

import pytest

from minirlhf.cli.feedback import feedback as feedback_command
from minirlhf.cli.options import Feedback as FeedbackOptions
from minirlhf.feedback.records import FeedbackError, read_comparisons, read_feedback, read_triples
from minirlhf.system.files import MAX_LINE_BYTES, TOO_LONG, json_lines, read_jsonl

SCORE = {"topic": "Sleep", "text": "Sleep rests the body.", "score": 4}
COMPARISON = {"topic": "Sleep", "better": "Sleep rests the body.", "worse": "Sleep is sleep."}


def file_of(folder: Path, *lines: dict | bytes) -> Path:
    path = folder / "feedback.jsonl"
    rows = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(rows) + b"\n")
    return path


def error_of(path: Path, read=read_feedback) -> list[str]:
    """The lines of the error, without the file's name."""
    with pytest.raises(FeedbackError) as caught:
        read(path)
    return [line.removeprefix(f"{path}: ") for line in str(caught.value).splitlines()]


# ---- the reader


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes")
@pytest.mark.parametrize("line", [SCORE, COMPARISON])
def test_a_pipe_is_read_once_and_whole(tmp_path, capsys, line):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    content = (json.dumps(line) + "\n") * 3
    writer = threading.Thread(target=pipe.write_text, args=(content,), daemon=True)
    writer.start()
    feedback_command(FeedbackOptions("summary", pipe))
    writer.join(timeout=10)
    assert len(list(json_lines(pipe))) == 3  # asked for again, by another part of the program
    assert capsys.readouterr().out.startswith("3 lines")


@pytest.mark.parametrize("read", [read_jsonl, read_feedback])
def test_a_very_long_line_is_refused_without_being_held(tmp_path, read):
    path = file_of(tmp_path, SCORE, b"x" * (20 * MAX_LINE_BYTES))
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"feedback.jsonl: line 2: {TOO_LONG}"):
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * MAX_LINE_BYTES


def test_positions_and_ends_of_lines(tmp_path):
    path = tmp_path / "f.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n[]\n' + b"x" * 1_000_001 + b'\n{"b": 2}')
    found = list(json_lines(path))
    content = path.read_bytes()
    assert [(line.number, line.record, bool(line.fault), line.ended) for line in found] == [
        (1, {"a": 1}, False, True),
        (3, {}, True, True),
        (4, {}, True, True),
        (5, {"b": 2}, False, False),
    ]
    assert [content[line.start :][:4] for line in found[1:]] == [b"[]\nx", b"xxxx", b'{"b"']


def test_a_run_file_with_a_byte_order_mark_is_read(tmp_path):
    assert read_jsonl(file_of(tmp_path, b'\xef\xbb\xbf{"a": 1}')) == [{"a": 1}]


# ---- the kind


@pytest.mark.parametrize("good", [SCORE, COMPARISON])
@pytest.mark.parametrize("place", [0, 20, 40])
def test_a_damaged_line_is_the_only_faulty_one(tmp_path, good, place):
    lines = [good] * 40
    lines.insert(place, b'{"topic": "Sleep", "better": "a", ')
    (fault,) = error_of(file_of(tmp_path, *lines))
    assert fault.startswith(f"line {place + 1}: expected a JSON object")


@pytest.mark.parametrize("scores", [60, 1])
def test_a_file_of_both_kinds_is_told_of_as_such(tmp_path, scores):
    path = file_of(tmp_path, *[SCORE] * scores, *[COMPARISON] * 40)
    where = "comparisons on line 61" if scores == 60 else "scored texts on line 1"
    for read in (read_feedback, read_triples, read_comparisons):
        (fault,) = [line for line in error_of(path, read) if "one kind" in line]
        assert f"found {scores} scored texts and 40 comparisons" in fault and where in fault


def test_the_other_kind_than_expected_is_named(tmp_path):
    path = file_of(tmp_path, *[COMPARISON] * 30)
    assert error_of(path, read_triples) == [
        "expected scored texts (topic, text, score), found 30 comparisons"
    ]


@pytest.mark.parametrize(
    "record, words",
    [
        (
            {"prompt": "p", "chosen": "a", "rejected": "b"},
            "rename prompt to topic, chosen to better, rejected to worse",
        ),
        (
            {"Prompt": "p", "response": "a", "rating": 3},
            "rename Prompt to topic, response to text, rating to score",
        ),
        ({"instruction": "p", "completion": "a", "score": 3}, "rename instruction to topic,"),
        ({"topic": "p", "completion": "a", "score": 3}, "found completion; rename completion to"),
    ],
)
def test_other_names_of_fields_are_one_fault_with_the_right_names(tmp_path, record, words):
    (fault,) = error_of(file_of(tmp_path, *[record] * 40))
    assert fault.startswith("line 1 and 39 more lines: expected the fields topic, ")
    assert words in fault


def test_a_field_that_all_lines_lack_is_told_of_once(tmp_path):
    lines = [{"topic": "p", "text": f"text {number}"} for number in range(30)]
    lines[9] = {"topic": "p", "text": "x", "score": 7}
    assert error_of(file_of(tmp_path, *lines)) == [
        "line 1 and 28 more lines: score: expected a number from 1 to 5, found no such field",
        "line 10: score: expected a number from 1 to 5, found 7",
    ]


def test_a_field_that_is_there_is_no_other_name(tmp_path):
    """A line may hold more than what is read."""
    extra = {"answer": "x", "rating": 1, "label": 2}
    assert len(read_feedback(file_of(tmp_path, COMPARISON | extra)).comparisons) == 1
    assert len(read_feedback(file_of(tmp_path, SCORE | extra | {"chosen": "x"})).triples) == 1
