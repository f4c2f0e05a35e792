"""The run folder: who may work in it, what --resume takes over, what a failure leaves behind."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY

from minirlhf.cli.main import main, parse
from minirlhf.config import PretrainConfig
from minirlhf.runs import pipeline, plan, workplace
from minirlhf.runs.base import export_base, read_base
from minirlhf.runs.divergence import advice, check_finite, check_loss
from minirlhf.runs.folder import Run
from minirlhf.system.files import (
    append_jsonl,
    atomic_write,
    load_tensors,
    read_json,
    read_jsonl,
    save_tensors,
)
from minirlhf.system.locks import locked


def fails(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    told = capsys.readouterr().err
    assert stopped.value.code == 2 and "Traceback" not in told
    assert len([line for line in told.splitlines() if line.startswith("error:")]) == 1
    return told


def selected(path: Path) -> list[str]:
    return ["--run", path.name, "--runs", str(path.parent)]


@pytest.fixture
def run(tmp_path) -> Run:
    return Run.create(tmp_path / "r", TINY)


@pytest.fixture
def given_task(small_task, monkeypatch) -> None:
    """No command reads the task's data again."""
    monkeypatch.setattr(plan.run_task, "task_from", lambda config: small_task)


# Two processes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["demo --resume", "pretrain --overwrite"])
def test_a_run_in_use_is_left_alone(run, capsys, command):
    with locked(run.path, "python -m minirlhf demo --run r"):
        told = fails(capsys, *command.split(), *selected(run.path))
        assert f"process {os.getpid()} on " in told and "demo --run r" in told
    assert [file.name for file in run.path.iterdir()] == ["config.json"]


def test_nothing_is_locked_in_a_folder_that_is_no_run(tmp_path, capsys):
    (tmp_path / "notes").write_text("mine")
    fails(capsys, "demo", "--run", tmp_path.name, "--runs", str(tmp_path.parent), "--overwrite")
    assert [file.name for file in tmp_path.iterdir()] == ["notes"]


# Divergence --------------------------------------------------------------------------------------


def nan_model() -> torch.nn.Module:
    model = torch.nn.Linear(2, 1)
    model.weight.data[0, 1] = math.nan
    return model


def test_weights_that_are_no_numbers_are_not_stored(run):
    good, bad = torch.nn.Linear(2, 1), nan_model()
    checkpoints = run.checkpoints("finetune")
    checkpoints.resume({"model": good}, [], {})
    checkpoints.save(3)
    before = (run.path / "checkpoint.safetensors").read_bytes()
    checkpoints.modules = {"model": bad}
    for store in (
        lambda: checkpoints.save(4),
        lambda: run.finish_stage("finetune", 1.0, {"policy.safetensors": bad}),
    ):
        with pytest.raises(ValueError, match="finetune: expected finite weights, found NaN or inf"):
            store()
    assert (run.path / "checkpoint.safetensors").read_bytes() == before
    assert not run.is_done("finetune") and not (run.path / "progress.json").exists()


def test_a_diverged_pretraining_is_not_done(run, small_task, finished_run):
    shutil.copy(finished_run.path / "tokenizer.json", run.path)
    wild = dataclasses.replace(TINY.pretrain, learning_rate=1e30, steps=10, warmup=0)
    run.replace_config(dataclasses.replace(TINY, pretrain=wild))
    with pytest.raises(ValueError, match=r"^pretrain: .* lower --pretrain.learning-rate 1e\+30"):
        pipeline.pretrain_stage(run, small_task)
    assert not run.is_done("pretrain")


