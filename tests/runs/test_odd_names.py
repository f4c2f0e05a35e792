"""A run in a folder whose name is not UTF-8, on a console that shows ASCII only."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from minirlhf.cli import train
from minirlhf.cli.main import main
from minirlhf.runs import pipeline
from minirlhf.runs.folder import Run

ODD = os.fsdecode(b"caf\xe9 \x1b[2J")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_finished_run_is_evaluated_reported_and_sampled(
    tmp_path, finished_run, small_task, monkeypatch
):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    path = tmp_path / ODD / "tiny"
    shutil.copytree(finished_run.path, path)
    run = Run.open(path)
    # The settings name such a file, and its name stands in the summary.
    feedback = tmp_path / ODD / f"{ODD}.jsonl"
    evaluate = dataclasses.replace(run.config.evaluate, samples=4)
    run.replace_config(dataclasses.replace(run.config, feedback=feedback, evaluate=evaluate))
    run = Run.open(path)
    assert run.config.feedback == feedback
    pipeline.evaluate_stage(run, small_task)
    train.print_summary(path)
    summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    assert summary["task"] == feedback.name and Path(summary["config"]["feedback"]) == feedback
    assert (path / "report.html").read_text(encoding="utf-8").endswith("</html>\n")
    main(["sample", "Keeping a diary", "--runs", str(path.parent), "--run", "tiny"])
    shown = raw.getvalue()
    assert rb"caf\udce9 \x1b[2J/tiny/report.html" in shown and b"\x1b" not in shown
