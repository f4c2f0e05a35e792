"""The task `assistant`: what a run gets, and a whole run of a few steps."""

from __future__ import annotations

import dataclasses
import json
import random

import pytest
from conftest import TINY

from minirlhf.cli import train
from minirlhf.config import SIZES, ModelConfig, SFTConfig, preset
from minirlhf.feedback.conversation import exchanges, in_words
from minirlhf.feedback.person import PersonRaters
from minirlhf.feedback.rankings import read_rankings
from minirlhf.feedback.records import Triple, read_triples, write_triples
from minirlhf.feedback.splits import split_triples, without
from minirlhf.runs import pipeline, products, run_feedback, run_task
from minirlhf.runs.base import SHIPPED, read_base
from minirlhf.runs.folder import Run
from minirlhf.runs.start import settle_start
from minirlhf.runs.summary import CORPUS_TEXTS
from minirlhf.tasks.assistant import compose
from minirlhf.tasks.assistant import task as assistant
from minirlhf.tasks.assistant.good import good
from minirlhf.tasks.assistant.items import KINDS
from minirlhf.tasks.load import load_task
from minirlhf.tasks.task import Task, rated
from minirlhf.training.batches import EncodedTexts, corpus_of
from minirlhf.training.pretrain import heldout_loss
from minirlhf.training.ranking import pairs_from_scores
from minirlhf.training.ratings import RatingRounds, triple_of


@pytest.fixture(scope="module")
def task() -> Task:
    """The task with a part of its prompts: its own code on fewer of everything."""
    with pytest.MonkeyPatch.context() as patch:
        for name, size in (
            ("TRAIN_PROMPTS", 170),
            ("HELDOUT_PROMPTS", 68),
            ("PHRASING_PROMPTS", 68),
            ("DEMONSTRATIONS", 51),
            ("HELDOUT_SIZE", 40),
        ):
            patch.setattr(assistant, name, size)
        return load_task("assistant", 0, 300)


@pytest.fixture(scope="module")
def feedback(task) -> list[Triple]:
    """Two scored answers to each of some conversations."""
    answers = [answer for _, answer in task.demonstrations]
    prompts = zip(task.train_prompts[:50], answers, strict=False)
    return [
        rated(task, prompt, answer, 0)
        for place, (prompt, own) in enumerate(prompts)
        for answer in (own, answers[place - 1])
    ]


def test_prompts_are_conversations_that_wait_for_an_answer(task):
    prompts = [*task.train_prompts, *task.heldout_prompts]
    prompts += [prompt for prompt, _ in [*task.corpus, *task.corpus_heldout, *task.demonstrations]]
    assert all(isinstance(prompt, tuple) for prompt in prompts)
    lengths = {len(exchanges(prompt)) for prompt in prompts}  # raises if it does not wait
    assert lengths >= {0, 1, 2}
    assert not set(task.train_prompts) & set(task.heldout_prompts)
    assert len(task.corpus) == 300 and not set(task.corpus) & set(task.corpus_heldout)


def test_a_good_answer_pleases_judge_and_raters(task):
    rng = random.Random(0)
    items = compose.prompts(170, assistant.DATA_SEED, "train")
    for item in items[:34]:
        prompt, answer = item.conversation, good(item, rng)
        assert prompt in task.train_prompts
        assert task.judge(prompt, answer) > 0.8 and task.judge(prompt, "") == 0
        triple = rated(task, prompt, answer, 0)
        assert triple.score > rated(task, prompt, "?", 0).score
        assert triple.provenance == "simulated" and len(triple.ratings) == 3
    with pytest.raises(ValueError, match="expected one of the task's, found another"):
        task.judge((), "")


def test_one_question_is_one_item():
    """The judge finds the item by its conversation: two items must not ask the same."""
    items = [item for split in compose.SPLITS for item in compose.prompts(680, 1, split)]
    by_words: dict = {}
    for item in items:
        same = by_words.setdefault(item.conversation, item)
        assert (same.kind, same.about, same.said, same.source) == (
            item.kind,
            item.about,
            item.said,
            item.source,
        )


def test_scored_answers_survive_files(feedback, tmp_path):
    """As the ratings of a run do: in JSONL files and in a checkpoint."""
    path = tmp_path / "ratings.jsonl"
    write_triples(path, feedback)
    back = read_triples(path, conversations=True)
    assert [(one.topic, one.text) for one in back] == [(one.topic, one.text) for one in feedback]
    # Where topics are expected, such a file is refused: the error says so.
    with pytest.raises(ValueError, match="topic: expected a text that is not empty, found a list"):
        read_triples(path)
    line = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    line["topic"][0]["role"] = "assistant"
    path.write_text(json.dumps(line) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r'line 1: topic\[0\].role: expected "user"'):
        read_triples(path, conversations=True)
    row = json.loads(json.dumps(checkpoint_row(feedback[0])))
    assert triple_of(row) == feedback[0]


