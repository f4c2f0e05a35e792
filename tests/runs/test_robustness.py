"""Damaged files, a full disk, kill -9: one line and exit code 2, nothing written, and a run that
still ends the same.

MINIRLHF_KILLS=20 python -m pytest tests/runs/test_robustness.py -k kill_9    # usually 2
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_command import tiny_options
from warm_process import Command, done

from minirlhf.cli.main import main
from minirlhf.runs import run_task
from minirlhf.system.files import load_tensors, save_tensors

GOOD = {"topic": "tea", "text": "Tea wakes people up.", "score": 3}
TINY = tiny_options(
    pretrain_steps=100,
    reward_steps=20,
    reward_evaluate_every=2,
    finetune_updates=20,
    finetune_rounds=2,
    finetune_ratings_per_round=10,
    finetune_refit_steps=4,
)


def snapshot(folder: Path) -> dict[str, str]:
    """Every file under `folder` with a hash of what it holds."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in folder.rglob("*")
    }


def refused(capsys, tmp_path: Path, *arguments: str) -> str:
    """Run a command that must end with one line, exit code 2 and every file as it was; return the
    line.
    """
    before = snapshot(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("error:")]
    assert stopped.value.code == 2 and len(lines) == 1 and "Traceback" not in captured.err, (
        captured.err
    )
    assert captured.err.strip().splitlines()[-1] == lines[0] and len(lines[0]) < 500
    assert snapshot(tmp_path) == before
    return lines[0]


# Feedback -----------------------------------------------------------------------------------------

LINE = json.dumps(GOOD)
BAD_FEEDBACK = {
    "empty": (b"", "empty file"),
    "blank lines": (b"\n\n \n", "empty file"),
    "not JSON": (b"topic,text,score\n", "line 1"),
    "a list": (b"[1, 2]\n", "line 1"),
    "cut off": (LINE.encode() + b"\n" + LINE.encode()[:20], "line 2"),
    "invalid UTF-8": (LINE.encode().replace(b"wakes", b"wa\xffes"), "line 1"),
    "UTF-16": (LINE.encode("utf-16"), "line 1"),
    "NUL bytes": (b"\0" * 100, "line 1"),
    "100 MB line": (
        b'{"topic": "' + b"x" * 100_000_000 + b'"}\n',
        "expected at most 1000000 bytes",
    ),
    "deep nesting": (b"[" * 50_000 + b"\n", "line 1"),
    "duplicate key": (LINE.replace('"score": 3', '"score": 3, "score": 4').encode(), "score"),
    "NaN score": (LINE.replace("3", "NaN").encode(), "NaN"),
    "huge score": (LINE.replace("3", "1e999").encode(), "score"),
    "score as text": (LINE.replace("3", '"3"').encode(), "score"),
    "score out of range": (LINE.replace("3", "6").encode(), "score"),
    "no text": (json.dumps(GOOD | {"text": " "}).encode(), "text"),
}


@pytest.mark.parametrize("name", BAD_FEEDBACK)
def test_bad_feedback(tmp_path, capsys, name):
    content, message = BAD_FEEDBACK[name]
    (tmp_path / "mine.jsonl").write_bytes(content)
    told = refused(
        capsys,
        tmp_path,
        "demo",
        "--feedback",
        str(tmp_path / "mine.jsonl"),
        "--runs",
        str(tmp_path / "runs"),
    )
    assert "mine.jsonl" in told and message in told


@pytest.mark.parametrize("path", ["missing.jsonl", "."])
def test_feedback_that_is_no_file(tmp_path, capsys, path):
    assert "cannot be read" in refused(
        capsys,
        tmp_path,
        "demo",
        "--feedback",
        str(tmp_path / path),
        "--runs",
        str(tmp_path / "runs"),
    )


# Run folders --------------------------------------------------------------------------------------


class Evil:
    """Would write a file if anything unpickled it."""

    def __reduce__(self):
        return Path.write_text, (Path("unpickled"), "x")


def change_json(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))


def change_tensors(path: Path, change: Callable[[dict], None]) -> None:
    tensors, header = load_tensors(path)
    change(tensors)
    save_tensors(path, tensors, header)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def put(path: Path, metadata: dict | None) -> None:
    save_file({name: tensor.clone() for name, tensor in load_file(path).items()}, path, metadata)


