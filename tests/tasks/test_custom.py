"""Your own scored texts as a task: which texts and topics go where, and which files are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from minirlhf.feedback.records import FeedbackError, Triple, write_triples
from minirlhf.tasks import custom
from minirlhf.tasks.task import rated


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
