"""The command line: help, bad input, run folders, interruption."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from tiny_command import tiny_options
from warm_process import Command

from minirlhf.cli.main import main, parse, spelled_out
from minirlhf.config import PretrainConfig


def fails(capsys, *arguments: str) -> str:
    """Run a command that must fail with exit code 2; return what it printed to standard error."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["demo"],
        ["data"],
        ["pretrain"],
        ["reward"],
        ["finetune"],
        ["evaluate"],
        ["sample"],
        ["chat"],
        ["play"],
        ["rate"],
        ["feedback"],
    ],
)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert "usage: minirlhf" in printed
    if command == ["demo"]:
        assert (
            "--finetune.reinforce.credit" in printed
            and "--reward.target" in printed
            and "--feedback" in printed
        )
        assert "--precision {auto,float32,bfloat16}" in printed


@pytest.mark.usefixtures("small_openings_only")
def test_stages_one_by_one_and_sample(tmp_path, capsys):
    runs = ["--run", "steps", "--runs", str(tmp_path)]
    main(
        [
            "pretrain",
            *runs,
            "--model.vocab-size",
            "300",
            "--model.width",
            "16",
            "--model.layers",
            "1",
            "--model.heads",
            "2",
            "--device",
            "cpu",
            "--steps",
            "10",
            "--batch-size",
            "8",
        ]
    )
    assert "a run is there already" in fails(capsys, "pretrain", *runs)
    assert "needs the stage before it" in fails(capsys, "finetune", *runs)
    main(["reward", *runs, "--steps", "5", "--batch-size", "8", "--target", "final"])
    main(
        [
            "finetune",
            *runs,
            "--finetune.updates",
            "1",
            "--batch-size",
            "8",
            "--rounds",
            "1",
            "--max-new-tokens",
            "30",
            "--credit",
            "per-token",
        ]
    )
    assert "is done already" in fails(capsys, "finetune", *runs)
    main(["evaluate", *runs, "--samples", "16"])
    config = json.loads((tmp_path / "steps" / "config.json").read_text())
    assert config["reward"]["target"] == "final"
    assert config["finetune"]["reinforce"]["credit"] == "per-token"
    assert (
        json.loads((tmp_path / "steps" / "summary.json").read_text())["train"]["judge_after"]["n"]
        == 16
    )
    capsys.readouterr()
    main(["sample", "Keeping a diary", *runs, "--count", "2"])
    assert capsys.readouterr().out.count("\n") >= 2
    main(["sample", "Keeping a diary", *runs, "--compare"])
    printed = capsys.readouterr().out
    assert "BEFORE" in printed and "AFTER" in printed
    main(["sample", "Keeping a diary", *runs, "--best-of", "4", "--count", "1"])
    assert "at most 4096 texts" in fails(capsys, "sample", "x", *runs, "--best-of", "2000")
    assert "--top-p: expected a number above 0 and at most 1" in fails(
        capsys, "sample", "x", *runs, "--top-p", "1.5"
    )


def test_an_existing_run_is_not_overwritten(tmp_path, capsys):
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "metrics.jsonl").write_text("precious\n")
    assert "--overwrite" in fails(capsys, "demo", "--run", "old", "--runs", str(tmp_path))
    assert (folder / "metrics.jsonl").read_text() == "precious\n"
    (folder / "config.json").unlink()
    assert "expected a run folder" in fails(
        capsys, "demo", "--run", "old", "--runs", str(tmp_path), "--overwrite"
    )
    assert (folder / "metrics.jsonl").read_text() == "precious\n"


@pytest.mark.parametrize(
    "given, expected",
    [
        (
            "demo --algorithm=ppo --gae-lambda .5",
            "demo --finetune.algorithm=ppo --finetune.reinforce.gae-lambda=.5 "
            "--finetune.trpo.gae-lambda=.5",
        ),
        (
            "demo --finetune.kl-weight .1 --task reviews",
            "demo --finetune.kl-weight .1 --task reviews",
        ),
        (
            "finetune --finetune.ppo.clip-range=.1 --run a.b",
            "finetune --ppo.clip-range=.1 --run a.b",
        ),
        ("iterate --finetune.updates 3", "iterate --updates 3"),
        # names of earlier versions
        ("demo --credit per-token", "demo --finetune.reinforce.credit per-token"),
        ("demo --reward.mlm-steps=3", "demo --reward.encoder.steps=3"),
        ("reward --mlm_steps 3", "reward --encoder.steps 3"),
        ("finetune --finetune.group-size 3", "finetune --group.size 3"),
        ("finetune --baseline none", "finetune --reinforce.baseline=none --trpo.baseline=none"),
        ("iterate --person credit", "iterate --person credit"),
        ("reward --reward.steps 3 --finetune.updates 3", "reward --steps 3 --finetune.updates 3"),
        ("", ""),
    ],
)
def test_names_of_settings_are_understood_with_and_without_their_stage(given, expected):
    assert spelled_out(given.split()) == expected.split()


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a b"])
def test_run_names_stay_in_the_folder(tmp_path, capsys, name):
    assert "expected letters" in fails(
        capsys, "demo", "--run", name, "--runs", str(tmp_path / "runs")
    )
    assert not (tmp_path / "runs").exists()


