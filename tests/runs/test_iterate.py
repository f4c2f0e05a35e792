"""Feedback in rounds: simulated raters, a person at the keys, interruption, the table by round."""

from __future__ import annotations

import dataclasses
import json

import pytest
from conftest import TINY
from test_training import toy_rollout

from minirlhf.cli.main import main
from minirlhf.cli.summary_words import feedback_words
from minirlhf.feedback.answers import AnswerFile
from minirlhf.feedback.person import PersonRaters
from minirlhf.feedback.records import read_triples
from minirlhf.reports.run_report import rounds_of
from minirlhf.runs import plan, run_feedback, run_task
from minirlhf.runs.folder import Run
from minirlhf.system.files import load_tensors
from minirlhf.tasks.task import Task
from minirlhf.training.rollout_log import summarise

CONFIG = dataclasses.replace(
    TINY,
    finetune=dataclasses.replace(
        TINY.finetune, updates=4, rounds=2, ratings_per_round=12, batch_size=8, refit_steps=2
    ),
)


def iterate(run: Run, task: Task, person: str | None = None) -> None:
    """What the command does with a run that is pretrained."""
    task = run_task.with_raters(run, task, person)
    reward = dataclasses.replace(run.config.reward, own_texts=run.config.finetune.ratings_per_round)
    run.replace_config(dataclasses.replace(run.config, reward=reward))
    plan.carry_out(run, task, ("reward", "finetune", "evaluate"))


@pytest.fixture
def pretrained(tmp_path, finished_run, monkeypatch) -> Run:
    """A run that is pretrained and no more.

    The tiny policy hardly ends a text, so those of the first rating are given.
    """
    run = Run.create(tmp_path / "r", CONFIG)
    for name in ("tokenizer.json", "pretrained.safetensors"):
        (run.path / name).write_bytes((finished_run.path / name).read_bytes())
    run.finish_stage("pretrain", 1.0, {})
    monkeypatch.setattr(
        run_feedback,
        "sample_to_rate",
        lambda models, tokenizer, topics, count, *_: [
            (topics[index % len(topics)], f"Text {index} is here.", "before")
            for index in range(count)
        ],
    )
    return run


def test_each_round_asks_for_as_many_ratings(pretrained, small_task):
    asked = []

    def raters(topic, text, seed):
        asked.append((topic, text))
        return (2.0, 4.0)

    iterate(pretrained, dataclasses.replace(small_task, raters=raters))
    assert len(asked) == 24  # 12 before the first round, 12 between the two
    first = read_triples(pretrained.path / "first_ratings.jsonl")
    assert [(triple.topic, triple.text) for triple in first] == asked[:12] and first[0].score == 0.5
    summary = json.loads((pretrained.path / "summary.json").read_text())
    assert summary["ratings"]["collected"] == 24 and summary["ratings"]["shipped"] == 400
    rows = [row for row in pretrained.read("metrics.jsonl") if row["stage"] == "finetune"]
    assert [row["round"] for row in rows] == [1, 1, 2, 2] and all(
        row["reward_judge_mse"] >= 0 for row in rows
    )
    table = rounds_of(rows)
    assert [row["updates"] for row in table] == [2, 2]
    assert table[1]["judge"] == pytest.approx((rows[2]["judge"] + rows[3]["judge"]) / 2)
    assert "By round" in (pretrained.path / "report.html").read_text(encoding="utf-8")


def test_one_round_rates_the_pretrained_policy_alone(pretrained, small_task):
    pretrained.replace_config(
        dataclasses.replace(
            CONFIG, finetune=dataclasses.replace(CONFIG.finetune, rounds=1, ratings_per_round=24)
        )
    )
    iterate(pretrained, small_task)
    assert len(read_triples(pretrained.path / "first_ratings.jsonl")) == 24 and not pretrained.read(
        "collected.jsonl"
    )
    assert "By round" not in (pretrained.path / "report.html").read_text(encoding="utf-8")


def test_held_out_texts_are_those_of_the_task(pretrained, small_task):
    iterate(pretrained, small_task)
    train, heldout = run_feedback.split_feedback(pretrained, small_task)
    first = read_triples(pretrained.path / "first_ratings.jsonl")
    assert train[-12:] == first and len(train) == 360 + 2 * len(small_task.authors_feedback) + 12
    assert len(heldout) == 40 and not set(heldout) & set(train)