def test_only_a_setting_that_was_raised_is_blamed():
    base = dataclasses.replace(TINY, pretrain=PretrainConfig(start="base", steps=0))
    assert "no setting is above its usual value" in advice("pretrain", base)
    decay = dataclasses.replace(base.pretrain, weight_decay=1e9)
    told = advice("pretrain", dataclasses.replace(base, pretrain=decay))
    assert told == "lower --pretrain.weight-decay 1e+09"
    ppo = dataclasses.replace(TINY.finetune, algorithm="ppo", learning_rate=9.0)
    assert "finetune.learning-rate" not in advice(
        "finetune", dataclasses.replace(TINY, finetune=ppo)
    )
    check_finite({"model": torch.nn.Linear(1, 1)}, "reward", TINY)
    check_loss([{"stage": "reward", "step": 1, "loss": math.nan}], "pretrain", TINY)
    with pytest.raises(ValueError, match="pretrain: expected a finite loss after step 2"):
        check_loss([{"stage": "pretrain", "step": 2, "loss": math.nan}], "pretrain", TINY)


# Paths and devices -------------------------------------------------------------------------------


def test_paths_are_stored_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pretrain = dataclasses.replace(TINY.pretrain, start="base", base=Path("../base"))
    config = dataclasses.replace(TINY, feedback=Path("mine.jsonl"), pretrain=pretrain)
    todo = plan.plan_new(tmp_path / "r", config, ("pretrain",), False, False)
    workplace.prepare(todo)
    stored = json.loads((tmp_path / "r" / "config.json").read_text())
    assert stored["feedback"] == str(tmp_path / "mine.jsonl")
    assert stored["pretrain"]["base"] == str(tmp_path.parent / "base")


def test_the_device_belongs_to_the_call(run, capsys):
    content = json.loads((run.path / "config.json").read_text())
    (run.path / "config.json").write_text(json.dumps(content | {"device": "cuda"}))
    assert Run.open(run.path, "cpu").device.type == "cpu"
    if not torch.cuda.is_available():
        assert Run.open(run.path).config.device == "auto"
    todo = plan.plan_resume(run.path, dataclasses.replace(run.config, device="cpu"), ("pretrain",))
    assert todo.config.device == "cpu"
    for command in ("reward", "finetune", "iterate", "evaluate", "sample tea", "rate", "demo"):
        words = [*command.split(), "--device", "cpu"]
        options = parse(words)
        assert getattr(options, "config", options).device == "cpu"
    for words in ("demo --resume", "pretrain --resume"):
        options = parse([*words.split(), *selected(run.path)])
        settings = options.config if words.startswith("demo") else options.common
        assert settings.device == "auto"


def test_another_precision_is_told_of_on_resume(run, capsys, monkeypatch):
    from minirlhf.system import devices

    model = torch.nn.Linear(1, 1)
    checkpoints = run.checkpoints("finetune")
    checkpoints.resume({"model": model}, [], {})
    checkpoints.save(3)
    assert run.checkpoints("finetune").resume({"model": model}, [], {}) == 3
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(devices, "_chosen", {"cpu": "bfloat16"})
    assert run.checkpoints("finetune").resume({"model": model}, [], {}) == 3
    told = capsys.readouterr().err
    assert "begun on cpu in float32 and goes on on cpu in bfloat16" in told
    assert told.count("\n") == 1


# --resume ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command, option",
    [
        ("demo --finetune.updates 7", "--finetune.updates"),
        ("demo --seed 5 --size gpu", "--size, --seed"),
        ("demo --feedback mine.jsonl", "--feedback"),
        ("pretrain --steps 7", "--pretrain.steps"),
        ("pretrain --model.width 64", "--model.width"),
        ("demo --overwrite", "--overwrite"),
    ],
)
def test_settings_that_resume_cannot_honour_are_refused(run, capsys, command, option):
    before = (run.path / "config.json").read_text()
    told = fails(capsys, *command.split(), *selected(run.path), "--resume")
    assert "--resume" in told and option in told
    assert (run.path / "config.json").read_text() == before


@pytest.mark.parametrize("command", ["demo", "pretrain"])
def test_resume_takes_the_settings_of_the_run(run, given_task, finished_run, monkeypatch, command):
    done = []
    for stage in pipeline.STAGE_FUNCTIONS:
        monkeypatch.setitem(
            pipeline.STAGE_FUNCTIONS, stage, lambda run, task: done.append(run.config)
        )
    for name in ("summary.json", "pretrained.safetensors"):
        if command == "demo":
            shutil.copy(finished_run.path / name, run.path)
    main([command, *selected(run.path), "--device", "cpu", "--resume"])
    assert done and all(config == TINY for config in done)


