"""JSONL files: what is written comes back, and a malformed line is named."""

from __future__ import annotations

import os

import pytest
import torch

from minirlhf.system.files import append_jsonl, read_jsonl, save_tensors, write_jsonl

ROWS = [
    {"step": 1, "text": "a\u2028b"},
    {"step": 2, "text": "数据"},
]  # splitlines would cut at U+2028


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert read_jsonl(path) == []
    append_jsonl(path, ROWS[:1])
    append_jsonl(path, ROWS[1:])
    assert read_jsonl(path) == ROWS
    write_jsonl(path, ROWS[1:])
    assert read_jsonl(path) == ROWS[1:]
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_last_line_that_was_cut_off_is_dropped(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, ROWS)
    whole = path.read_bytes()
    for cut in range(1, 12):  # also inside a character of several bytes
        path.write_bytes(whole[:-cut])
        assert read_jsonl(path) == ROWS[:1]


@pytest.mark.parametrize(
    "line, message",
    [
        (b'{"step"', r"rows.jsonl: line 3: expected a JSON object, found \{\"step\" \("),
        (b"[1]", "rows.jsonl: line 3: expected a JSON object, found a list of 1"),
        (b"\xff", "rows.jsonl: line 3: expected UTF-8, found byte 0xff at byte 1"),
    ],
)
def test_file_and_line_are_named(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"step": 1}\n\n' + line + b'\n{"step": 2}\n')  # a blank line is skipped
    with pytest.raises(ValueError, match=message) as caught:
        read_jsonl(path)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_weights_can_be_read_by_whom_the_umask_allows(tmp_path):
    umask = os.umask(0o022)
    try:
        save_tensors(tmp_path / "w.safetensors", {"a": torch.zeros(2)}, {})
        assert (tmp_path / "w.safetensors").stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(umask)
