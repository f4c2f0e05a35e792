"""The ranked answers of a run: which candidates, ranked by whom, made once; the stage on them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY

from minirlhf.config import ModelConfig, RewardConfig
from minirlhf.feedback.rankings import read_rankings
from minirlhf.models import build
from minirlhf.reports.run_report import write_report
from minirlhf.runs import (
    estimate,
    pipeline,
    plan,
    products,
    reward_card,
    run_feedback,
    run_models,
    run_rankings,
    run_task,
)
from minirlhf.runs.checkpoints import Checkpoints
from minirlhf.runs.folder import Run
from minirlhf.system.files import load_tensors
from minirlhf.tasks.task import Task
from minirlhf.tokenizer import Tokenizer

CONFIG = dataclasses.replace(
    TINY,
    model=ModelConfig(vocab_size=256, context=48, width=16, layers=1, heads=2),
    reward=RewardConfig(
        ranked_prompts=8,
        ranked_heldout=3,
        heldout_share=0.4,
        steps=3,
        batch_size=8,
        warmup=1,
        evaluate_every=1,
        patience=9,
    ),
    finetune=dataclasses.replace(TINY.finetune, max_new_tokens=6),
)


def by_length(prompt: str, answers: list[str], seed: int) -> list[int]:
    return [1 + sum(len(other) > len(answer) for other in answers) for answer in answers]


TASK = Task(
    name="questions",
    train_prompts=[f"prompt {number}" for number in range(9)],
    heldout_prompts=[f"other {number}" for number in range(4)],
    corpus=[],
    corpus_heldout=[],
    feedback=[],
    handwritten=[],
    judge=lambda topic, text: 0.5,
    judge_name="nobody",
    raters=lambda *_: (3.0,),
    ranker=by_length,
)


def new_run(path: Path, **reward: object) -> Run:
    """A run with two policies that have learned nothing, and differ."""
    config = dataclasses.replace(CONFIG, reward=dataclasses.replace(CONFIG.reward, **reward))
    run = Run.create(path, config)
    tokenizer = Tokenizer([bytes([value]) for value in range(256)])
    tokenizer.save(run.path / "tokenizer.json")
    for number, stage in enumerate(("pretrain", "sft")):
        torch.manual_seed(number)
        policy = build.new_policy(config.model, tokenizer.vocab_size)
        run.finish_stage(stage, 1.0, {products.RESULT[stage]: policy})
    return run


@pytest.fixture
def run(tmp_path) -> Run:
    return new_run(tmp_path / "r")


def labelled(run: Run, monkeypatch) -> None:
    """Samples say which model wrote them, to which prompt, and which sample of it they are."""
    tables = {
        name: load_tensors(run.path / f"{name}.safetensors")[0]["body.token_embedding.weight"]
        for name in ("pretrained", "sft")
    }
    count = dict.fromkeys(tables, 0)

    def sample_answers(run, policy, tokenizer, prompts, name):
        found = policy.state_dict()["body.token_embedding.weight"]
        (writer,) = [writer for writer, table in tables.items() if torch.equal(table, found)]
        count[writer] += 1
        return [f"{writer} {count[writer]} to {prompt}" for prompt in prompts]

    monkeypatch.setattr(run_rankings, "sample_answers", sample_answers)


def test_two_samples_of_the_sft_model_one_of_the_base_and_a_misplaced_one(run, monkeypatch):
    labelled(run, monkeypatch)
    rankings = run_rankings.rankings_of(run, TASK)
    assert len({one.prompt for one in rankings}) == len(rankings) == 8
    assert {one.prompt for one in rankings} < set(TASK.train_prompts)
    for one in rankings:
        *own, misplaced = one.answers
        assert own == [f"{who} to {one.prompt}" for who in ("sft 1", "sft 2", "pretrained 1")]
        text, _, other = misplaced.partition(" to ")
        assert text == "sft 1" and other != one.prompt and other in TASK.train_prompts
        assert one.ranks == tuple(by_length("", list(one.answers), 0))
        assert one.provenance == "simulated"


def test_four_samples_of_the_sft_model(tmp_path, monkeypatch):
    run = new_run(tmp_path / "r", ranked_answers="sft", ranked_prompts=100)
    labelled(run, monkeypatch)
    rankings = run_rankings.rankings_of(run, TASK)
    # There are no more prompts, and none is asked twice.
    assert sorted(one.prompt for one in rankings) == sorted(TASK.train_prompts)
    for one in rankings:
        assert one.answers == tuple(f"sft {number} to {one.prompt}" for number in (1, 2, 3, 4))


def test_a_misplaced_answer_is_not_one_that_the_prompt_has_anyway():
    answers = ["a", "a", "b", "c"]
    assert run_rankings.misplaced(answers, [answers, ["x", "y", "c", "a"]]) == ["b", "b", "a", "b"]
    assert run_rankings.misplaced(["a", "a"], [["a", "a"]]) == ["a", "a"]  # there is no other


def test_samples_are_a_function_of_the_seed_and_are_kept(run, tmp_path):
    first = run_rankings.rankings_of(run, TASK)
    again = new_run(tmp_path / "again")
    assert run_rankings.rankings_of(again, TASK) == first
    assert len({one.answers for one in first}) == 8  # they are real samples
    assert read_rankings(run.path / "rankings.jsonl") == first
    # No ranker is asked twice.
    nobody = dataclasses.replace(TASK, ranker=None)
    assert run_rankings.rankings_of(run, nobody) == first
    again.replace_config(dataclasses.replace(again.config, seed=1))
    (again.path / "rankings.jsonl").unlink()
    with pytest.raises(ValueError, match="task questions: expected a ranker of answers"):
        run_rankings.rankings_of(again, nobody)
    assert not (again.path / "rankings.jsonl").exists()
    assert run_rankings.rankings_of(again, TASK) != first
    tokenizer = run_models.tokenizer_of(run, TASK)
    policy = run_models.load_policy(run, "sft.safetensors", tokenizer).eval()
    samples = [
        run_rankings.sample_answers(one, policy, tokenizer, TASK.train_prompts, name)
        for one, name in ((run, "a"), (run, "a"), (run, "b"), (again, "a"))
    ]
    assert samples[0] == samples[1] and samples[0] != samples[2] and samples[0] != samples[3]


def test_whole_prompts_are_held_out(run):
    train, heldout = run_rankings.split_rankings(run, TASK)
    assert len(train) == 5 and len(heldout) == 3
    assert not {one.prompt for one in train} & {one.prompt for one in heldout}
    others = run_rankings.heldout_rankings_of(run, TASK)
    assert len(others) == 3 and {one.prompt for one in others} < set(TASK.heldout_prompts)


def test_the_stage_learns_from_rankings_and_goes_on_after_an_interruption(
    run, tmp_path, monkeypatch
):
    pipeline.reward_stage(run, TASK)
    facts = run.progress()["reward_model"]
    assert facts["rankings"] == 8 and facts["answers_each"] == 4 and "mse" not in facts
    assert facts["pairs_right"]["n"] <= 3 and facts["pairs_right_heldout_topics"]["n"] <= 3
    assert (
        run.progress()["collected_first"] == 0 and not (run.path / "first_ratings.jsonl").exists()
    )
    rows = [row for row in run.read("metrics.jsonl") if row["stage"] == "reward"]
    assert len(rows) == 3 and all(0 <= row["heldout_pairs_right"] <= 1 for row in rows)

    other = new_run(tmp_path / "other")
    save = Checkpoints.save

    def stop(self, step):
        save(self, step)
        if step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "maybe_save", stop)
        with pytest.raises(KeyboardInterrupt):
            pipeline.reward_stage(other, TASK)
    assert (other.path / "rankings.jsonl").exists() and not other.is_done("reward")
    pipeline.reward_stage(other, TASK)
    assert other.progress()["reward_model"] == facts
    ours, theirs = (load_tensors(one.path / "reward.safetensors")[0] for one in (run, other))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    # The report says what was learned and how well.
    page = write_report(run.path).read_text(encoding="utf-8")
    assert "pairs in the right order (share), held-out topics" in page and "pairs of" in page
    assert "by chance" in page and "mean squared error (MSE) on" not in page


def test_what_needs_scores_says_that_there_are_none(run, capsys, monkeypatch):
    with pytest.raises(
        ValueError, match="--report: expected a task with scores .* found questions"
    ):
        reward_card.write_report_card(run, TASK)
    with pytest.raises(ValueError, match="iterate: expected a task whose texts are rated in round"):
        run_task.with_raters(run, TASK, None)
    assert run_feedback.split_feedback(run, TASK) == ([], [])
    run_feedback.check_feedback(CONFIG, TASK)
    few = dataclasses.replace(TASK, train_prompts=["one", "one "])
    with pytest.raises(ValueError, match="task questions: expected 2 prompts .* found 1"):
        run_feedback.check_feedback(CONFIG, few)
    # Rounds that cannot be are told before anything begins.
    monkeypatch.setattr(run_task, "load_task", lambda *_: TASK)
    for rounds in (1, 3):
        finetune = dataclasses.replace(CONFIG.finetune, rounds=rounds)
        config = dataclasses.replace(CONFIG, finetune=finetune)
        plan.check(plan.Plan(run.path, config, ("finetune",)))
        told = capsys.readouterr().err
        assert ("--finetune.rounds 3 changes nothing" in told) == (rounds == 3)


def test_the_plan_tells_of_rankings():
    ranked = estimate.Workload(raters=False, demonstrations=True, rankings=True)
    expected = dict.fromkeys(products.STAGES, 1.0)
    lines = estimate.plan_lines(CONFIG, ranked, expected, ["reward", "finetune"])
    assert "answers to 8 prompts are ranked, then 3 steps" in "".join(lines)
    assert "rounds" not in "".join(lines)
    with_it, without = (
        estimate.work(CONFIG, dataclasses.replace(ranked, rankings=some))["reward"]
        for some in (True, False)
    )
    assert with_it.sampling > without.sampling == 0
    assert json.dumps(with_it.columns) == "6"  # one batch of at most 128 answers


def test_each_answer_belongs_to_its_prompt(monkeypatch):
    """Prompts of similar length are sampled together, but the answers come as the prompts stand."""

    def echo(policy, tokenizer, prompts, longest, seed, name):
        assert [len(prompt) for prompt in prompts] == [1, 2, 3]
        return [str(prompt) for prompt in prompts]

    monkeypatch.setattr(run_rankings, "sample_as_they_stand", echo)
    monkeypatch.setattr(run_rankings, "prompt_tokens", lambda _, prompt, context: [0] * len(prompt))
    settings = SimpleNamespace(seed=3, finetune=SimpleNamespace(max_new_tokens=5))
    run, policy = (
        SimpleNamespace(config=settings),
        SimpleNamespace(config=SimpleNamespace(context=9)),
    )
    asked = ["aaa", "a", "aa"]
    assert run_rankings.sample_answers(run, policy, None, asked, "x") == asked