# Failures ----------------------------------------------------------------------------------------


def fail(run, task):
    run.append("metrics.jsonl", [{"stage": "pretrain", "step": 1}])
    raise ValueError("it cannot work")


def test_a_failed_start_leaves_no_run(tmp_path, given_task, capsys, monkeypatch):
    monkeypatch.setitem(pipeline.STAGE_FUNCTIONS, "pretrain", fail)
    for _ in range(2):  # and so the second asks for no --overwrite
        told = fails(capsys, "pretrain", "--run", "r", "--runs", str(tmp_path))
        assert "it cannot work" in told and not (tmp_path / "r").exists()


def test_work_that_can_go_on_is_kept(tmp_path, given_task, capsys, monkeypatch):
    def fail_later(run, task):
        (run.path / "checkpoint.safetensors").write_bytes(b"x")
        fail(run, task)

    monkeypatch.setitem(pipeline.STAGE_FUNCTIONS, "pretrain", fail_later)
    fails(capsys, "pretrain", "--run", "r", "--runs", str(tmp_path))
    assert (tmp_path / "r" / "config.json").exists()
    assert (tmp_path / "r" / "metrics.jsonl").exists()


def test_advice_can_be_followed(run, capsys):
    """The stage before was interrupted: it asks for --resume, so the advice has it."""
    assert "pretrain --run r --runs" in (told := fails(capsys, "reward", *selected(run.path)))
    assert told.strip().endswith("--resume")


# Files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [read_json, read_jsonl, load_tensors])
def test_a_file_that_cannot_be_read_is_not_called_missing(tmp_path, monkeypatch, read):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder: cannot be read: Is a directory"):
        read(tmp_path / "folder")

    def denied(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "file").write_text("{}")
    monkeypatch.setattr("builtins.open", denied)
    monkeypatch.setattr("io.open", denied)
    with pytest.raises(ValueError, match="file: cannot be read: Permission denied"):
        read(tmp_path / "file")


def test_a_base_that_cannot_be_read_is_not_called_missing(tmp_path, finished_run):
    base = export_base(finished_run, tmp_path / "base", "")
    (base.folder / "weights.safetensors").unlink()
    (base.folder / "weights.safetensors").mkdir()
    with pytest.raises(ValueError, match="weights.safetensors: cannot be read: Is a directory"):
        read_base(base.folder)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_files_have_the_mode_that_the_umask_gives(tmp_path, finished_run):
    old = os.umask(0o027)
    try:
        folder = export_base(finished_run, tmp_path / "base", "").folder
        save_tensors(folder / "a", {"x": torch.zeros(1)}, {})
        append_jsonl(folder / "b", [{}])
        atomic_write(folder / "c", "x")
    finally:
        os.umask(old)
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o640}


def test_a_broken_export_leaves_the_old_base_or_one_that_can_be_written_again(
    tmp_path, finished_run, monkeypatch
):
    base = export_base(finished_run, tmp_path / "base", "first")
    before = {file.name: file.read_bytes() for file in base.folder.iterdir()}

    def full(*arguments):
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("minirlhf.runs.base.card", full)
        for folder in (base.folder, tmp_path / "new"):
            with pytest.raises(OSError):
                export_base(finished_run, folder, "second")
    assert {file.name: file.read_bytes() for file in base.folder.iterdir()} == before
    assert export_base(finished_run, tmp_path / "new", "third").facts["command"] == "third"
    assert sorted(file.name for file in tmp_path.iterdir()) in (
        [".base.new", "base", "new"],
    )  # what the break left; the next export to it writes it again


def test_own_feedback_is_copied_when_the_run_begins(tmp_path):
    (tmp_path / "mine.jsonl").write_text("x\n")
    config = dataclasses.replace(TINY, feedback=tmp_path / "mine.jsonl")
    workplace.prepare(plan.plan_new(tmp_path / "r", config, ("pretrain",), False, False))
    assert (tmp_path / "r" / "feedback.jsonl").read_text() == "x\n"
