"""Files of demonstrations: what is read, what is refused and in which words, how it is split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minirlhf.feedback.conversation import Turn, in_words
from minirlhf.feedback.demonstrations import read_demonstrations, split_demonstrations
from minirlhf.feedback.records import FeedbackError
from minirlhf.tokenizer import END

USER, ASSISTANT = {"role": "user", "text": "Why?"}, {"role": "assistant", "text": "So."}
TURNS = [USER, ASSISTANT, {"role": "user", "text": "潮汐?"}]
GOOD = {"prompt": "Why sleep?", "answer": "It mends memory."}
OTHER = {"prompt": TURNS, "answer": "No.", "source": "me"}


def file_of(folder: Path, *lines: object) -> Path:
    path = folder / "demonstrations.jsonl"
    path.write_bytes(
        b"".join((x if isinstance(x, bytes) else json.dumps(x).encode()) + b"\n" for x in lines)
    )
    return path


def faults_of(folder: Path, *lines: object) -> list[str]:
    path = file_of(folder, *lines)
    with pytest.raises(FeedbackError) as caught:
        read_demonstrations(path)
    found = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in found)
    return [line.removeprefix(f"{path}: ") for line in found]


def test_texts_and_conversations_are_read(tmp_path):
    path = file_of(tmp_path, GOOD, b"", OTHER, {**GOOD, "answer": END})
    turns = (Turn("user", "Why?"), Turn("assistant", "So."), Turn("user", "潮汐?"))
    assert read_demonstrations(path) == [
        ("Why sleep?", "It mends memory."),
        (turns, "No."),
        ("Why sleep?", END),
    ]


TEXT = "a text that is not empty"
NO_FIELD = "found no such field"


@pytest.mark.parametrize(
    "line, faults",
    [
        (b"[1]", ["expected a JSON object, found a list of 1"]),
        (b'{"prompt": "a", "prompt": "b", "answer": "c"}', ["prompt: expected each key once"]),
        (b'{"prompt": "a\xff", "answer": "c"}', ["expected UTF-8, found byte 0xff"]),
        (
            {},
            [f"prompt: expected {TEXT}, {NO_FIELD}", f"answer: expected {TEXT}, {NO_FIELD}"],
        ),
        ({**GOOD, "prompt": " "}, [f'prompt: expected {TEXT}, found " "']),
        ({**GOOD, "prompt": {"a": 1}}, [f"prompt: expected {TEXT}, found an object"]),
        ({**GOOD, "answer": 3}, [f"answer: expected {TEXT}, found 3"]),
        ({**GOOD, "answer": ["a"]}, [f"answer: expected {TEXT}, found a list of 1"]),
        ({**GOOD, "answer": "\ud800"}, ["answer: expected whole characters, found half a"]),
        ({**GOOD, "prompt": "\udc00"}, ["prompt: expected whole characters, found half a"]),
        (
            {"instruction": "Why?", "output": "So."},
            ["expected the fields prompt, answer; found instruction, output; rename"],
        ),
        ({**GOOD, "prompt": []}, ["prompt: expected a text or a list of turns, found an empty"]),
        ({**GOOD, "prompt": ["Why?"]}, ['prompt[0]: expected {"role": "user", "text": ...}, fou']),
        ({**GOOD, "prompt": [ASSISTANT]}, ['prompt[0].role: expected "user", as user and ass']),
        ({**GOOD, "prompt": [USER, USER, USER]}, ['prompt[1].role: expected "assistant", as']),
        ({**GOOD, "prompt": [USER, ASSISTANT]}, ["prompt: expected the user's turn as the last"]),
        (
            {**GOOD, "prompt": [{"role": "system", "text": "Be good."}, *TURNS[1:]]},
            ['prompt[0].role: expected "user", as user and assistant take turns, found "system"'],
        ),
        ({**GOOD, "prompt": [{"text": "a"}]}, ['prompt[0].role: expected "user"']),
        (
            {**GOOD, "prompt": [{"role": "user", "content": "a"}]},
            ["prompt[0]: expected the fields role, text; found content; rename content to text"],
        ),
        (
            {**GOOD, "prompt": [USER, {"role": "assistant", "text": ""}, {**USER, "text": 1}]},
            [f'prompt[1].text: expected {TEXT}, found ""', f"prompt[2].text: expected {TEXT}"],
        ),
        ({**GOOD, "prompt": [{**USER, "text": "\ud800"}]}, ["prompt[0].text: expected whole"]),
    ],
)
def test_each_fault_is_named_with_its_line_and_field(tmp_path, line, faults):
    found = faults_of(tmp_path, GOOD, line, OTHER)
    assert len(found) == len(faults)
    for one, words in zip(found, faults, strict=True):
        assert one.startswith(f"line 2: {words}"), one


def test_the_file_as_a_whole(tmp_path):
    assert faults_of(tmp_path) == ["expected one JSON object per line, found an empty file"]
    same = {**GOOD, "prompt": "Why  sleep?"}
    assert faults_of(tmp_path, GOOD, same) == ["expected at least 2 different prompts, found 1"]
    with pytest.raises(FeedbackError, match="cannot be read: No such file"):
        read_demonstrations(tmp_path / "none.jsonl")
    # The same mistake in every line is told once, and all lines are looked at.
    many = faults_of(tmp_path, *[{"question": "a", "answer": "b"}] * 9, {**GOOD, "answer": ""})
    assert many[0].startswith("line 1 and 8 more lines: expected the fields") and len(many) == 2


PAIRS = [(f"prompt {number % 8}", f"answer {number}") for number in range(20)]


@pytest.mark.parametrize("share, count", [(0.0, 1), (0.25, 2), (0.99, 7)])
def test_no_prompt_is_on_both_sides_of_the_split(share, count):
    train, heldout = split_demonstrations([*PAIRS, ("prompt  0", "x")], share, 0)
    sides = [
        {" ".join(in_words(prompt).split()) for prompt, _ in side} for side in (train, heldout)
    ]
    assert not sides[0] & sides[1] and len(sides[1]) == count
    assert sorted([*train, *heldout]) == sorted([*PAIRS, ("prompt  0", "x")])


def test_the_split_depends_on_the_seed_and_not_on_the_order():
    _, heldout = split_demonstrations(PAIRS, 0.25, 0)
    assert sorted(split_demonstrations(PAIRS[::-1], 0.25, 0)[1]) == sorted(heldout)
    assert any(split_demonstrations(PAIRS, 0.25, seed)[1] != heldout for seed in range(1, 5))
    with pytest.raises(ValueError, match="at least 2 different prompts, found 1"):
        split_demonstrations(PAIRS[:1], 0.25, 0)
