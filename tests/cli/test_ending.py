"""How commands end: one line and the usual exit code, never a traceback."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from minirlhf.cli import main as main_module
from minirlhf.cli.ending import orderly
from minirlhf.cli.main import main
from minirlhf.feedback.answers import AnswerFile
from minirlhf.feedback.person import PersonRaters
from minirlhf.feedback.screens import rate_in_terminal, read_key
from minirlhf.feedback.session import Item, RatingSession
from minirlhf.runs.folder import run_path, run_words
from minirlhf.system.terminal import quoted


def ends(capsys, raise_it) -> tuple[int, str]:
    """The exit code, and what is on standard error, after this happened inside a command."""
    with pytest.raises(SystemExit) as stopped, orderly():
        raise_it()
    return stopped.value.code, capsys.readouterr().err


def throw(error: BaseException):
    raise error


def test_ctrl_c_anywhere_is_one_line_and_130(capsys):
    assert ends(capsys, lambda: throw(KeyboardInterrupt())) == (130, "\nInterrupted.\n")


@pytest.mark.skipif(os.name == "nt", reason="Windows kills at once")
def test_a_terminated_program_closes_what_is_open(capsys):
    before, closed = signal.getsignal(signal.SIGTERM), []

    def work():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            while True:
                pass
        finally:
            closed.append(True)

    assert ends(capsys, work) == (143, "\nInterrupted.\n")
    assert closed and signal.getsignal(signal.SIGTERM) == before


def test_a_message_does_not_steer_the_terminal(capsys):
    code, error = ends(capsys, lambda: throw(ValueError("topic: \x1b[2J\u202e\nline 2")))
    assert (code, error) == (2, "error: topic: \\x1b[2J\\u202e\nline 2\n")


class ClosedPipe(io.StringIO):
    """Standard output whose reader has gone: small writes are buffered, the flush fails."""

    def flush(self):
        raise BrokenPipeError(32, "Broken pipe")


def test_a_closed_pipe_is_silent(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdout", ClosedPipe())
    assert ends(capsys, lambda: print("first")) == (141, "")
    assert ends(capsys, lambda: throw(SystemExit(0)))[0] == 141  # as after --help


@pytest.mark.parametrize("command", ["demo", "sample", "chat", "play", "rate", "feedback"])
def test_every_command_is_inside(monkeypatch, capsys, command):
    def interrupted(arguments):
        raise KeyboardInterrupt

    kind, _ = main_module.COMMANDS[command]
    monkeypatch.setitem(main_module.COMMANDS, command, (kind, interrupted))
    words = {"sample": ["x"], "feedback": ["summary", "x"]}.get(command, [])
    with pytest.raises(SystemExit) as stopped:
        main([command, *words])
    assert stopped.value.code == 130 and capsys.readouterr().err == "\nInterrupted.\n"


@pytest.mark.skipif(os.name == "nt", reason="pipes differ")
def test_help_into_a_closed_pipe():
    """The whole program: Python's own flush at exit must not complain either."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "minirlhf", "--help"], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("stdin", [None, io.StringIO(""), io.StringIO("\n ")])
def test_a_closed_standard_input_is_a_quit(monkeypatch, tmp_path, capsys, stdin):
    monkeypatch.setattr(sys, "stdin", stdin)
    assert read_key() == "q"
    session = RatingSession([Item("t", ("x",), ("before",))], AnswerFile(tmp_path / "r.jsonl"), "x")
    rate_in_terminal(session)
    assert "0 answers given now" in capsys.readouterr().out


def test_a_person_who_has_gone_interrupts_training(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    raters = PersonRaters(AnswerFile(tmp_path / "r.jsonl"), "x", 1)
    assert ends(capsys, lambda: raters("topic", "text", 0))[0] == 130


def test_names_in_a_feedback_file_do_not_steer_the_terminal(tmp_path, capsys):
    file = tmp_path / "scores.jsonl"
    row = {"topic": "t", "text": "x", "score": 3, "rater": "\x1b[2J", "provenance": "\x9b"}
    file.write_text(json.dumps(row))
    main(["feedback", "summary", str(file)])
    shown = capsys.readouterr().out
    assert r"Raters: \x1b[2J 1" in shown and r"Given by: \x9b 1" in shown
    file.write_text(json.dumps(row | {"score": "\x1b[2J"}))
    with pytest.raises(SystemExit):
        main(["feedback", "summary", str(file)])
    assert "\x1b" not in capsys.readouterr().err


# ---- command lines in messages


def test_the_words_for_a_run_are_quoted(monkeypatch):
    assert run_words(Path("runs") / "demo") == "--run demo"
    assert run_words(Path("my runs") / "a") == f"--run a --runs {quoted('my runs')}"
    assert run_words(Path("-x") / "a") == f"--run a --runs {quoted(os.path.join('.', '-x'))}"


def test_sample_and_rate_name_the_whole_run(tmp_path, capsys, finished_run):
    """A run without a policy, in a folder with a space and a quote."""
    folder = tmp_path / "it's mine"
    path = run_path(folder, "bare")
    path.mkdir(parents=True)
    (path / "config.json").write_text((finished_run.path / "config.json").read_text())
    for command, stage in ((["sample", "tea"], "finetune"), (["rate"], "pretrain")):
        with pytest.raises(SystemExit):
            main([*command, "--run", "bare", "--runs", str(folder)])
        again = " --resume" if stage == "pretrain" else ""
        line = f"run: python -m minirlhf {stage} --run bare --runs {quoted(str(folder))}{again}\n"
        assert capsys.readouterr().err.endswith(line)
