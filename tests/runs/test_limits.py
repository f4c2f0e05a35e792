"""The user's texts are compared with the run's limits before training."""

from __future__ import annotations

import dataclasses
import json
import os
import threading

import pytest
from conftest import TINY

from minirlhf.runs import pipeline, plan, products, run_task, workplace
from minirlhf.runs.folder import Run
from minirlhf.runs.limits import length_warning
from minirlhf.tasks import custom
from minirlhf.tokenizer import Tokenizer

LETTERS = Tokenizer([bytes([value]) for value in range(256)])  # a token is a byte


@pytest.fixture
def no_corpus(monkeypatch):
    """Composing the corpus takes a second and is not what is tested here."""
    monkeypatch.setattr(custom, "_corpus", lambda shipped, triples, seed: ([], []))


def pairs_of(*lengths: int) -> list[tuple[str, str]]:
    """Texts of that many tokens: a space, letters and the end; the prompt "tea" has 4 tokens."""
    return [("tea", "x" * (length - 2)) for length in lengths]


def test_what_fits_is_not_mentioned():
    assert length_warning(LETTERS, pairs_of(10, 64), context=68, max_new_tokens=64) is None


@pytest.mark.parametrize(
    "context, max_new_tokens, words, advice",
    [
        (
            96,
            64,
            "of 3 scored texts 2 have more than --finetune.max-new-tokens 64 tokens",
            "raise --finetune.max-new-tokens to 75",
        ),
        (
            70,
            64,
            "; 2 have, with their topic, more than --model.context 70 and lose their end",
            "raise --finetune.max-new-tokens to 75 and --model.context to 79 (with --from-scratch)",
        ),
        (78, 75, "of 3 scored texts 1 have, with their topic", "raise --model.context to 79 (with"),
    ],
)
def test_the_settings_to_raise_are_named(context, max_new_tokens, words, advice):
    warning = length_warning(LETTERS, pairs_of(10, 70, 75, 75), context, max_new_tokens)
    assert words in warning and advice in warning and "\n" not in warning


def test_a_run_on_own_texts_says_so_before_it_trains(tmp_path, small_task, monkeypatch, capsys):
    finetune = dataclasses.replace(TINY.finetune, max_new_tokens=8)
    config = dataclasses.replace(TINY, feedback=tmp_path / "mine.jsonl", finetune=finetune)
    run = Run.create(tmp_path / "run", config)
    said = []
    monkeypatch.setattr(pipeline, "tokenizer_of", lambda run, task: LETTERS)

    def pretrain(*_):
        said.append(capsys.readouterr().err)
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "pretrain", pretrain)
    with pytest.raises(KeyboardInterrupt):
        pipeline.pretrain_stage(run, small_task)
    (words,) = said
    assert words.startswith("warning: of ") and "--finetune.max-new-tokens 8 tokens" in words


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes")
def test_a_run_on_a_pipe_keeps_what_came_out_of_it(tmp_path, no_corpus):
    """`--feedback <(...)`: checked, then kept in the run folder; it can be read only once."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    rows = [{"topic": f"t {n % 6}", "text": f"text {n}", "score": 1 + n % 5} for n in range(60)]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    writer = threading.Thread(target=pipe.write_text, args=(content,), daemon=True)
    writer.start()
    config = dataclasses.replace(TINY, feedback=pipe)
    todo, task = plan.check(plan.plan_new(tmp_path / "run", config, ("reward",), False, False))
    run = workplace.prepare(todo)
    writer.join(timeout=10)
    assert (run.path / "feedback.jsonl").read_text() == content
    assert run_task.task_of(run).feedback == task.feedback and len(task.feedback) == 33


def test_a_file_without_pairs_is_refused_before_the_folder_is_made(tmp_path, no_corpus):
    rows = [{"topic": f"t {n}", "text": f"text {n}", "score": 1 + n % 5} for n in range(60)]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reward = dataclasses.replace(TINY.reward, loss="ranking")
    config = dataclasses.replace(TINY, feedback=path, reward=reward)
    todo = plan.plan_new(tmp_path / "run", config, products.STAGES, False, False)
    with pytest.raises(ValueError, match="--reward.loss ranking: .* no topic has two such texts"):
        plan.check(todo)
    assert not (tmp_path / "run").exists()
