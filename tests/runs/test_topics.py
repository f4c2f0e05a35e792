"""What a user is told about a topic that a run does not know."""

from __future__ import annotations

import dataclasses
import json
import time

from minirlhf.cli.main import main
from minirlhf.runs import topics as topics_module
from minirlhf.runs.folder import Run
from minirlhf.runs.topics import advice_on_topic, known_topics, nearest
from minirlhf.tokenizer import Tokenizer


def test_the_topics_of_a_run_are_those_of_its_task(finished_run, small_task):
    known = known_topics(finished_run)
    assert set(known) == {*small_task.train_prompts, *small_task.heldout_prompts}


def test_own_topics_come_from_the_runs_copy(tmp_path, finished_run):
    config = dataclasses.replace(finished_run.config, feedback=tmp_path / "mine.jsonl")
    run = Run.create(tmp_path / "own", config)
    assert known_topics(run) == []  # the file is gone
    rows = [{"topic": topic, "text": "x", "score": 3} for topic in ("tea", "rain", "tea")]
    (run.path / "feedback.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert known_topics(run) == ["tea", "rain"]


def test_the_topics_of_a_task_without_a_faster_way_are_its_prompts(monkeypatch, small_task):
    monkeypatch.setattr(topics_module, "load_task", lambda name, seed, corpus_texts: small_task)
    found = topics_module._topics_of_task("a task that somebody adds")
    assert found == [*small_task.train_prompts, *small_task.heldout_prompts]


def test_nearest_topics():
    topics = ["The benefits of exercise", "Why sleep matters", "Keeping a diary"]
    assert nearest("the benefits of sport", topics)[0] == topics[0]
    assert nearest("WHY SLEEP MATTERS", topics)[0] == topics[1]
    assert nearest("xyzzy", topics) == []
    many = [f"{index} {'long ' * 100}" for index in range(5000)] + ["A diary of tea"]
    started = time.perf_counter()
    assert nearest("a diary of coffee", many)[0] == many[-1]
    nearest("a long " * 100, many)
    assert time.perf_counter() - started < 3  # both together a fifth of a second here


def test_sample_says_that_a_topic_is_new(finished_run, capsys):
    runs = ["--run", "tiny", "--runs", str(finished_run.path.parent), "--count", "1"]
    main(["sample", "Keeping a diary", *runs])
    assert capsys.readouterr().err == ""
    main(["sample", "Keeping a dairy\x1b[2J", *runs])
    shown = capsys.readouterr()
    assert "is new to this run" in shown.err and "'Keeping a diary'" in shown.err
    assert "\x1b" not in shown.err + shown.out and shown.err.count("\n") == 1
    assert "new to this run" not in shown.out


def test_sample_says_that_a_topic_is_cut(finished_run):
    tokenizer = Tokenizer.load(finished_run.path / "tokenizer.json")
    first, second = advice_on_topic(finished_run, tokenizer, "far too many words " * 30)
    assert "reads its last 31 tokens" in first and "is new to this run" in second
    assert len(second) < 400
