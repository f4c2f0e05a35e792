"""The stage of supervised fine-tuning: only where there are demonstrations, and then before all
feedback.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from conftest import TINY

from minirlhf.cli.main import main
from minirlhf.config import ModelConfig, SFTConfig
from minirlhf.models import build
from minirlhf.reports.run_report import write_report
from minirlhf.runs import estimate, pipeline, plan, products, run_models, run_task, workplace
from minirlhf.runs.folder import Run
from minirlhf.system.files import load_tensors
from minirlhf.tasks.task import Task
from minirlhf.tokenizer import Tokenizer

CONFIG = dataclasses.replace(
    TINY,
    model=ModelConfig(vocab_size=256, context=48, width=16, layers=1, heads=2),
    sft=SFTConfig(steps=2, batch_size=2, warmup=1, evaluate_every=1),
)
PAIRS = [(f"prompt {number}", f"It is {number}.") for number in range(6)]
PLAIN = Task(
    name="openings",
    train_prompts=["tea"],
    heldout_prompts=["tea"],
    corpus=PAIRS,
    corpus_heldout=PAIRS,
    judge=lambda topic, text: 0.5,
    judge_name="nobody",
)
SHOWN = dataclasses.replace(PLAIN, demonstrations=PAIRS)


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    """A run with a pretrained policy, of a task without demonstrations."""
    monkeypatch.setattr(run_task, "load_task", lambda *_: PLAIN)
    monkeypatch.setattr(plan.run_feedback, "check_feedback", lambda *_: None)
    run = Run.create(tmp_path / "r", CONFIG)
    tokenizer = Tokenizer([bytes([value]) for value in range(256)])
    tokenizer.save(run.path / "tokenizer.json")
    torch.manual_seed(0)
    policy = build.new_policy(CONFIG.model, tokenizer.vocab_size)
    run.finish_stage("pretrain", 1.0, {products.RESULT["pretrain"]: policy})
    return run


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir()) if file.is_file()}


def written(path: Path, pairs=PAIRS) -> Path:
    lines = [json.dumps({"prompt": prompt, "answer": answer}) + "\n" for prompt, answer in pairs]
    path.write_text("".join(lines))
    return path


def sft(run: Run, *more: str) -> None:
    settings = ["--steps", "2", "--batch-size", "2", "--device", "cpu"]
    main(["sft", "--run", "r", "--runs", str(run.path.parent), *settings, *more])


def fails(capsys, run: Run, *more: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        sft(run, *more)
    assert stopped.value.code == 2
    return capsys.readouterr().err


# Only with demonstrations -------------------------------------------------------------------------


def test_without_demonstrations_nothing_is_made_and_nothing_expected(run, monkeypatch, capsys):
    before, done = contents(run.path), []
    pipeline.sft_stage(run, PLAIN)
    assert contents(run.path) == before and not run.is_done("sft")
    assert run_models.start_of(run) == "pretrained.safetensors"
    # A demo passes over it without a word.
    for stage in products.STAGES:
        monkeypatch.setitem(
            pipeline.STAGE_FUNCTIONS, stage, lambda run, task, stage=stage: done.append(stage)
        )
    plan.carry_out(run, PLAIN, products.STAGES)
    assert done == ["reward", "finetune", "evaluate"]
    assert "sft" not in capsys.readouterr().out
    plan.carry_out(run, SHOWN, products.STAGES)
    assert done[3:] == ["sft", "reward", "finetune", "evaluate"]
    assert "  sft       up to 2 steps on demonstrations  " in capsys.readouterr().out


def test_its_time_is_estimated_only_if_it_runs():
    with_it, without = (
        estimate.work(TINY, estimate.Workload(raters=False, demonstrations=some))
        for some in (True, False)
    )
    assert list(with_it) == list(products.STAGES)
    assert with_it.pop("sft").steps == TINY.sft.steps and with_it == without


# What comes after starts from it ------------------------------------------------------------------


def test_all_that_follows_starts_from_the_model_that_has_seen_demonstrations(run, monkeypatch):
    pipeline.sft_stage(run, SHOWN)
    assert run.is_done("sft") and set(run.progress()["seconds"]) == {"pretrain", "sft"}
    tuned = load_tensors(run.path / "sft.safetensors")[0]
    base = load_tensors(run.path / "pretrained.safetensors")[0]
    assert any(not torch.equal(tuned[name], base[name]) for name in base)

    tokenizer = Tokenizer.load(run.path / "tokenizer.json")
    before = run_models.model_for_sampling(run, tokenizer, tuned=False)
    body = run_models.new_reward_model(run, tokenizer, SHOWN).members[0].body
    name = next(key for key in body.state_dict() if key.endswith("weight") and "blocks" in key)
    for weight in (before.body.state_dict()[name], body.state_dict()[name]):
        assert torch.equal(weight, tuned[f"body.{name}"])
    # So does fine-tuning, whose reference it is.
    seen = []
    monkeypatch.setattr(pipeline, "load_reward_model", lambda *_: None)
    monkeypatch.setattr(pipeline, "split_feedback", lambda *_: ([], []))

    def finetune(models, *_):
        seen.append(models.reference)
        raise InterruptedError

    monkeypatch.setattr(pipeline, "finetune", finetune)
    with pytest.raises(InterruptedError):
        pipeline.finetune_stage(run, SHOWN)
    assert torch.equal(seen[0].body.state_dict()[name], tuned[f"body.{name}"])

    page = write_report(run.path).read_text(encoding="utf-8")
    assert "<h2>Supervised fine-tuning</h2>" in page


def test_demonstrations_that_are_longer_than_the_context_are_counted(run, capsys):
    long = [*PAIRS, ("a long answer", "so " * 40)]
    pipeline.sft_stage(run, dataclasses.replace(PLAIN, demonstrations=long))
    assert "1 of 7 demonstrations are longer than 48 tokens" in capsys.readouterr().err


def test_feedback_waits_for_demonstrations(run):
    def check(task: Task, stages: tuple[str, ...]) -> None:
        plan.check_demonstrations(plan.Plan(run.path, CONFIG, stages), task)

    check(PLAIN, ("reward",))
    check(SHOWN, products.STAGES)
    with pytest.raises(ValueError, match="reward needs the stage before it; .* minirlhf sft --run"):
        check(SHOWN, ("reward",))
    pipeline.sft_stage(run, SHOWN)
    for stage in products.STAGES:
        check(SHOWN, (stage,))


# On the command line ------------------------------------------------------------------------------


def test_a_later_stage_that_is_done_is_named(run, capsys):
    (run.path / products.RESULT["reward"]).touch()
    told = fails(capsys, run)
    assert "r: reward, which comes after sft, is done already; --overwrite removes it" in told


def test_ones_own_demonstrations(run, monkeypatch, capsys):
    monkeypatch.chdir(run.path.parent)
    original = written(Path("mine.jsonl"))
    sft(run, "--demonstrations", "mine.jsonl")
    told = capsys.readouterr().out
    assert "done: sft -> " in told and "next: python -m minirlhf reward --run " in told
    config = Run.open(run.path).config.sft
    assert config.demonstrations == original.absolute() and config.steps == 2
    # The run keeps a copy; what becomes of the original does not touch it.
    kept = run.path / "demonstrations.jsonl"
    assert kept.read_bytes() == original.read_bytes()
    original.unlink()
    assert run_task.task_of(Run.open(run.path)).demonstrations == PAIRS

    assert "sft is done already" in fails(capsys, run)
    before = contents(run.path)
    told = fails(capsys, run, "--overwrite", "--demonstrations", "mine.jsonl")
    assert "mine.jsonl: cannot be read: No such file" in told
    written(original, PAIRS[:1])
    told = fails(capsys, run, "--overwrite", "--demonstrations", "mine.jsonl")
    assert "expected at least 2 different prompts, found 1" in told
    assert contents(run.path) == before  # the lock file is no part of it
    # What followed is outdated by new demonstrations.
    (run.path / "reward.safetensors").write_text("old")
    written(original, PAIRS[:4])
    sft(run, "--overwrite", "--demonstrations", "mine.jsonl")
    assert kept.read_bytes() == original.read_bytes()
    assert not (run.path / "reward.safetensors").exists()


def test_ones_own_file_in_the_run_folder_is_not_deleted(run):
    mine = written(run.path / "demonstrations.jsonl")
    config = dataclasses.replace(CONFIG, sft=SFTConfig(demonstrations=mine))
    again = plan.Plan(run.path, config, products.STAGES, redo=True)
    workplace.prepare(again)
    workplace.finish(again)
    assert mine.exists() and not run.is_done("pretrain")


def test_a_task_without_demonstrations_needs_a_file(run, capsys):
    before = contents(run.path)
    told = fails(capsys, run)
    assert told == (
        "error: --demonstrations: expected a file, as the task openings has no demonstrations, "
        "found none\n"
    )
    assert contents(run.path) == before