def test_bad_feedback_names_every_line_and_trains_nothing(tmp_path, capsys):
    file = tmp_path / "mine.jsonl"
    good = {"topic": "tea", "text": "Tea wakes people up.", "score": 3}
    lines = [
        json.dumps(good),
        '{"topic": "tea", "text": "x"}',
        "not json",
        json.dumps(good | {"score": 9}),
        json.dumps(good | {"text": ""}),
    ]
    file.write_text("\n".join(lines) + "\n")
    printed = fails(
        capsys, "demo", "--feedback", str(file), "--run", "mine", "--runs", str(tmp_path / "runs")
    )
    for number, field in ((2, "score"), (3, ""), (4, "score"), (5, "text")):
        assert f"{file}: line {number}: {field}" in printed
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("small_openings_only")
def test_own_feedback_runs_and_its_judge_is_named(tmp_path, capsys):
    file, rows = tmp_path / "mine.jsonl", []
    for topic in ("tea", "rain", "maps", "chess", "bread"):
        for index in range(12):
            good = index % 2
            text = (
                f"{topic.capitalize()} helps {index} people, because they say so."
                if good
                else f"{topic} is a thing {index}"
            )
            rows.append(
                json.dumps(
                    {"topic": topic, "text": text, "score": 8 + index % 3 if good else index % 3}
                )
            )
    file.write_text("\n".join(rows))
    main(
        [
            "demo",
            "--feedback",
            str(file),
            "--score-range",
            "0",
            "10",
            "--run",
            "mine",
            "--runs",
            str(tmp_path),
            *tiny_options(),
        ]
    )
    summary = json.loads((tmp_path / "mine" / "summary.json").read_text())
    assert "word regression" in summary["judge_name"] and summary["ratings"]["raters"] == "people"
    assert "word regression" in capsys.readouterr().out


def test_a_checkpoint_that_is_no_safetensors_is_refused(tmp_path, capsys, finished_run):
    import pickle

    shutil.copytree(finished_run.path, tmp_path / "bad")
    runs = ["--run", "bad", "--runs", str(tmp_path)]
    for content in (
        pickle.dumps({"a": 1}),
        b"",
        (finished_run.path / "policy.safetensors").read_bytes()[:5000],
    ):
        (tmp_path / "bad" / "policy.safetensors").write_bytes(content)
        assert "policy.safetensors: expected a safetensors file" in fails(
            capsys, "sample", "tea", *runs
        )


def test_no_such_run(tmp_path, capsys):
    assert "no run here" in fails(capsys, "sample", "tea", "--run", "none", "--runs", str(tmp_path))


def start(tmp_path: Path) -> Command:
    arguments = ["demo", "--run", "r", "--runs", str(tmp_path)]
    return Command([*arguments, *tiny_options(pretrain_steps=2000)], tmp_path / "output")


def wait_for_metrics(tmp_path: Path) -> None:
    file = tmp_path / "r" / "metrics.jsonl"
    for _ in range(1200):
        if file.exists() and file.read_text().count("\n") >= 3:
            return
        time.sleep(0.1)
    raise AssertionError("the run never logged a step")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_ctrl_c_says_how_to_go_on(tmp_path):
    process = start(tmp_path)
    wait_for_metrics(tmp_path)
    process.send(signal.SIGINT)
    assert process.wait() == 130
    errors = process.errors()
    assert (
        "Go on with: python -m minirlhf demo --run r" in errors
        and "--resume" in errors
        and "Traceback" not in errors
    )


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.usefixtures("small_openings_only")
def test_kill_9_leaves_a_run_that_resumes(tmp_path):
    process = start(tmp_path)
    wait_for_metrics(tmp_path)
    process.send(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    config["pretrain"]["steps"] = 60  # no need to wait for the rest
    (tmp_path / "r" / "config.json").write_text(json.dumps(config))
    main(["demo", "--run", "r", "--runs", str(tmp_path), "--resume"])
    steps = [
        json.loads(line)["step"]
        for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()
        if '"pretrain"' in line
    ]
    assert steps == sorted(set(steps)) and steps[-1] >= 60
    assert (tmp_path / "r" / "report.html").exists()


def test_from_scratch_has_settings_of_its_own_which_can_be_overridden():
    usual = parse(["demo"]).config
    for words in (["--from-scratch"], ["--from_scratch"], ["--pretrain.start", "scratch"]):
        scratch = parse(["demo", *words]).config
        assert scratch.finetune.updates > usual.finetune.updates
        assert 0 == usual.pretrain.steps < scratch.pretrain.steps
    assert parse(["demo", "--from-scratch", "--finetune.updates", "7"]).config.finetune.updates == 7
    for words in (["--task", "reviews"], ["--feedback", "mine.jsonl"]):  # not for other texts
        scratch, usual = (
            parse(["demo", "--from-scratch", *words]).config,
            parse(["demo", *words]).config,
        )
        assert scratch.finetune == usual.finetune
        assert scratch.pretrain == dataclasses.replace(usual.pretrain, steps=PretrainConfig().steps)