def test_answers_to_one_conversation_are_compared_and_split_as_texts_on_a_topic(feedback):
    as_topics = [dataclasses.replace(triple, topic=in_words(triple.topic)) for triple in feedback]
    for given, wanted in zip(
        vars(pairs_from_scores(feedback, 0.25)).values(),
        vars(pairs_from_scores(as_topics, 0.25)).values(),
        strict=True,
    ):
        assert given.tolist() == wanted.tolist()
    for by in ("text", "topic"):
        train, heldout = split_triples(feedback, 0.2, 0, by)
        assert len(train) + len(heldout) == len(feedback) and heldout
        assert not {one.topic for one in train} & {one.topic for one in heldout} or by == "text"
        assert without(feedback, heldout) == train
    # Loose white space makes no other conversation.
    first = feedback[0]
    loose = tuple(dataclasses.replace(turn, text=f" {turn.text} ") for turn in first.topic)
    assert without([dataclasses.replace(first, topic=loose)], [first]) == []


def checkpoint_row(triple: Triple) -> dict:
    rounds = RatingRounds.__new__(RatingRounds)
    rounds.refits, rounds.collected = 0, [triple]
    return rounds.state_dict()["collected"][0]


def test_the_context_holds_a_conversation(task):
    settled = settle_start(dataclasses.replace(TINY, model=ModelConfig()), task)
    assert settled.model.context == 192
    chosen = dataclasses.replace(TINY, model=ModelConfig(context=120))
    assert settle_start(chosen, task).model.context == 120
    # It has a base of its own; a model of topics is too small for it.
    small = settle_start(preset("small", "assistant"), task)
    assert small.model.context == 192
    assert small.pretrain.start == "base" and small.pretrain.steps == 0
    based = dataclasses.replace(SIZES["small"].pretrain, base=SHIPPED)
    with pytest.raises(ValueError, match="--base: expected .* context of at least 192 .* found 96"):
        settle_start(dataclasses.replace(SIZES["small"], pretrain=based), task)


def test_a_person_scores_answers_to_conversations_unless_they_are_ranked(
    task, tmp_path, monkeypatch, capsys
):
    run = Run.create(tmp_path / "r", TINY)
    ranked = dataclasses.replace(task, ranker=lambda prompt, answers, seed: [1] * len(answers))
    with pytest.raises(ValueError, match="--person: .* found assistant, whose answers are ranked"):
        run_task.with_raters(run, ranked, "me")
    monkeypatch.setattr(PersonRaters.__init__, "__defaults__", (iter("2").__next__,))
    for _ in range(2):  # the second time the answer is known from the file
        asked = run_task.with_raters(run, dataclasses.replace(task, ranker=None), "me")
        triple = rated(asked, task.train_prompts[0], "So.", 0)
        assert (triple.ratings, triple.provenance) == ((2.0,), "people")
    assert capsys.readouterr().out.count("User: ") == 1
    (back,) = read_triples(run.path / "ratings.jsonl", conversations=True)
    assert (back.topic, back.rater) == (task.train_prompts[0], "me")


