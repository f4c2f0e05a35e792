"""Splits keep what the loss and the statistics need; texts that look the same stay together."""

from __future__ import annotations

import random

import pytest

from minirlhf.feedback.duplicates import normal, remarks, with_one_name_per_topic
from minirlhf.feedback.measurable_split import has_pair, split_to_measure
from minirlhf.feedback.records import Comparison, Feedback, Triple
from minirlhf.feedback.splits import (
    split_comparisons,
    split_triples,
    without,
)
from minirlhf.training.ranking import pairs_from_scores

COMPOSED, DECOMPOSED = "Café", "Cafe\u0301"


def scored(topics: int, texts: int, seed: int = 0, levels: int = 5) -> list[Triple]:
    """Texts with random scores on a scale of `levels` steps."""
    draw = random.Random(seed)
    triples = []
    for topic in range(topics):
        for number in range(texts):
            score = draw.randrange(levels) / (levels - 1)
            triples.append(Triple(f"topic {topic}", f"text {number}", score))
    return triples


# ---- what the loss and the statistics need


@pytest.mark.parametrize(
    "topics, texts", [(6, 5), (16, 2), (40, 2), (1, 60), (2, 16), (3, 100), (8, 3)]
)
def test_both_sides_of_a_split_have_pairs(topics, texts):
    """For each seed, unlike texts drawn one by one: of those, few have a partner."""
    for seed in range(20):
        triples = scored(topics, texts, seed)
        train, heldout = split_to_measure(triples, 0.05, seed, min_gap=0.125)
        assert len(pairs_from_scores(train, 0.125)) and len(pairs_from_scores(heldout, 0.125))
        assert len(heldout) >= 4 and len(train) >= len(heldout)
        assert sorted(train + heldout, key=str) == sorted(triples, key=str)
        assert split_to_measure(triples, 0.05, seed, min_gap=0.125) == (train, heldout)


@pytest.mark.parametrize(
    "texts, share, heldout",
    [(400, 0.05, 20), (1000, 0.05, 50), (60, 0.05, 12), (100, 0.05, 20), (100, 0.3, 30), (6, 0, 3)],
)
def test_the_held_out_part_is_large_enough_to_measure_on(texts, share, heldout):
    assert len(split_to_measure(scored(1, texts), share, 0)[1]) == heldout


def test_a_split_that_is_large_enough_is_the_plain_one():
    triples = scored(4, 300)
    assert split_to_measure(triples, 0.05, 3, 0.125) == split_triples(triples, 0.05, 3)


def test_two_pairs_on_one_topic_are_shared_out():
    """Scores 0, .1, .2, .3 with a gap of .2: only 0 with .2 and .1 with .3 serve both sides."""
    triples = [Triple("t", str(number), number / 10) for number in range(4)]
    train, heldout = split_to_measure(triples, 0.05, 0, min_gap=0.2)
    assert sorted(one.score for one in heldout) in ([0.0, 0.2], [0.1, 0.3]) and len(train) == 2


@pytest.mark.parametrize(
    "triples, words",
    [
        (
            [Triple(f"topic {n}", "x", n / 40) for n in range(40)],
            r"no topic has two such texts .* \(40 of 40 topics have one text only",
        ),
        (
            [Triple("t", str(n), n % 2 / 10) for n in range(40)],
            r"no topic has two such texts among the 40 .* \(0 of 1 topics",
        ),
        (
            [Triple("t", "a", 0.0), Triple("t", "b", 1.0)]
            + [Triple(f"topic {n}", "x", 0.5) for n in range(40)],
            "there are too few such texts to have some on both sides",
        ),
    ],
)
def test_the_true_cause_is_named_where_pairs_cannot_be(triples, words):
    with pytest.raises(ValueError, match=f"--reward.loss ranking: .*0.125.*{words}") as caught:
        split_to_measure(triples, 0.05, 0, min_gap=0.125)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("gap", [0.0, 0.125, 0.5])
def test_has_pair_agrees_with_the_pairs_themselves(gap):
    draw = random.Random(0)
    for _ in range(100):
        triples = [
            Triple(draw.choice("tu"), draw.choice("abc"), draw.randrange(5) / 8)
            for _ in range(draw.randrange(1, 5))
        ]
        try:
            found = len(pairs_from_scores(triples, gap)) > 0
        except ValueError:
            found = False
        assert has_pair(triples, gap) == found, triples


# ---- texts that look the same


def variants(number: int) -> list[Triple]:
    """Five ways to write one text on one topic."""
    return [
        Triple(COMPOSED, f"{COMPOSED} number {number}.", 0.5),
        Triple(DECOMPOSED, f"{COMPOSED} number {number}.", 0.5),
        Triple(f" {COMPOSED}", f" {DECOMPOSED} number {number}.", 0.5),
        Triple(COMPOSED, f"{COMPOSED}  number {number}.\n", 0.5),
        Triple(COMPOSED, f"{COMPOSED}\u00a0number {number}.", 0.5),
    ]


def test_variants_of_a_text_are_never_on_both_sides():
    triples = [triple for number in range(12) for triple in variants(number)]
    for seed in range(10):
        train, heldout = split_triples(triples, 0.3, seed)
        keys = [{normal(one.text) for one in side} for side in (train, heldout)]
        assert not keys[0] & keys[1] and len(keys[1]) == 4 and len(heldout) == 20
    assert without(triples, variants(3)[:1]) == [one for one in triples if "3" not in one.text]
    with pytest.raises(ValueError, match="at least 2 different topics to split, found 1"):
        split_triples(triples, 0.3, 0, by="topic")


def test_variants_link_comparisons():
    pairs = [
        Comparison(one.topic, one.text, f"other {number}") for number, one in enumerate(variants(0))
    ]
    pairs += [Comparison("t", f"a {number}", f"b {number}") for number in range(5)]
    for seed in range(10):
        train, heldout = split_comparisons(pairs, 0.5, seed)
        sides = [
            side
            for side in (train, heldout)
            if any("number 0" in normal(one.better) for one in side)
        ]
        assert len(sides) == 1 and len(train) + len(heldout) == 10


def test_what_a_file_holds_twice_is_counted():
    triples = [*variants(0), Triple("tea", f"{COMPOSED} number 0.", 0.2)]
    found = remarks(Feedback(triples=triples))
    assert [line.split(",")[0] for line in found] == [
        "1 topic is written in several ways that differ only in white space or Unicode composition",
        "1 text is written in several ways that differ only in white space or Unicode composition",
        "1 text is under several topics",
        "4 lines repeat a topic and text of another line and name no rater",
    ]
    assert found[-1].endswith(": each counts as one more rating")
    twice = remarks(Feedback(triples=[Triple("tea", "a leaf", 0.5), Triple("tea", "a leaf", 0.2)]))
    assert twice == [
        "1 line repeats a topic and text of another line and names no rater, "
        'such as "a leaf": each counts as one more rating'
    ]
    named = [Triple("tea", "x", 0.5, rater=name) for name in "ab"]
    assert remarks(Feedback(triples=named)) == []
    same = [Comparison("tea", COMPOSED, DECOMPOSED)]
    assert remarks(Feedback(comparisons=same))[-1] == (
        "1 comparison is between two texts that look the same"
    )


def test_a_topic_has_one_name():
    feedback = Feedback(triples=variants(0), comparisons=[Comparison(DECOMPOSED, "a", "b")])
    renamed = with_one_name_per_topic(feedback)
    assert {one.topic for one in renamed.triples + renamed.comparisons} == {COMPOSED}
    assert [one.text for one in renamed.triples] == [one.text for one in variants(0)]
