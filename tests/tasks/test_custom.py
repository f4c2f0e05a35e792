"""Your own scored texts as a task: which texts and topics go where, and which files are refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import test_sft as run_sft
from conftest import TINY

from minirlhf.cli.feedback import feedback as feedback_command
from minirlhf.cli.options import Feedback as FeedbackOptions
from minirlhf.feedback.conversation import Turn
from minirlhf.feedback.records import FeedbackError, Triple, write_triples
from minirlhf.models.reward_model import RewardModel
from minirlhf.models.transformer import TransformerConfig
from minirlhf.runs import run_feedback
from minirlhf.runs.folder import Run
from minirlhf.stats import correlation
from minirlhf.tasks import custom
from minirlhf.tasks.task import rated
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.batches import Split
from minirlhf.training.train_reward_model import ScoredTexts, predict, train_reward_model


def scored_file(folder: Path, topics: int, texts: int) -> Path:
    """Texts with "good" are good, the others are not."""
    triples = []
    for topic in range(topics):
        for number in range(texts):
            word, score = ("good", 0.9) if number % 2 else ("bad", 0.1)
            triples.append(Triple(f"topic {topic}", f"a {word} text, the {number}th", score))
    write_triples(folder / "own.jsonl", triples)
    return folder / "own.jsonl"


def test_a_fifth_of_the_topics_is_held_out_and_the_judge_has_texts_of_its_own(tmp_path):
    task = custom.load(scored_file(tmp_path, topics=10, texts=12), (1.0, 5.0), seed=0)
    assert len(task.train_prompts) == 8 and len(task.heldout_prompts) == 2
    assert not set(task.train_prompts) & set(task.heldout_prompts)
    assert {triple.topic for triple in task.feedback} == set(task.train_prompts)
    assert len(task.feedback) == 64  # two thirds of 8 * 12; the judge has the other third
    assert task.judge("topic 0", "a good text") > 0.7 > 0.3 > task.judge("topic 0", "a bad text")
    assert len(task.notes) == 1 and task.raters is None
    with pytest.raises(ValueError, match="^task .*: expected raters to ask, found none$"):
        rated(task, "topic 0", "a good text", seed=0)


def test_own_texts_are_a_third_of_the_corpus_and_a_tenth_is_kept_out_of_it(tmp_path):
    task = custom.load(scored_file(tmp_path, topics=5, texts=20), (1.0, 5.0), seed=0)
    own = [pair for pair in task.corpus if pair[0].startswith("topic ")]
    assert len(task.corpus_heldout) == 10 and not set(task.corpus_heldout) & set(own)
    assert len(set(own)) == 90 and 0.32 < len(own) / len(task.corpus) < 0.34


def test_with_fewer_than_five_topics_none_is_held_out(tmp_path):
    task = custom.load(scored_file(tmp_path, topics=4, texts=12), (1.0, 5.0), seed=0)
    assert task.train_prompts == task.heldout_prompts and len(task.train_prompts) == 4
    assert "fewer than five topics" in task.notes[1]


def test_too_few_texts_are_refused(tmp_path):
    path = scored_file(tmp_path, topics=1, texts=29)
    with pytest.raises(FeedbackError, match="own.jsonl: expected at least 30 triples .* found 29"):
        custom.load(path, (1.0, 5.0), seed=0)


def lines_file(folder: Path, triples: list[Triple]) -> Path:
    write_triples(folder / "own.jsonl", triples)
    return folder / "own.jsonl"


@pytest.mark.parametrize(
    "triples, words",
    [
        (
            [Triple(f"topic {n % 6}", f"text {n}", 0.5) for n in range(60)],
            "expected scores that differ, found all 60 equal: which of two texts is better cannot",
        ),
        (
            [Triple(f"topic {n % 6}", f"text {n}", float(n == 0)) for n in range(60)],
            "expected scores that differ, found the (reward model|judge)'s .* equal",
        ),
        (
            [Triple("tea", f"text {n % 10}", n / 60, rater=str(n)) for n in range(60)],
            "expected at least 30 triples of different texts .* found 10",
        ),
        (
            [Triple("tea", "Caf" + " " * n + "e", n / 60) for n in range(1, 60)],
            "expected at least 30 triples of different texts .* found 1$",
        ),
    ],
)
def test_nothing_is_trained_on_what_teaches_nothing(tmp_path, capsys, triples, words):
    """The summary of a file and a run on it come to the same verdict."""
    path = lines_file(tmp_path, triples)
    with pytest.raises(FeedbackError, match=f"own.jsonl: {words}") as caught:
        custom.load(path, (1.0, 5.0), seed=0)
    assert "\n" not in str(caught.value)
    feedback_command(FeedbackOptions("summary", path))
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "Cannot be trained on: " + str(caught.value).removeprefix(f"{path}: ")


def test_what_is_odd_is_told_before_training_and_in_the_summary(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(custom, "_corpus", lambda *_: ([], []))  # not tested here
    triples = [Triple(f"topic {n % 6}", f"text {n}", n / 60) for n in range(60)]
    triples += [Triple(" topic  0", " text 0", 0.5), Triple("Café", "a", 0.5)]
    triples += [Triple("Cafe\u0301", "b", 0.5)]
    path = lines_file(tmp_path, triples)
    task = custom.load(path, (1.0, 5.0), seed=0)
    assert len(set(task.train_prompts + task.heldout_prompts)) == 7  # no topic twice
    told = [warning.removeprefix(f"{path}: ") for warning in task.warnings]
    assert [warning.split(" written")[0] for warning in told[:2]] == ["2 topics are", "1 text is"]
    feedback_command(FeedbackOptions("summary", path))
    printed = capsys.readouterr().out
    assert all(f"warning: {warning}\n" in printed for warning in told)


def test_the_summary_says_that_there_is_nothing_to_rank(tmp_path, capsys):
    triples = [Triple(f"topic {n}", "text", n / 60) for n in range(60)]
    feedback_command(FeedbackOptions("summary", lines_file(tmp_path, triples)))
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("warning: --reward.loss ranking: expected texts on one topic")


def test_comparisons_of_ties_alone_are_refused(tmp_path):
    path = tmp_path / "c.jsonl"
    row = {"topic": "tea", "tie": True}
    lines = [row | {"better": f"a {n}", "worse": f"b {n}"} for n in range(40)]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    with pytest.raises(FeedbackError, match="c.jsonl: expected scores that differ, found all 80"):
        custom.load(path, (1.0, 5.0), seed=0)


# Conversations ------------------------------------------------------------------------------------

SHIPPED = dataclasses.replace(
    run_sft.PLAIN,
    context=192,
    base=Path("base_of_conversations"),
    learn_prompts=True,
    corpus=[((Turn("user", "Hello"),), "Hello, there.")] * 90,
)


def turns(number: int) -> list[dict]:
    first = [{"role": "user", "text": f"Why {number}?"}, {"role": "assistant", "text": "So."}]
    return [*first, {"role": "user", "text": "And?"}]


def written(folder: Path, lines: list[dict]) -> Path:
    path = folder / "own.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def scored_conversations(folder: Path) -> Path:
    lines = []
    for number in range(60):
        # A topic among them is a conversation of one turn: to a model it is the same.
        topic = f"Question {number % 2}?" if number < 6 else turns(number % 6)
        word, score = ("good", 5) if number % 4 < 2 else ("bad", 1)
        lines.append({"topic": topic, "text": f"{word} {number}", "score": score})
    return written(folder, lines)


def compared_conversations(folder: Path) -> Path:
    lines = []
    for number in range(60):
        better, worse = f"good {number}", f"bad {number}"
        lines.append({"topic": turns(number % 6), "better": better, "worse": worse})
    return written(folder, lines)


@pytest.mark.parametrize("make", [scored_conversations, compared_conversations])
def test_a_reward_model_learns_from_scored_or_compared_conversations(
    tmp_path, monkeypatch, capsys, make
):
    monkeypatch.setattr(custom.assistant, "load", lambda seed: SHIPPED)
    path = make(tmp_path)
    task = custom.load(path, (1.0, 5.0), seed=0)
    prompts = [*task.train_prompts, *task.heldout_prompts]
    assert all(isinstance(prompt, tuple) and prompt[-1].role == "user" for prompt in prompts)
    # The base of topics would not do: corpus, base and context are those of conversations.
    assert (task.context, task.base, task.learn_prompts) == (192, SHIPPED.base, True)
    assert {type(prompt) for prompt, _ in task.corpus} == {tuple}
    prompt = task.train_prompts[0]
    assert task.judge(prompt, "good 0") > 0.1 + task.judge(prompt, "bad 0")
    feedback_command(FeedbackOptions("summary", path))
    assert "Cannot be trained on" not in capsys.readouterr().out

    tokenizer = Tokenizer([bytes([value]) for value in range(256)])
    settings = dataclasses.replace(TINY.reward, steps=30, batch_size=16, evaluate_every=15)
    model = RewardModel(TransformerConfig(tokenizer.vocab_size, 96, 16, 1, 2))
    run = Run.create(tmp_path / "r", dataclasses.replace(TINY, reward=settings))
    train, heldout = run_feedback.split_feedback(run, task)
    split = Split(
        ScoredTexts(tokenizer, train, 96, task.comparisons),
        ScoredTexts(tokenizer, heldout, 96, task.heldout_comparisons),
    )
    trained = train_reward_model(model, split, settings, 0)
    for texts in (split.train, split.heldout):
        assert (correlation(predict(trained, texts), texts.scores) or 0) > 0.4


def test_faults_of_conversations_are_named(tmp_path):
    good = {"topic": turns(1), "better": "x", "worse": "y"}
    bad = turns(1)
    bad[0]["role"] = "assistant"
    lines = [good, good | {"topic": bad}, good | {"worse": "x"}, good | {"topic": []}]
    with pytest.raises(FeedbackError) as caught:
        custom.load(written(tmp_path, lines), (1.0, 5.0), seed=0)
    found = [fault.split("own.jsonl: ")[1] for fault in str(caught.value).splitlines()]
    assert [fault.split(", ")[0] for fault in found] == [
        'line 2: topic[0].role: expected "user"',
        "line 3: worse: expected another text than better",
        "line 4: topic: expected a text or a list of turns",
    ]
