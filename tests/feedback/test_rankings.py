"""Files of rankings: what is read, what is refused and in which words, the pairs they make."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minirlhf.feedback.conversation import Turn
from minirlhf.feedback.rankings import Ranked, pairs_of_rankings, read_rankings, write_rankings
from minirlhf.feedback.records import Comparison, FeedbackError

GOOD = {"prompt": "Why sleep?", "answers": ["For memory.", "So.", ""], "ranks": [1, 2, 2]}
TURNS = (Turn("user", "Why?"), Turn("assistant", "So."), Turn("user", "潮汐?"))
RANKINGS = [
    Ranked(TURNS, ("a", "b", "c", "a"), (2, 1, 4, 2)),
    Ranked("tea", ("No.", "No."), (1, 1), "people"),
]


def faults_of(folder: Path, *lines: object) -> list[str]:
    path = folder / "rankings.jsonl"
    path.write_bytes(
        b"".join((x if isinstance(x, bytes) else json.dumps(x).encode()) + b"\n" for x in lines)
    )
    with pytest.raises(FeedbackError) as caught:
        read_rankings(path)
    found = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in found)
    return [line.removeprefix(f"{path}: ") for line in found]


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "r.jsonl"
    write_rankings(path, RANKINGS)
    assert read_rankings(path) == RANKINGS
    path.write_text(json.dumps({**GOOD, "other": 1}) + "\n\n")
    assert read_rankings(path) == [
        Ranked("Why sleep?", ("For memory.", "So.", ""), (1, 2, 2), "people")
    ]


LIST = "expected a list of at least two"


@pytest.mark.parametrize(
    "line, faults",
    [
        (b"[1]", ["expected a JSON object, found a list of 1"]),
        (
            {},
            [
                "prompt: expected a text that is not empty, found no such field",
                f"answers: {LIST} texts, found no such field",
                f"ranks: {LIST} whole numbers, found no such field",
            ],
        ),
        ({**GOOD, "prompt": [{"role": "assistant", "text": "a"}]}, ["prompt[0].role: expected"]),
        ({**GOOD, "prompt": "\ud800"}, ["prompt: expected whole characters"]),
        ({**GOOD, "answers": "a"}, [f'answers: {LIST} texts, found "a"']),
        ({**GOOD, "answers": ["a"], "ranks": [1]}, [f"answers: {LIST} texts, found 1", "ranks: "]),
        (
            {**GOOD, "answers": ["a", 3, None]},
            ["answers[1]: expected a text, found 3", "answers[2"],
        ),
        ({**GOOD, "answers": ["a", "b", "\ud800"]}, ["answers[2]: expected whole characters"]),
        ({**GOOD, "ranks": [1, 2]}, ["ranks: expected one for each of the 3 answers, found 2"]),
        ({**GOOD, "ranks": {}}, [f"ranks: {LIST} whole numbers, found an object"]),
        (
            {**GOOD, "ranks": [0, 4, True]},
            [f"ranks[{place}]: expected a whole number from 1 to 3, found" for place in range(3)],
        ),
        (
            {**GOOD, "ranks": [1, 2.0, 3]},
            ["ranks[1]: expected a whole number from 1 to 3, found 2"],
        ),
        ({**GOOD, "ranks": [3, 2, 3]}, ["ranks: expected 1 for the best answer, found 2 as the"]),
        (
            {**GOOD, "answers": ["a", "b", "a"], "ranks": [1, 2, 3]},
            ["ranks[2]: expected 1, the rank of the same text in answers[0], found 3"],
        ),
        ({**GOOD, "provenance": 1}, ["provenance: expected a text, found 1"]),
        (
            {"question": "Why?", "responses": ["a", "b"], "ranking": [1, 2]},
            ["expected the fields prompt, answers, ranks; found question, responses, ranking; re"],
        ),
    ],
)
def test_each_fault_is_named_with_its_line_and_field(tmp_path, line, faults):
    found = faults_of(tmp_path, GOOD, line)
    assert len(found) == len(faults), found
    for one, words in zip(found, faults, strict=True):
        assert one.startswith(f"line 2: {words}"), one


def test_what_could_not_be_read_is_not_written(tmp_path):
    path = tmp_path / "r.jsonl"
    bad = Ranked("tea", ("a", "b"), (2, 2))
    with pytest.raises(FeedbackError, match=r"r.jsonl: line 3: ranks: expected 1 for the best"):
        write_rankings(path, [*RANKINGS, bad])
    with pytest.raises(FeedbackError, match="at least one ranking to write, found none"):
        write_rankings(path, [])
    assert not path.exists()
    with pytest.raises(FeedbackError, match="cannot be read: No such file"):
        read_rankings(path)
    assert faults_of(tmp_path) == ["expected one JSON object per line, found an empty file"]


def test_pairs_leave_ties_out():
    def pair(better: str, worse: str) -> Comparison:
        return Comparison(TURNS, better, worse, provenance="simulated")

    wanted = [("a", "c"), ("b", "a"), ("b", "c"), ("b", "a"), ("a", "c")]
    assert pairs_of_rankings(RANKINGS) == [pair(*texts) for texts in wanted]