def test_the_error_of_the_reward_model_on_the_policys_own_texts(small_task):
    """Rewards .9 and .4, judge .5 and .2: errors .4 and .2."""
    judge = {"a": 0.5, "b": 0.2}
    row = summarise(
        toy_rollout(),
        ["t", "t"],
        dataclasses.replace(small_task, judge=lambda topic, text: judge[text]),
        {},
    )
    assert row["reward_judge_mse"] == pytest.approx((0.16 + 0.04) / 2) and row[
        "reward_judge_pearson"
    ] == pytest.approx(1.0)


def test_a_person_is_asked_once_a_text_and_never_again(tmp_path, capsys):
    pressed = iter("x47q")
    raters = PersonRaters(AnswerFile(tmp_path / "r.jsonl"), "me", 5, key=pressed.__next__)
    assert raters("tea", "One.", 0) == (4.0,) and raters("tea", "One.", 0) == (4.0,)
    with pytest.raises(KeyboardInterrupt):
        raters("tea", "Two.", 0)  # 7 is no score, then quit
    printed = capsys.readouterr().out
    assert "[1 of 5]" in printed and "[2 of 5]" in printed and "undo" not in printed
    again = PersonRaters(AnswerFile(tmp_path / "r.jsonl"), "me", 5, key=iter("2").__next__)
    assert again("tea", "One.", 0) == (4.0,) and again("tea", "Two.", 0) == (2.0,)
    assert [
        (triple.text, triple.rater, triple.provenance)
        for triple in read_triples(tmp_path / "r.jsonl")
    ] == [("One.", "me", "people"), ("Two.", "me", "people")]


def test_a_person_quits_and_goes_on_bit_for_bit(
    pretrained, small_task, monkeypatch, tmp_path, finished_run
):
    """Twelve answers, quit in the second round, resume: the same as in one go, and no text is asked
    about twice.
    """

    def run_with(run: Run, limits: list[int]) -> None:
        for limit in limits:
            answered = [0]

            def key() -> str:
                number = sum(1 for _ in AnswerFile(run.path / "ratings.jsonl").records())
                answered[0] += 1
                return "q" if answered[0] > limit else str(1 + number % 5)

            monkeypatch.setattr(PersonRaters.__init__, "__defaults__", (key,))
            try:
                iterate(run, small_task, person="me")
            except KeyboardInterrupt:
                continue

    run_with(pretrained, [15, 100])
    other = Run.create(tmp_path / "other", CONFIG)
    for name in ("tokenizer.json", "pretrained.safetensors"):
        (other.path / name).write_bytes((finished_run.path / name).read_bytes())
    other.finish_stage("pretrain", 1.0, {})
    run_with(other, [100])
    assert (pretrained.path / "ratings.jsonl").read_text() == (
        other.path / "ratings.jsonl"
    ).read_text()
    ours, theirs = (load_tensors(run.path / "policy.safetensors")[0] for run in (pretrained, other))
    assert all(ours[name].equal(theirs[name]) for name in ours)
    assert {row["provenance"] for row in other.read("collected.jsonl")} == {"people"}
    ratings = json.loads((other.path / "summary.json").read_text())["ratings"]
    assert (ratings["raters"], ratings["collected_by"]) == ("simulated", ["people"])
    assert feedback_words(ratings, {}).endswith(" more during training (by people).")
    assert "more were rated during the run (people)." in (other.path / "report.html").read_text()


@pytest.mark.usefixtures("small_openings_only")
def test_iterate_command(pretrained, small_task, capsys, monkeypatch):
    monkeypatch.setattr(run_task, "task_of", lambda run: small_task)
    runs = ["--run", "r", "--runs", str(pretrained.path.parent)]
    tiny = [
        "--updates",
        "2",
        "--batch-size",
        "8",
        "--rounds",
        "2",
        "--ratings-per-round",
        "6",
        "--max-new-tokens",
        "30",
    ]
    main(["iterate", *runs, *tiny])
    printed = capsys.readouterr().out
    assert (
        "round 1: judge" in printed
        and "round 2: judge" in printed
        and "the policy's own texts: MSE" in printed
    )
    for arguments, words in (
        (["iterate", *runs, *tiny], "redo it (and what follows) with --overwrite"),
        (
            ["iterate", *runs, "--rounds", "0", "--overwrite"],
            "rounds: expected an integer of at least 1",
        ),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2 and words in capsys.readouterr().err
    main(["iterate", *runs, *tiny, "--overwrite"])


def test_no_one_to_ask(pretrained, small_task):
    with pytest.raises(
        ValueError, match="no raters to ask between rounds; give the ratings yourself with --person"
    ):
        iterate(pretrained, dataclasses.replace(small_task, raters=None))
