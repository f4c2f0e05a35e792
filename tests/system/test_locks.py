"""The lock on a folder: one holder, named to the others, gone with its process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from minirlhf.system import locks
from minirlhf.system.locks import LOCK, locked


def test_a_second_holder_is_refused_in_one_line_that_names_the_first(tmp_path):
    with locked(tmp_path, "python -m minirlhf demo --run r"):
        with pytest.raises(ValueError) as refused, locked(tmp_path, "another"):
            pass
        told = str(refused.value)
        assert f"process {os.getpid()} on " in told and "demo --run r" in told and " since " in told
        assert "\n" not in told
    assert not (tmp_path / LOCK).exists()
    with locked(tmp_path, "another"):
        pass


def test_a_lock_file_that_is_left_holds_nothing(tmp_path):
    (tmp_path / LOCK).write_text("process 1 on elsewhere since long ago: something longer\n" * 9)
    with locked(tmp_path, "another"):
        assert (tmp_path / LOCK).read_text().count("\n") == 1


HOLD = """
import sys
from pathlib import Path
from minirlhf.system.locks import locked
with locked(Path(sys.argv[1]), "the child"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_kill_9_releases_it(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout.readline() == b"held\n"
    with pytest.raises(ValueError, match=f"process {child.pid} on .*: the child"):
        locked(tmp_path, "another").__enter__()
    child.kill()
    child.communicate()
    assert (tmp_path / LOCK).exists()
    with locked(tmp_path, "another"):
        pass


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch, capsys):
    def no_locks(file):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks, "_lock", no_locks)
    with locked(tmp_path, "another"):
        assert "cannot be locked (Operation not supported)" in capsys.readouterr().err