def first_value(tensors: dict, value: float) -> None:
    next(tensor for tensor in tensors.values() if tensor.dim() == 2)[0, 0] = value


def torch_save(path: Path) -> None:
    tensors = {
        name: tensor.clone() for name, tensor in load_file(path).items()
    }  # not the file itself, mapped into memory
    torch.save(tensors, path)


BAD_RUNS = {  # name: (file, how it is damaged, what the message says)
    "config cut off": ("config.json", cut, "config.json: expected JSON"),
    "config in latin-1": (
        "config.json",
        lambda p: p.write_bytes(b'{"task": "\xe9"}'),
        "config.json: expected JSON",
    ),
    "config a list": (
        "config.json",
        lambda p: p.write_text("[]"),
        "expected a JSON object, found list",
    ),
    "config nested": (
        "config.json",
        lambda p: p.write_text("[" * 50_000),
        "config.json: expected JSON",
    ),
    "config duplicate": (
        "config.json",
        lambda p: p.write_text('{"seed": 1, "seed": 2}'),
        "'seed' more than once",
    ),
    "config unknown field": (
        "config.json",
        lambda p: change_json(p, lambda c: c | {"speed": 1}),
        "unknown field 'speed'",
    ),
    "config of a wrong type": (
        "config.json",
        lambda p: change_json(p, lambda c: c | {"model": 1}),
        "found int",
    ),
    "config of a wrong number": (
        "config.json",
        lambda p: change_json(p, lambda c: c["model"].update(width="x")),
        "width",
    ),
    "width of another model": (
        "config.json",
        lambda p: change_json(p, lambda c: c["model"].update(width=64)),
        "expected shape",
    ),
    "heads that do not divide": (
        "config.json",
        lambda p: change_json(p, lambda c: c["model"].update(heads=3)),
        "multiple of",
    ),
    "no tokenizer": ("tokenizer.json", Path.unlink, "tokenizer.json"),
    "tokenizer cut off": ("tokenizer.json", cut, "tokenizer.json: expected JSON"),
    "tokenizer invalid UTF-8": (
        "tokenizer.json",
        lambda p: p.write_bytes(b"\xff\xfe{}"),
        "tokenizer.json: expected JSON",
    ),
    "tokenizer of another kind": (
        "tokenizer.json",
        lambda p: p.write_text('{"model": {"vocab": {}}}'),
        "format",
    ),
    "token twice": (
        "tokenizer.json",
        lambda p: change_json(p, lambda c: c["tokens"].__setitem__(260, c["tokens"][259])),
        "once",
    ),
    "token too few": (
        "tokenizer.json",
        lambda p: change_json(p, lambda c: c["tokens"].pop() and c),
        "expected shape",
    ),
    "tokenizer a number": (
        "tokenizer.json",
        lambda p: change_json(p, lambda c: c["tokens"].__setitem__(0, 7)),
        "tokens[0]",
    ),
    "no weights": ("policy.safetensors", Path.unlink, "no tuned policy"),
    "weights cut off": ("policy.safetensors", cut, "expected a safetensors file"),
    "weights empty": (
        "policy.safetensors",
        lambda p: p.write_bytes(b""),
        "expected a safetensors file",
    ),
    "weights a pickle": (
        "policy.safetensors",
        lambda p: p.write_bytes(pickle.dumps(Evil())),
        "expected a safetensors file",
    ),
    "weights of torch.save": ("policy.safetensors", torch_save, "expected a safetensors file"),
    "weights huge header": (
        "policy.safetensors",
        lambda p: p.write_bytes(b"\xff" * 7 + b"\x7f{}"),
        "expected a safetensors",
    ),
    "weights a folder": (
        "policy.safetensors",
        lambda p: (p.unlink(), p.mkdir()),
        "policy.safetensors",
    ),
    "weights NaN": (
        "policy.safetensors",
        lambda p: change_tensors(p, lambda t: first_value(t, float("nan"))),
        "NaN or inf",
    ),
    "weights inf": (
        "policy.safetensors",
        lambda p: change_tensors(p, lambda t: first_value(t, float("inf"))),
        "NaN or inf",
    ),
    "weight missing": (
        "policy.safetensors",
        lambda p: change_tensors(p, lambda t: t.popitem()),
        "is missing",
    ),
    "weights of another shape": (
        "policy.safetensors",
        lambda p: change_tensors(
            p, lambda t: t.update({name: value[..., :-1].clone() for name, value in t.items()})
        ),
        "expected shape",
    ),
    "reward model cut off": ("reward_final.safetensors", cut, "expected a safetensors file"),
    "reward model of the policy": (
        "reward_final.safetensors",
        lambda p: shutil.copy(p.with_name("policy.safetensors"), p),
        "is missing",
    ),
}


