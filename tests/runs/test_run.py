"""The run folder: what an interruption leaves behind, what is overwritten, which texts may be
trained on.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys

import pytest
import torch
from conftest import TINY

from minirlhf.config import FinetuneConfig
from minirlhf.config_file import from_json
from minirlhf.evaluation.judge import is_reward_hacking
from minirlhf.feedback.records import Comparison as Compared
from minirlhf.feedback.records import Triple
from minirlhf.feedback.splits import merged, split_comparisons
from minirlhf.runs import pipeline, products, redo, run_feedback, run_models, run_task
from minirlhf.runs.checkpoints import Checkpoints
from minirlhf.runs.folder import Run
from minirlhf.settings import SettingError
from minirlhf.stats import change
from minirlhf.system.files import load_tensors
from minirlhf.tokenizer import Tokenizer
from minirlhf.training import reward_objectives as fitting
from minirlhf.training.batches import Split
from minirlhf.training.ranking import pairs_from_scores
from minirlhf.training.train_reward_model import ScoredTexts, train_reward_model


@pytest.fixture
def run(tmp_path) -> Run:
    return Run.create(tmp_path / "r", TINY)


def test_half_a_line_does_not_spoil_what_comes_after(run):
    run.append("metrics.jsonl", [{"stage": "finetune", "step": step} for step in (1, 2)])
    model = torch.nn.Linear(1, 1)
    checkpoints = run.checkpoints("finetune")
    assert checkpoints.resume({"model": model}, [], {}) == 0
    checkpoints.save(2)
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"stage": "finetune", "st')  # the disk was full
    start = run.checkpoints("finetune").resume({"model": model}, [], {})
    assert start == 2 and next(run.log("finetune").steps(start, 3)) == 2
    run.append("metrics.jsonl", [{"stage": "finetune", "step": 3}])
    assert [row["step"] for row in run.read("metrics.jsonl")] == [1, 2, 3]
    (run.path / "metrics.jsonl").write_text('{"step": 1}\n{"step"\n{"step": 3}\n')
    with pytest.raises(
        ValueError, match=r"metrics.jsonl: line 2: expected a JSON object, found \{\"step\""
    ):
        run.read("metrics.jsonl")


def test_a_crash_before_the_model_is_saved_leaves_the_stage_undone(run, monkeypatch):
    (run.path / "checkpoint.safetensors").write_bytes(b"x")
    monkeypatch.setattr(
        Run, "save_model", lambda *_: (_ for _ in ()).throw(OSError("the disk is full"))
    )
    with pytest.raises(OSError, match="full"):
        run.finish_stage(
            "reward",
            1.0,
            {"reward.safetensors": torch.nn.Linear(1, 1)},
            reward_model={"pearson": 0.5},
        )
    assert not run.is_done("reward") and (run.path / "checkpoint.safetensors").exists()
    assert run.progress()["reward_model"] == {
        "pearson": 0.5
    }  # what the next stages read is there before the stage counts


def test_overwriting_a_run_keeps_what_people_answered(run, tmp_path):
    for name in ("ratings.jsonl", "comparisons.jsonl", "mine.jsonl"):
        (run.path / name).write_text("an answer\n")
    (run.path / "metrics.jsonl").write_text('{"stage": "pretrain"}\n')
    redo.begin(run.path, TINY, products.STAGES, None)
    redo.swap(run.path)
    assert sorted(path.name for path in run.path.iterdir()) == [
        "comparisons.jsonl",
        "config.json",
        "mine.jsonl",
        "ratings.jsonl",
    ]
    assert (run.path / "ratings.jsonl").read_text() == "an answer\n"


def test_early_stopping_is_not_forgotten_by_resume(run, small_task, finished_run, monkeypatch):
    """Held-out losses are given: they rise from the second evaluation on, and fall again after the
    fit has stopped.
    """
    config = dataclasses.replace(TINY.reward, steps=20, evaluate_every=2, patience=2)
    tokenizer = Tokenizer.load(finished_run.path / "tokenizer.json")
    train, heldout = (
        ScoredTexts(tokenizer, part, 96)
        for part in (small_task.feedback[:100], small_task.feedback[100:130])
    )
    monkeypatch.setattr(Checkpoints, "every_seconds", 0.0)  # a checkpoint at every evaluation
    results = []
    # The second call finds the checkpoint of the last evaluation, as after a crash behind the loop.
    for _ in range(2):
        losses = iter([0.1, 0.2, 0.3, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01])
        monkeypatch.setattr(
            fitting.equations, "mse_reward_loss", lambda *_: torch.tensor(next(losses))
        )
        monkeypatch.setattr(
            fitting,
            "reward_loss",
            lambda model, batch, *_: (
                model.text_scores(batch.rows, batch.prompt_lengths + batch.mask.sum(1))
                .square()
                .mean()
            ),
        )
        torch.manual_seed(0)
        model = run_models.empty_reward_model(run, tokenizer)
        train_reward_model(
            model,
            Split(train, heldout),
            config,
            TINY.seed,
            run.log("reward"),
            run.checkpoints("reward"),
        )
        results.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    assert [row["step"] for row in run.read("metrics.jsonl")] == [2, 4, 6]
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_a_fit_that_diverges_is_told_of(run, small_task, finished_run):
    tokenizer = Tokenizer.load(finished_run.path / "tokenizer.json")
    texts = ScoredTexts(tokenizer, small_task.feedback[:50], 96)
    with pytest.raises(ValueError, match="never a finite number; lower --reward.learning-rate"):
        train_reward_model(
            run_models.empty_reward_model(run, tokenizer),
            Split(texts, texts),
            dataclasses.replace(TINY.reward, learning_rate=1e38, steps=4, evaluate_every=2),
            TINY.seed,
        )


def test_weights_at_the_start_do_not_depend_on_what_is_rated_already(
    run, small_task, finished_run, monkeypatch
):
    """A reward stage that was interrupted before its first checkpoint begins with the same fresh
    weights.
    """
    run.replace_config(
        dataclasses.replace(TINY, reward=dataclasses.replace(TINY.reward, start="fresh", steps=2))
    )
    for name in ("tokenizer.json", "pretrained.safetensors"):
        (run.path / name).write_bytes((finished_run.path / name).read_bytes())
    results = []
    for _ in range(2):
        pipeline.reward_stage(run, small_task)
        results.append(load_tensors(run.path / "reward.safetensors")[0])
        (run.path / "reward.safetensors").unlink()
        (run.path / "metrics.jsonl").unlink()
        assert (run.path / "first_ratings.jsonl").exists()
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_held_out_texts_that_the_policy_writes_again_are_not_trained_on(
    run, small_task, finished_run, monkeypatch
):
    monkeypatch.setattr(
        run_feedback,
        "sample_to_rate",
        lambda *_: [
            *((triple.topic, triple.text, "before") for triple in small_task.feedback[:30]),
            *(
                (small_task.train_prompts[0], f"Text {index} is here.", "before")
                for index in range(60)
            ),
        ],
    )
    for name in ("tokenizer.json", "pretrained.safetensors"):
        (run.path / name).write_bytes((finished_run.path / name).read_bytes())
    run.replace_config(
        dataclasses.replace(
            TINY, reward=dataclasses.replace(TINY.reward, own_texts=90, heldout_share=0.5)
        )
    )
    train, heldout = run_feedback.split_feedback(run, small_task)
    own_train, own_heldout = run_feedback.split_own_texts(run, small_task)
    seen, unseen = (
        {(triple.topic, triple.text) for triple in part} for part in (train, heldout + own_heldout)
    )
    assert not seen & unseen
    written_again = {(triple.topic, triple.text) for triple in own_train} & unseen
    assert written_again  # so there was something to leave out


def test_own_feedback_is_read_from_the_runs_copy(tmp_path):
    lines = [
        json.dumps({"topic": f"t{index % 6}", "text": f"Text {index}.", "score": 1 + index % 5})
        for index in range(90)
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(lines) + "\n")
    run = Run.create(tmp_path / "r", dataclasses.replace(TINY, feedback=file))
    before = run_task.task_of(run)
    with open(file, "a") as more:
        more.write(json.dumps({"topic": "t0", "text": "One more.", "score": 5}) + "\n")
    assert run_task.task_of(run).feedback == before.feedback
    assert (
        run_task.task_from(run.config).feedback != before.feedback
    )  # the file itself is split anew
    texts = {pair for pair in before.corpus if pair[0].startswith("t")}
    assert before.corpus_heldout and not texts & set(before.corpus_heldout)


def test_hacking_is_more_than_chance():
    def around(mean: float) -> dict:
        return {"mean": mean, "low": mean - 0.03, "high": mean + 0.03}

    assert [change(around(0.5), around(x)) for x in (0.55, 0.54, 0.46, 0.45)] == [
        "rose",
        "did not clearly change",
        "did not clearly change",
        "fell",
    ]  # .03 times the root of 2 is .042
    split = {"reward_before": around(0.5), "reward_after": around(0.9), "judge_before": around(0.5)}
    assert not is_reward_hacking(split | {"judge_after": around(0.48)})
    assert is_reward_hacking(
        split | {"judge_after": around(0.55)}, split | {"judge_after": around(0.4)}
    )
    assert not is_reward_hacking(split | {"judge_after": around(0.4), "reward_after": around(0.52)})


@pytest.mark.parametrize(
    "content, fault",
    [
        (
            {"finetune": {"algorithm": "a2c"}},
            "--finetune.algorithm: expected one of reinforce, rloo, grpo, ppo, trpo, dpo, "
            "found 'a2c'",
        ),
        ({"reward": {"loss": "rank"}}, "--reward.loss: expected one of mse, ranking, found 'rank'"),
        (
            {"finetune": {"kl_target": "abc"}},
            "--finetune.kl-target: expected a number above 0 or None, found 'abc'",
        ),
        ({"score_range": [1]}, "--score-range: expected 2 numbers, found"),
        ({"seed": True}, "--seed: expected an integer from 0 to 9223372036854775807, found True"),
    ],
)
def test_config_values_are_of_their_type(content, fault):
    with pytest.raises(ValueError, match="config.json: ") as raised:
        from_json(content, "config.json")
    assert fault in str(raised.value)
    assert (
        from_json({"finetune": {"kl_target": 3, "kl_weight": 1}}, "config.json").finetune.kl_target
        == 3
    )


def test_a_target_needs_a_weight_to_turn():
    with pytest.raises(SettingError, match="--finetune.kl-weight: expected a number above 0"):
        FinetuneConfig(kl_weight=0.0, kl_target=3.0)


def test_raters_with_a_line_each_make_one_text():
    triples = [Triple("t", "a", 0.25), Triple("t", "b", 1.0), Triple("t", "a", 0.75)]
    assert merged(triples) == [Triple("t", "a", 0.5), Triple("t", "b", 1.0)]
    assert len(pairs_from_scores(triples, 0.0)) == 2  # a text is not compared with itself


def test_a_large_group_of_comparisons_stays_in_training():
    chain = [Compared("t", str(index), str(index + 1)) for index in range(99)]
    for seed in range(4):
        train, heldout = split_comparisons([*chain, Compared("u", "a", "b")], 0.2, seed)
        assert (len(train), len(heldout)) == (99, 1)


@pytest.mark.skipif(os.name == "nt", reason="a terminal of Unix")
def test_page_up_is_not_an_answer(monkeypatch):
    import pty

    from minirlhf.feedback.screens import read_key

    ours, theirs = pty.openpty()
    monkeypatch.setattr(sys, "stdin", os.fdopen(theirs, "r"))
    keys = []
    for pressed in (b"\x1b[5~", b"4", b"\x1b[3~", b"2"):
        os.write(ours, pressed)
        keys.append(read_key())
    os.close(ours)
    assert keys == ["\x1b", "4", "\x1b", "2"]
