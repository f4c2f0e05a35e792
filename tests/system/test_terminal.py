"""What is sent to a terminal: no control characters, no encoding errors, pasteable lines."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirlhf.system.terminal import accept_any_text, quoted, visible, visible_line


@pytest.mark.parametrize(
    "text, shown",
    [
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("over\rwritten", r"over\rwritten"),
        ("C1 \x9b31m", r"C1 \x9b31m"),
        ("\u202eright to left\u2066", r"\u202eright to left\u2066"),
        ("\u2028 \udcff", r"\u2028 \udcff"),
        ("two lines\n\tand 中文, é, 🌊", "two lines\n\tand 中文, é, 🌊"),
        ("👩\u200d🚀 می\u200cخواهم \u3000", "👩\u200d🚀 می\u200cخواهم \u3000"),
    ],
)
def test_control_characters_are_shown_and_all_else_stays(text, shown):
    assert visible(text) == shown


@given(st.text())
def test_nothing_that_steers_a_terminal_is_left(text):
    kinds = {unicodedata.category(c) for c in visible_line(text) if c not in "\u200c\u200d"}
    assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert visible(visible(text)) == visible(text)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_text_can_be_printed_in_any_encoding(monkeypatch, encoding):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"1\xff"), encoding="utf-8"))
    accept_any_text()
    print("é 中 \udcff", flush=True)
    shown = raw.getvalue().decode(encoding)
    assert shown == "é 中 \udcff".encode(encoding, "backslashreplace").decode(encoding) + os.linesep
    assert sys.stdin.read() == "1\ufffd"


def test_streams_of_a_notebook_or_none_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stdin", None)
    accept_any_text()


@pytest.mark.skipif(os.name == "nt" or not shutil.which("bash"), reason="needs bash")
def test_a_shell_reads_quoted_words_as_they_were():
    words = [
        "plain",
        "two words",
        "it's",
        '"$HOME" `x` \\',
        "",
        "a\nb\x1b",
        "é中",
        os.fsdecode(b"\xff"),
    ]
    line = quoted(*words)
    assert visible_line(line) == line
    read = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"], stdout=subprocess.PIPE, check=True
    ).stdout
    assert [os.fsdecode(word) for word in read.split(b"\0")[:-1]] == words