@pytest.mark.parametrize("name", BAD_RUNS)
def test_bad_run(tmp_path, monkeypatch, capsys, finished_run, name):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished_run.path, tmp_path / "bad")
    file, damage, message = BAD_RUNS[name]
    damage(tmp_path / "bad" / file)
    assert message in refused(
        capsys, tmp_path, "sample", "Keeping a diary", "--run", "bad", "--runs", str(tmp_path)
    )
    assert not (tmp_path / "unpickled").exists()


def without(prefix: str) -> Callable[[dict], None]:
    def drop(tensors: dict) -> None:
        for name in [name for name in tensors if name.startswith(prefix)]:
            del tensors[name]

    return drop


BAD_CHECKPOINTS = {
    "cut off": (cut, "expected a safetensors file"),
    "a pickle": (lambda p: p.write_bytes(pickle.dumps(Evil())), "expected a safetensors file"),
    "no header": (lambda p: put(p, None), "header"),
    "header a list": (lambda p: put(p, {"minirlhf": "[]"}), "header"),
    "header without step": (
        lambda p: save_tensors(p, load_tensors(p)[0], {"stage": "finetune"}),
        "header",
    ),
    "weight missing": (
        lambda p: change_tensors(p, without("policy/body.final_norm")),
        "is missing",
    ),
    "weights NaN": (
        lambda p: change_tensors(
            p, lambda t: t["policy/body.final_norm.weight"].fill_(float("nan"))
        ),
        "NaN or inf",
    ),
    "no moments": (lambda p: change_tensors(p, without("optimizer0/3/")), "tensors, found"),
    "moments of another shape": (
        lambda p: change_tensors(
            p, lambda t: t.update({"optimizer0/0/exp_avg": torch.zeros(2, 2)})
        ),
        "optimizer",
    ),
    "moments NaN": (
        lambda p: change_tensors(p, lambda t: t["optimizer0/0/exp_avg"].fill_(float("nan"))),
        "optimizer",
    ),
}


@pytest.fixture(scope="module")
def half_done(tmp_path_factory, finished_run, small_task) -> Path:
    """A run that was stopped in the middle of fine-tuning."""
    from minirlhf.runs.checkpoints import Checkpoints

    folder = tmp_path_factory.mktemp("half") / "half"
    shutil.copytree(finished_run.path, folder)
    for name in ("policy.safetensors", "reward_final.safetensors", "summary.json"):
        (folder / name).unlink()
    with pytest.MonkeyPatch.context() as patch:

        def stop(checkpoints, step):
            checkpoints.save(step)
            if step == 2:
                raise KeyboardInterrupt

        patch.setattr(Checkpoints, "maybe_save", stop)
        patch.setattr(run_task, "load_task", lambda *_: small_task)
        with pytest.raises(SystemExit):
            main(["finetune", "--run", "half", "--runs", str(folder.parent), "--resume"])
    assert (folder / "checkpoint.safetensors").exists()
    return folder


@pytest.mark.usefixtures("small_openings_only")
@pytest.mark.parametrize("name", BAD_CHECKPOINTS)
def test_bad_checkpoint(tmp_path, monkeypatch, capsys, half_done, name):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(half_done, tmp_path / "half")
    damage, message = BAD_CHECKPOINTS[name]
    damage(tmp_path / "half" / "checkpoint.safetensors")
    told = refused(
        capsys, tmp_path, "finetune", "--run", "half", "--runs", str(tmp_path), "--resume"
    )
    assert "checkpoint.safetensors" in told and message in told
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize(
    "name", ["../half", "..", ".", "/etc", "a/../../b", "a\\b", "a\nb", "", "-"]
)
def test_run_names_lead_nowhere_else(tmp_path, capsys, name):
    assert "expected letters, digits" in refused(
        capsys, tmp_path, "sample", "tea", f"--run={name}", "--runs", str(tmp_path)
    )


