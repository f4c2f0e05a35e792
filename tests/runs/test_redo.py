"""Stages done again: the old results stand until the new ones do, whatever happens in between."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY

from minirlhf.cli.main import main
from minirlhf.runs import pipeline, plan, redo, workplace
from minirlhf.runs.folder import Run
from minirlhf.runs.products import ANSWERS, FEEDBACK, MADE_BY, PRODUCTS, is_done

MINE = "notes.txt"  # a file of the user's own


def contents(path: Path) -> dict[str, bytes]:
    """The files of a folder, without those in .redo."""
    return {file.name: file.read_bytes() for file in sorted(path.iterdir()) if file.is_file()}


def old_run(path: Path, config=TINY) -> Path:
    """A finished run whose files only say that they are old."""
    Run.create(path, config)
    for name in (*PRODUCTS, *ANSWERS, MINE):
        if name not in ("config.json", "checkpoint.safetensors"):
            (path / name).write_text("old\n")
    rows = [{"stage": stage} for stage in ("base", "pretrain", "masked-lm", "reward", "finetune")]
    for name in ("metrics.jsonl", "samples.jsonl"):
        (path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = {"seconds": {"pretrain": 1.0, "finetune": 2.0}, "collected": 9, "reward_model": {}}
    (path / "progress.json").write_text(json.dumps(facts))
    return path


def work_done(path: Path, stages: tuple[str, ...], names: tuple[str, ...]) -> None:
    """A folder .redo in which the stages have ended and made these files."""
    redo.begin(path, dataclasses.replace(TINY, seed=1), stages, None)
    for name in names:
        (path / redo.REDO / name).write_text("new\n")


def fails(capsys, *arguments: str, code: int = 2) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    told = capsys.readouterr().err
    assert stopped.value.code == code and "Traceback" not in told
    return told


def test_the_new_folder_has_what_the_stages_before_have_made(tmp_path):
    path = old_run(tmp_path / "r")
    before = contents(path)
    redo.begin(path, TINY, ("finetune",), None)
    work = path / redo.REDO
    assert sorted(contents(work)) == sorted(
        ["tokenizer.json", "pretrained.safetensors", "first_ratings.jsonl", "encoder.safetensors"]
        + ["demonstrations.jsonl", "sft.safetensors"]
        + ["rankings.jsonl", "rankings_heldout_topics.jsonl"]
        + ["reward.safetensors", "reward_card.json", "reward_card.html", "metrics.jsonl"]
        + ["samples.jsonl", "progress.json", "stages.json", "config.json"]
    )
    stages = [row["stage"] for row in Run.open(work).read("metrics.jsonl")]
    assert stages == ["base", "pretrain", "masked-lm", "reward"]
    facts = json.loads((work / "progress.json").read_text())
    assert facts == {"seconds": {"pretrain": 1.0}, "reward_model": {}}
    # Large files are linked, not copied; files to which rows are added are not linked.
    assert os.path.samefile(work / "reward.safetensors", path / "reward.safetensors")
    assert not os.path.samefile(work / "samples.jsonl", path / "samples.jsonl")
    assert contents(path) == before


def test_only_what_is_outdated_is_deleted(tmp_path):
    path = old_run(tmp_path / "r")
    work_done(path, ("reward",), ("reward.safetensors", "first_ratings.jsonl"))
    redo.swap(path)
    found = contents(path)
    assert found["reward.safetensors"] == found["first_ratings.jsonl"] == b"new\n"
    kept = ("tokenizer.json", "pretrained.safetensors", *MADE_BY["sft"], FEEDBACK, MINE, *ANSWERS)
    assert {name for name in found if found[name] == b"old\n"} == set(kept)
    assert not {"policy.safetensors", "summary.json", "report.html"} & found.keys()
    assert json.loads(found["config.json"])["seed"] == 1 and not (path / redo.REDO).exists()


def crash_at(monkeypatch, number: int) -> None:
    """Of all moves, deletions and removals of folders, the one with this number fails."""
    calls = [0]

    def counted(function):
        def call(*arguments, **options):
            calls[0] += 1
            if calls[0] == number:
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(os, "replace", counted(os.replace))
    monkeypatch.setattr(os, "link", counted(os.link))
    monkeypatch.setattr(Path, "unlink", counted(Path.unlink))
    monkeypatch.setattr(Path, "rmdir", counted(Path.rmdir))


def test_a_crash_anywhere_in_the_swap_ends_in_the_old_results_or_in_the_new(tmp_path):
    names = ("reward.safetensors", "metrics.jsonl")
    original = old_run(tmp_path / "original")
    work_done(original, ("reward",), names)
    before = contents(original)
    whole = shutil.copytree(original, tmp_path / "whole")
    redo.swap(whole)
    after, number, seen = contents(whole), 0, set()
    while True:
        number += 1
        path = shutil.copytree(original, tmp_path / str(number))
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, number)
            try:
                redo.swap(path)
                break
            except KeyboardInterrupt:
                pass
        Run.open(path)  # what any later command does first
        is_new = contents(path) == after
        assert is_new or contents(path) == before, number
        assert redo.is_pending(path) != is_new  # the old results: --resume still ends the redo
        seen.add(is_new)
        shutil.rmtree(path)
    assert seen == {True, False} and number > 20


def test_a_crash_at_the_beginning_leaves_the_old_results(tmp_path):
    path = old_run(tmp_path / "r")
    before, number = contents(path), 0
    while True:
        number += 1
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, number)
            try:
                redo.begin(path, TINY, ("finetune",), None)
                break
            except KeyboardInterrupt:
                assert contents(path) == before and not (
                    redo.is_pending(path) and not (path / redo.REDO / "stages.json").exists()
                )
    assert number > 5 and redo.pending_stages(path) == ("finetune",)


def test_a_journal_from_elsewhere_deletes_nothing(tmp_path):
    path = old_run(tmp_path / "r")
    (path / redo.REDO).mkdir()
    (tmp_path / "precious").write_text("x")
    for steps in ({"move": [], "delete": ["../precious"]}, {"move": ["notes.txt"], "delete": []}):
        (path / redo.REDO / redo.SWAP).write_text(json.dumps(steps))
        with pytest.raises(ValueError, match="swap.json: expected names of a run's files"):
            Run.open(path)
    assert (tmp_path / "precious").exists() and (path / MINE).exists()


# The commands ---------------------------------------------------------------------------------


@pytest.fixture
def finished(tmp_path, finished_run, small_task, monkeypatch) -> Path:
    """A finished run, on a task that is loaded already."""
    monkeypatch.setattr(plan.run_task, "task_from", lambda config: small_task)
    path = shutil.copytree(finished_run.path, tmp_path / "r")
    (path / MINE).write_text("mine")
    return path


def selected(path: Path) -> list[str]:
    return ["--run", path.name, "--runs", str(path.parent)]


def test_a_redone_stage_gives_the_same_numbers_and_the_old_ones_are_seen_until_then(
    finished, monkeypatch, capsys
):
    before, seen = contents(finished), []
    stage = pipeline.STAGE_FUNCTIONS["evaluate"]

    def watched(run, task):
        stage(run, task)
        seen.append(contents(finished))

    monkeypatch.setitem(pipeline.STAGE_FUNCTIONS, "evaluate", watched)
    main(["evaluate", *selected(finished), "--samples", "32", "--overwrite"])
    assert {name: data for name, data in seen[0].items() if name != ".lock"} == before
    after = contents(finished)
    assert after.keys() == before.keys() and not (finished / redo.REDO).exists()
    one, other = (json.loads(files["summary.json"]) for files in (before, after))
    for name in ("train", "heldout", "reward_model", "ratings"):
        assert one[name] == other[name]
    assert after["samples.jsonl"] == before["samples.jsonl"]
    assert after["metrics.jsonl"] == before["metrics.jsonl"]


def test_an_interrupted_redo_leaves_the_old_results_and_goes_on(finished, monkeypatch, capsys):
    before, samples = contents(finished), ["--samples", "32"]
    stage = pipeline.STAGE_FUNCTIONS["evaluate"]

    def interrupted(run, task):
        raise KeyboardInterrupt

    monkeypatch.setitem(pipeline.STAGE_FUNCTIONS, "evaluate", interrupted)
    for _ in range(2):  # the second begins a second time
        told = fails(capsys, "evaluate", *selected(finished), *samples, "--overwrite", code=130)
        assert "The old results are unchanged. Go on with: python -m minirlhf evaluate" in told
        assert contents(finished) == before
    told = fails(capsys, "finetune", *selected(finished))
    assert "evaluate was interrupted here" in told and "--resume" in told
    assert "evaluate was interrupted here" in fails(
        capsys, "finetune", *selected(finished), "--resume"
    )
    assert "--evaluate.samples" in fails(
        capsys, "evaluate", *selected(finished), "--samples", "16", "--resume"
    )
    monkeypatch.setitem(pipeline.STAGE_FUNCTIONS, "evaluate", stage)
    main(["evaluate", *selected(finished), "--resume"])
    assert not redo.is_pending(finished) and contents(finished).keys() == before.keys()
    assert (finished / "samples.jsonl").read_bytes() == before["samples.jsonl"]


def test_nobody_to_ask(tmp_path, capsys, small_task, monkeypatch):
    """iterate --overwrite on a run of own feedback without --person."""
    nobody = dataclasses.replace(small_task, raters=None)
    monkeypatch.setattr(plan.run_task, "task_from", lambda config: nobody)
    (tmp_path / "mine.jsonl").write_text("x\n")
    path = old_run(tmp_path / "r", dataclasses.replace(TINY, feedback=tmp_path / "mine.jsonl"))
    before = contents(path)
    assert "--person NAME" in fails(capsys, "iterate", *selected(path), "--overwrite")
    assert contents(path) == before and not (path / redo.REDO).exists()


@pytest.mark.parametrize(
    "command",
    [
        ["finetune", "--max-new-tokens", "200", "--batch-size", "8"],
        ["demo", "--model.width", "191"],
        pytest.param(
            ["demo", "--device", "cuda"],
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_settings_that_cannot_work_cost_nothing(finished, capsys, command):
    before = contents(finished)
    fails(capsys, *command, *selected(finished), "--overwrite")
    assert contents(finished) == before and not (finished / redo.REDO).exists()


def test_the_runs_copy_of_the_feedback_may_be_the_last(tmp_path, capsys, small_task, monkeypatch):
    """reward --overwrite where the original is gone, or named relative to a folder unknown."""
    monkeypatch.setattr(plan.run_task, "task_from", lambda config: small_task)
    for name in ("gone.jsonl", tmp_path / "gone.jsonl"):
        path = old_run(tmp_path / "r", dataclasses.replace(TINY, feedback=Path(name)))
        todo, _ = plan.check(plan.plan_stages(path, ("reward",), {}, False, True))
        run = workplace.prepare(todo)
        assert (run.path / FEEDBACK).read_text() == (path / FEEDBACK).read_text() == "old\n"
        assert "the run's copy of it is used" in capsys.readouterr().err
        shutil.rmtree(path)


def test_the_feedback_is_read_again_where_it_is(tmp_path, small_task, monkeypatch):
    monkeypatch.setattr(plan.run_task, "task_from", lambda config: small_task)
    file = tmp_path / "mine.jsonl"
    file.write_text("new\n")
    path = old_run(tmp_path / "r", dataclasses.replace(TINY, feedback=file))
    todo, _ = plan.check(plan.plan_stages(path, ("reward",), {}, False, True))
    workplace.prepare(todo)
    assert (path / redo.REDO / FEEDBACK).read_text() == "new\n"
    assert (path / FEEDBACK).read_text() == "old\n"


# A stage is done when its last product stands -----------------------------------------------------


def test_a_summary_without_a_report_is_not_the_end(finished, monkeypatch, capsys):
    for name in ("summary.json", "report.html"):
        (finished / name).unlink()
    run, written = Run.open(finished), pipeline.write_report

    def break_off(path):
        raise OSError("the disk is full")

    monkeypatch.setattr(pipeline, "write_report", break_off)
    with pytest.raises(OSError):
        pipeline.evaluate_stage(run, plan.run_task.task_from(run.config))
    assert (finished / "summary.json").exists() and not is_done(finished, "evaluate")
    monkeypatch.setattr(pipeline, "write_report", written)
    main(["evaluate", *selected(finished), "--resume"])
    assert is_done(finished, "evaluate")


def test_a_whole_run_is_replaced_when_the_new_one_has_ended(finished, finished_run, monkeypatch):
    """demo --overwrite, with stages that only store something."""
    (finished / "ratings.jsonl").write_text("an answer\n")
    old = contents(finished)

    def stage(name):
        def store(run, task):
            assert {k: v for k, v in contents(finished).items() if k != ".lock"} == old
            summary = (finished_run.path / "summary.json").read_bytes()
            for product in MADE_BY[name]:
                (run.path / product).write_bytes(summary)

        return store

    for name in pipeline.STAGE_FUNCTIONS:
        monkeypatch.setitem(pipeline.STAGE_FUNCTIONS, name, stage(name))
    main(["demo", *selected(finished), "--seed", "3", "--device", "cpu", "--overwrite"])
    new = contents(finished)
    # This task has no demonstrations, so it has no supervised fine-tuning.
    stages = set(MADE_BY) - {"sft"}
    made = {product for stage in stages for product in MADE_BY[stage]}
    assert new.keys() == made | {"config.json", "ratings.jsonl", MINE}
    assert json.loads(new["config.json"])["seed"] == 3
    assert new["ratings.jsonl"] == b"an answer\n" and new[MINE] == b"mine"
    assert not (finished / redo.REDO).exists()