def test_a_run_of_a_few_steps(task, tmp_path, capsys):
    """All five stages on conversations, with rankings on the way, to the report."""
    config = dataclasses.replace(
        TINY,
        task="assistant",
        model=ModelConfig(vocab_size=300, context=192, width=16, layers=1, heads=2),
        pretrain=dataclasses.replace(TINY.pretrain, steps=2, batch_size=4, evaluate_every=2),
        sft=SFTConfig(steps=2, batch_size=4, warmup=1, evaluate_every=1),
        reward=dataclasses.replace(
            TINY.reward,
            ranked_prompts=12,
            ranked_heldout=6,
            steps=2,
            batch_size=8,
            evaluate_every=1,
            heldout_share=0.5,
        ),
        finetune=dataclasses.replace(
            TINY.finetune,
            updates=2,
            batch_size=4,
            max_new_tokens=8,
        ),
        evaluate=dataclasses.replace(TINY.evaluate, samples=4),
    )
    run = Run.create(tmp_path / "r", config)
    for stage in products.STAGES:
        pipeline.STAGE_FUNCTIONS[stage](run, task)
        assert run.is_done(stage)
    summary = json.loads((run.path / "summary.json").read_text(encoding="utf-8"))
    assert summary["ratings"]["shipped"] == 0 and summary["ratings"]["raters"] == "simulated"
    assert summary["reward_model"]["rankings"] == 12
    assert summary["reward_model"]["pairs_right"]["pairs"] > 0
    assert len(read_rankings(run.path / "rankings.jsonl")) == 12
    assert not (run.path / "first_ratings.jsonl").exists() and not run.read("collected.jsonl")
    assert set(summary["seconds"]) == {*products.STAGES, "total"}
    assert all(isinstance(row["topic"], str) for row in run.read("samples.jsonl"))
    assert run_feedback.first_ratings(run, task) == []
    train.print_summary(run.path)
    told = capsys.readouterr().out
    assert "Rankings: 4 answers to each of 12 prompts, by simulated raters." in told
    assert "share of pairs in the right order" in told and "MSE" not in told
    check_evaluation(summary, task)
    rows = [row for row in run.read("samples.jsonl") if not row["when"].startswith("step")]
    assert all(row["turns"][-1]["role"] == "user" and row["kind"] in KINDS for row in rows)
    assert {row["when"] for row in rows} == {"base", "before", "after"}
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "Supervised fine-tuning" in page and "simulated" in page.lower()
    for title in ("Against the model before", "Kinds of instruction", "Refusals", "Alignment tax"):
        assert f"<h2>{title}</h2>" in page
    assert "4 answers to each of 12 prompts were ranked." in page
    assert "unseen phrasings" in told and "harmless requests answered" in told
    assert "Loss on the pretraining corpus" in told


def check_evaluation(summary: dict, task: Task) -> None:
    """Every part of the evaluation, each with its interval: base, SFT and tuned model."""
    for split in ("train", "heldout", "phrasings"):
        part = summary[split]
        assert part["win_rate"]["n"] == part["judge_base"]["n"] == 4
        assert set(part["kinds"]) <= set(KINDS)
        for one in part["kinds"].values():
            assert {"base", "before", "after", "n"} == set(one)
    shares = summary["refusals"]
    assert list(shares) == ["base", "before", "after"]
    for one in shares.values():
        assert one["refused"]["n"] == one["answered"]["n"] == 2
        assert 0 <= one["answered"]["low"] <= one["answered"]["high"] <= 1
    assert list(summary["corpus_loss"]) == ["base", "sft", "tuned"]
    texts = min(len(task.corpus_heldout), CORPUS_TEXTS)
    assert all(loss["n"] == texts for loss in summary["corpus_loss"].values())
    assert set(summary["corpus_loss_rise"]) == {"sft", "tuned"}


def test_the_shipped_base(task):
    """It is what its card says: checked files, at most 6 MB, and the loss that was written down."""
    base = read_base(task.base)
    assert base.facts["task"] == "assistant"
    assert sum(file.stat().st_size for file in base.folder.iterdir()) <= 6_000_000
    card = (base.folder / "README.md").read_text(encoding="utf-8")
    assert base.facts["command"] in card and "conversations" in card
    corpus = corpus_of(task)
    texts = EncodedTexts(base.tokenizer(), corpus.heldout, 192, corpus.learn_prompts)
    loss = heldout_loss(base.policy(), texts)
    # 40 of the task's held-out texts: its own held-out loss within sampling error.
    assert abs(loss - base.facts["heldout_loss_nats_per_token"]) < 0.1


def test_prompts_of_the_evaluation_are_kept_from_tuning(task):
    unseen, safety = task.more_prompts["phrasings"], task.safety
    shown = {prompt for prompt, _ in task.demonstrations} | set(task.train_prompts)
    assert len(unseen) > 50 and not shown & set(unseen)
    assert len(safety.harmful) == len(safety.harmless) == 75  # 15 requests in 5 phrasings
    assert not shown & {*safety.harmful, *safety.harmless}
    for prompts, kind in ((safety.harmful, "harmful"), (safety.harmless, "harmless")):
        assert {task.kind_of(prompt) for prompt in prompts} == {kind}
    rng = random.Random(0)
    for item in compose.prompts(20, 1, "heldout", ("harmful",)):
        assert safety.refused(good(item, rng)) and not safety.answered(good(item, rng))
    for item in compose.prompts(20, 1, "heldout", ("harmless",)):
        assert safety.answered(good(item, rng)) and not safety.refused(good(item, rng))