# A disk that refuses ------------------------------------------------------------------------------


def test_a_place_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    assert "cannot be written" in refused(
        capsys, tmp_path, "demo", "--runs", str(tmp_path / "file")
    )


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0,
    reason="for the administrator no folder is read-only",
)
def test_a_read_only_folder(tmp_path, capsys):
    (tmp_path / "runs").mkdir(mode=0o555)
    assert "cannot be written" in refused(
        capsys, tmp_path, "demo", "--runs", str(tmp_path / "runs")
    )


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file}/{name}": tensor
        for file in ("pretrained", "reward", "reward_final", "policy")
        for name, tensor in load_tensors(folder / f"{file}.safetensors")[0].items()
    }


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of a file")
def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, half_done):
    runs = {name: tmp_path / name / "half" for name in ("full", "whole")}
    for folder in runs.values():
        shutil.copytree(half_done, folder)
    before = (runs["full"] / "checkpoint.safetensors").read_bytes()
    arguments = {
        name: ["finetune", "--run", "half", "--runs", str(folder.parent), "--resume"]
        for name, folder in runs.items()
    }
    # A checkpoint after every step, and no file longer than that many bytes: the system then
    # refuses as a full disk does.
    failed = Command(
        arguments["full"], tmp_path / "output", save_every_step=True, file_limit=len(before) // 2
    )
    code, errors = failed.wait(), failed.errors()
    told = [line for line in errors.splitlines() if line.startswith("error:")]
    assert code == 2 and "Traceback" not in errors and len(told) == 1, errors
    assert "checkpoint.safetensors" in told[0] and "too large" in told[0].lower()
    assert (runs["full"] / "checkpoint.safetensors").read_bytes() == before
    assert not [path for path in runs["full"].iterdir() if path.name.endswith(".tmp")]
    for name in runs:  # with room again, it ends where it would have ended
        done(arguments[name], tmp_path / f"output of {name}", save_every_step=True)
    ours, theirs = (load_tensors(folder / "policy.safetensors")[0] for folder in runs.values())
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


# Kill -9 ------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_kill_9_at_random_steps_changes_nothing(tmp_path):
    """Kill a whole run again and again, each time some steps later; it ends with the weights of a
    run left alone.
    """
    kills, chance = int(os.environ.get("MINIRLHF_KILLS", "2")), random.Random(0)
    arguments = ["demo", "--run", "r", *TINY]
    alone = [*arguments, "--runs", str(tmp_path / "alone")]
    killed = [*arguments, "--runs", str(tmp_path / "killed"), "--resume"]
    done(alone, tmp_path / "output", save_every_step=True)
    metrics = tmp_path / "killed" / "r" / "metrics.jsonl"
    steps = (tmp_path / "alone" / "r" / "metrics.jsonl").read_text().count("\n")
    logged = 0
    for kill in range(kills):
        process = Command(killed, tmp_path / f"output {kill}", save_every_step=True)
        wanted = min(
            logged + chance.randint(1, max(1, 2 * (steps - logged) // (kills + 1 - kill) - 1)),
            steps - 2,
        )
        while (
            process.running()
            and (metrics.read_text().count("\n") if metrics.exists() else 0) < wanted
        ):
            time.sleep(0.001)
        time.sleep(0.02 * chance.random())  # somewhere in the middle of a step or of a checkpoint
        assert process.running(), process.errors()
        process.send(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        logged = metrics.read_text().count("\n")
    done(killed, tmp_path / "output of the last", save_every_step=True)
    ours, theirs = (final_weights(tmp_path / name / "r") for name in ("killed", "alone"))
    assert ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) for name in ours
    )
    rows = [
        [
            {key: value for key, value in json.loads(line).items() if key != "seconds"}
            for line in (tmp_path / name / "r" / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("killed", "alone")
    ]
    assert rows[0] == rows[1]
