"""DPO as the fine-tuning of a run: on the comparisons of its feedback, judged as RLHF is."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch
from conftest import TINY

from minirlhf.cli.main import main, parse
from minirlhf.config import SIZES, Config, DPOConfig, FinetuneConfig, PretrainConfig
from minirlhf.config_file import from_json, to_json
from minirlhf.feedback.rankings import Ranked
from minirlhf.feedback.records import Comparison, Triple
from minirlhf.runs import divergence, estimate, pipeline, plan, run_comparisons
from minirlhf.runs.folder import Run
from minirlhf.runs.run_comparisons import check_comparisons, comparisons_of
from minirlhf.runs.run_feedback import split_feedback
from minirlhf.system.files import load_tensors
from minirlhf.tasks.task import Task
from minirlhf.training.diagnostics import diagnose

SETTINGS = dataclasses.replace(
    TINY.finetune, algorithm="dpo", dpo=DPOConfig(steps=10, batch_size=8, learning_rate=3e-3)
)
CONFIG = dataclasses.replace(TINY, finetune=SETTINGS)
OLD = ("policy", "reward_final")


@pytest.fixture
def run(tmp_path, finished_run) -> Run:
    """A run that is pretrained and has a reward model, about to be fine-tuned by DPO."""
    shutil.copytree(finished_run.path, tmp_path / "r")
    for name in (*(f"{old}.safetensors" for old in OLD), "summary.json", "report.html"):
        (tmp_path / "r" / name).unlink()
    run = Run.open(tmp_path / "r")
    kept = [row for row in run.read("metrics.jsonl") if row["stage"] in ("pretrain", "reward")]
    run.rewrite("metrics.jsonl", kept)
    run.replace_config(CONFIG)
    return run


def test_the_whole_way_to_the_report(run, small_task, finished_run):
    pipeline.finetune_stage(run, small_task)
    reward, final = (
        load_tensors(run.path / f"{name}.safetensors")[0] for name in ("reward", "reward_final")
    )
    assert all(torch.equal(reward[name], final[name]) for name in reward)  # it took no part
    tuned, base = (
        load_tensors(run.path / f"{name}.safetensors")[0] for name in ("policy", "pretrained")
    )
    assert any(not torch.equal(tuned[name], base[name]) for name in base)
    rows = [row for row in run.read("metrics.jsonl") if row["stage"] == "finetune"]
    assert len(rows) == 10 and "judge" in rows[0] and "judge" in rows[-1]
    losses = [row["heldout_loss_nats_per_comparison"] for row in rows if "judge" in row]
    assert losses[-1] < losses[0]
    assert run.progress()["collected"] == 0
    summary = pipeline.evaluate_stage(run, small_task)
    assert summary["config"]["finetune"]["algorithm"] == "dpo" and "judge_after" in summary["train"]
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "DPO: loss" in page and "which did not take part" in page


def test_it_learns_from_what_the_reward_model_learns_from(run, small_task):
    found = comparisons_of(run, small_task)
    train, heldout = split_feedback(run, small_task)
    assert found.train.triples == train and found.heldout.triples == heldout
    # Where people compared, theirs count and not the scores.
    triples = [Triple("tea", text, 0.5) for text in ("one", "two", "three")]
    compared = [Comparison("tea", "one", "two"), Comparison("tea", "three", "one")]
    task = dataclasses.replace(
        small_task,
        raters=None,
        feedback=triples,
        authors_feedback=[],
        heldout_feedback=[Triple("tea", text, 0.5) for text in ("four", "five")],
        comparisons=compared,
        heldout_comparisons=[Comparison("tea", "four", "five")],
    )
    found = comparisons_of(run, task)
    pairs = found.train.pairs(0.125)
    named = [
        (found.train.triples[better].text, found.train.triples[worse].text)
        for better, worse in zip(pairs.better.tolist(), pairs.worse.tolist(), strict=True)
    ]
    assert named == [("one", "two"), ("three", "one")]
    assert len(found.heldout.pairs(0.125)) == 1


def test_where_answers_are_ranked_it_learns_from_all_pairs_but_ties(run, small_task, monkeypatch):
    """Half of the 4 x 3 / 2 pairs are lost to a tie of three; held-out prompts are not learned."""
    rankings = [
        Ranked("tea", ("good", "fair", "poor", "bad"), (1, 2, 3, 4)),
        Ranked("rain", ("one", "two", "three", "four"), (2, 1, 2, 2)),
    ]
    heldout = [Ranked("sun", ("yes", "no", "no", "yes"), (1, 3, 3, 1))]
    monkeypatch.setattr(run_comparisons, "split_rankings", lambda *_: (rankings, heldout))
    task = dataclasses.replace(small_task, ranker=lambda prompt, answers, seed: [1, 2, 3, 4])
    found = comparisons_of(run, task)
    pairs = found.train.pairs(0.125)
    named = {
        (found.train.triples[better].text, found.train.triples[worse].text)
        for better, worse in zip(pairs.better.tolist(), pairs.worse.tolist(), strict=True)
    }
    order = ("good", "fair", "poor", "bad")
    assert named == {(order[i], order[j]) for i in range(4) for j in range(i + 1, 4)} | {
        ("two", other) for other in ("one", "three", "four")
    }
    assert {triple.topic for triple in found.heldout.triples} == {"sun"}
    assert len(found.heldout.pairs(0.125)) == 4 and not pairs.tie.any()
    check_comparisons(CONFIG, task)


def test_feedback_without_two_texts_on_a_topic_is_refused_before_anything_is_trained(small_task):
    lonely = [Triple(f"topic {number}", "Well.", number / 9) for number in range(10)]
    task: Task = dataclasses.replace(small_task, feedback=lonely, heldout_feedback=lonely[:2])
    check_comparisons(TINY, task)
    with pytest.raises(ValueError, match="feedback: expected two texts on one topic"):
        check_comparisons(CONFIG, task)
    check_comparisons(CONFIG, small_task)
    check_comparisons(CONFIG, dataclasses.replace(task, comparisons=[Comparison("a", "b", "c")]))
    new = plan.Plan(plan.Path("r"), CONFIG, ("pretrain",), new=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan.run_task, "task_from", lambda config: task)
        patch.setattr(plan.run_feedback, "check_feedback", lambda *_: None)
        with pytest.raises(ValueError, match="feedback: expected two texts on one topic"):
            plan.check(new)


# On the command line ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, told",
    [
        ("finetune --algorithm dpo --kl-weight .5", "--finetune.kl-weight: expected no such"),
        ("finetune --algorithm dpo --rounds 5", "--finetune.rounds: expected no such option"),
        ("finetune --algorithm dpo --updates 7", "--finetune.updates: expected no such option"),
        ("finetune --algorithm dpo --ppo.epochs 7", "--finetune.ppo.epochs: expected no such"),
        ("demo --algorithm dpo --finetune.learning-rate 1", "--finetune.learning-rate: expected"),
        ("finetune --algorithm dpo --kl-target 5", "--finetune.kl-target: expected None with dpo"),
        ("finetune --algorithm dpo --dpo.beta 0", "--finetune.dpo.beta: expected a number above"),
        ("iterate --algorithm dpo --rounds 5", "--finetune.algorithm: expected one that learns"),
        ("iterate --algorithm trpo --pretraining-weight 1", "--finetune.pretraining-weight: exp"),
    ],
)
def test_an_option_that_it_does_not_read_is_refused(tmp_path, monkeypatch, capsys, words, told):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(words.split())
    printed = capsys.readouterr().err
    assert stopped.value.code == 2 and printed.count("\n") == 1
    assert printed.startswith(f"error: {told}") and list(tmp_path.iterdir()) == []


def test_the_options_that_it_reads_are_accepted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "--finetune.dpo.beta .3 --finetune.batch-size 64 --finetune.warn.window 5 --size tiny"
    demo = parse(["demo", "--algorithm", "dpo", *words.split()])
    assert demo.config.finetune.dpo == DPOConfig(beta=0.3)  # type: ignore[attr-defined]
    assert demo.config.finetune.rounds == SIZES["tiny"].finetune.rounds  # type: ignore[attr-defined]
    other = parse(["finetune", "--algorithm", "rloo", "--rounds", "5"])
    assert other.finetune.rounds == 5  # type: ignore[attr-defined]
    assert from_json(json.loads(json.dumps(to_json(CONFIG))), "config.json") == CONFIG


def test_iterate_needs_rounds(run, capsys):
    words = ["iterate", "--run", "r", "--runs", str(run.path.parent), "--algorithm", "dpo"]
    with pytest.raises(SystemExit) as stopped:
        main(words)
    told = capsys.readouterr().err
    assert stopped.value.code == 2 and told.count("\n") == 1
    assert told.startswith("error: --finetune.algorithm: expected one that learns from the samples")


# Estimates and advice -----------------------------------------------------------------------------


def test_what_it_computes():
    tune = FinetuneConfig(
        algorithm="dpo", batch_size=6, max_new_tokens=20, dpo=DPOConfig(steps=40, batch_size=5)
    )
    config = Config(finetune=tune, pretrain=PretrainConfig(start="base", steps=0))
    model = config.model
    body = 24 * model.width**2 * model.layers
    head = 2 * model.width * model.vocab_size
    row = estimate.ROW_TOKENS * body
    with_head = row + estimate.TEXT_TOKENS * head
    for raters in (True, False):  # there are no rounds
        found = estimate.work(config, estimate.Workload(raters))["finetune"]
        # 40 steps on 10 answers: forward, backward, reference. 9 times 6 samples, read by two.
        learned, judged = 40 * 10 * 4 * with_head, 9 * 6 * (with_head + row)
        assert found.training == pytest.approx(learned + judged)
        assert found.sampling == pytest.approx(54 * estimate.TEXT_TOKENS * (body + head))
    lines = estimate.plan_lines(config, estimate.Workload(True), {"finetune": 1.0}, ["finetune"])
    assert "40 steps of 5 comparisons (DPO)" in lines[1]


def test_advice_names_what_it_reads():
    row = {"step": 1, "reward": 0.5, "judge": 0.5, "ended": 1.0, "distinct": 1.0}
    row |= {"kl_nats": 99.0, "entropy_nats_per_token": 0.01, "reward_std": 0.1}
    told = " ".join(diagnose([row], SETTINGS).values())
    assert "--finetune.dpo.beta" in told and "--finetune.dpo.learning-rate" in told
    assert "kl-weight" not in told and "kl-target" not in told
    told = divergence.advice("finetune", CONFIG)
    assert told == "lower --finetune.dpo.learning-rate 0.003"
    usual = dataclasses.replace(CONFIG, finetune=FinetuneConfig(algorithm="dpo"))
    told = divergence.advice("finetune", usual)
    assert "dpo.learning-rate" in told and "dpo.beta" in told and "reward" not in told
