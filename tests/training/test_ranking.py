"""Comparisons: read, split, turned into scores and made from them; the ranking loss; a reward model
that learns from them.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random

import pytest
import torch
from conftest import TINY
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_command import tiny_options

from minirlhf.cli.main import main
from minirlhf.config import RewardConfig
from minirlhf.feedback.records import (
    Comparison,
    FeedbackError,
    Triple,
    read_comparisons,
    read_feedback,
)
from minirlhf.feedback.splits import split_comparisons, triples_of_comparisons
from minirlhf.models.policy import Policy
from minirlhf.models.reward_model import RewardModel
from minirlhf.models.transformer import TransformerConfig
from minirlhf.tasks import custom
from minirlhf.tokenizer import Tokenizer, train_bpe
from minirlhf.training import ranking
from minirlhf.training.batches import Split
from minirlhf.training.log import METRICS, TrainLog
from minirlhf.training.ranking import (
    Pairs,
    pair_batch,
    pairs_as_given,
    pairs_from_scores,
    pairwise_accuracy,
    ranking_reward_loss,
    tied_ranking_loss,
)
from minirlhf.training.reward_objectives import (
    centre,
    heldout_ranking_loss,
)
from minirlhf.training.train_reward_model import ScoredTexts, predict, train_reward_model

CPU = torch.device("cpu")
GOOD = {"topic": "tea", "better": "Tea wakes people up.", "worse": "Tea is tea."}


# ---- files


def test_comparisons_are_read(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text(
        json.dumps(GOOD)
        + "\n\n"
        + json.dumps(GOOD | {"tie": True, "rater": "x", "provenance": "simulated"})
        + "\n"
    )
    assert (
        read_feedback(path).comparisons
        == read_comparisons(path)
        == [
            Comparison(*GOOD.values()),
            Comparison(*GOOD.values(), True, "simulated", "x"),
        ]
    )


def test_a_file_of_scores_or_none_holds_no_comparisons(tmp_path):
    with pytest.raises(FeedbackError, match="cannot be read"):
        read_feedback(tmp_path / "none")
    for content in ("not json", "[]", "", '"better"'):
        (tmp_path / "f").write_text(content + "\n")
        with pytest.raises(FeedbackError, match="expected (a|one) JSON object"):
            read_feedback(tmp_path / "f")
    (tmp_path / "f").write_text('{"topic": "tea", "text": "x", "score": 3}\n')
    feedback = read_feedback(tmp_path / "f")
    assert feedback.triples and not feedback.comparisons


@pytest.mark.parametrize(
    "change, fault",
    [
        ({"topic": " "}, 'topic: expected a text that is not empty, found " "'),
        ({"better": 3}, "better: expected a text that is not empty, found 3"),
        ({"worse": ...}, "worse: expected a text that is not empty, found no such field"),
        ({"worse": GOOD["better"]}, "worse: expected another text than better, found the same"),
        ({"tie": 1}, "tie: expected true or false, found 1"),
        ({"rater": None}, "rater: expected a text, found null"),
        (
            {"worse": "a\ud800"},
            'worse: expected whole characters, found half a surrogate pair in "a?"',
        ),
    ],
)
def test_a_wrong_field_of_a_comparison_is_named(tmp_path, change, fault):
    path = tmp_path / "c.jsonl"
    record = {key: value for key, value in (GOOD | change).items() if value is not ...}
    path.write_text("\n".join([json.dumps(GOOD), json.dumps(record), json.dumps(GOOD)]) + "\n")
    with pytest.raises(FeedbackError) as caught:
        read_comparisons(path)
    assert str(caught.value) == f"{path}: line 2: {fault}"


# ---- comparisons to scores, and the split


def test_scores_of_comparisons_are_shares_of_wins():
    comparisons = [
        Comparison("t", "a", "b"),
        Comparison("t", "a", "c"),
        Comparison("t", "b", "c", tie=True),
        Comparison("u", "a", "b"),
    ]
    scores = {
        (triple.topic, triple.text): triple.score for triple in triples_of_comparisons(comparisons)
    }
    assert scores == {
        ("t", "a"): 2.5 / 3,
        ("t", "b"): 1 / 3,
        ("t", "c"): 1 / 3,
        ("u", "a"): 0.75,
        ("u", "b"): 0.25,
    }


TEXTS = st.integers(0, 12).map(str)
MANY = st.lists(
    st.tuples(st.sampled_from("tu"), TEXTS, TEXTS)
    .filter(lambda c: c[1] != c[2])
    .map(lambda c: Comparison(*c)),
    min_size=1,
    max_size=30,
)


@settings(max_examples=100, deadline=None)
@given(MANY, st.floats(0.05, 0.9), st.integers(0, 3))
def test_no_text_is_on_both_sides_of_a_split(comparisons, share, seed):
    try:
        train, heldout = split_comparisons(comparisons, share, seed)
    except ValueError as error:
        assert "at least 2 groups" in str(error)
        return
    assert train and heldout and sorted(train + heldout, key=repr) == sorted(comparisons, key=repr)
    sides = [
        {(one.topic, text) for one in part for text in (one.better, one.worse)}
        for part in (train, heldout)
    ]
    assert not sides[0] & sides[1]
    again = split_comparisons(comparisons[::-1], share, seed)
    assert [sorted(part, key=repr) for part in again] == [
        sorted(part, key=repr) for part in (train, heldout)
    ]


def test_a_split_of_pairs_has_the_share_asked_for():
    comparisons = [Comparison("t", f"a{index}", f"b{index}") for index in range(100)]
    assert len(split_comparisons(comparisons, 0.3, 0)[1]) == 30
    assert split_comparisons(comparisons, 0.0, 0) == (comparisons, [])
    with pytest.raises(ValueError, match="heldout_share"):
        split_comparisons(comparisons, 1.0, 0)


# ---- scores to comparisons


def test_a_topic_with_very_many_texts_makes_a_part_of_its_pairs(monkeypatch):
    monkeypatch.setattr(ranking, "ALL_PAIRS_UP_TO", 10)
    monkeypatch.setattr(ranking, "PARTNERS", 3)
    pairs = pairs_from_scores([Triple("t", str(index), index / 20) for index in range(20)], 0.0)
    found = {frozenset(pair) for pair in zip(pairs.better.tolist(), pairs.worse.tolist())}
    assert len(pairs.better) == len(found) == 20 * 3 and (pairs.better > pairs.worse).all()
    assert found == {
        frozenset((index, (index + step) % 20)) for index in range(20) for step in (1, 2, 3)
    }


@pytest.mark.parametrize("min_gap", [0.0, 0.125, 0.5])
def test_pairs_from_scores_equal_a_loop(min_gap):
    generator = random.Random(0)
    triples = [
        Triple(generator.choice("tuv"), str(index), generator.randrange(9) / 8)
        for index in range(40)
    ]
    pairs = pairs_from_scores(triples, min_gap)
    found = {
        frozenset((b, w)): (b, w, tie)
        for b, w, tie in zip(*(part.tolist() for part in dataclasses.astuple(pairs)))
    }
    assert len(found) == len(pairs)
    for i, first in enumerate(triples):
        for j, second in enumerate(triples[:i]):
            gap = first.score - second.score
            if first.topic != second.topic or abs(gap) < min_gap:
                assert frozenset((i, j)) not in found
            elif gap == 0:
                assert found[frozenset((i, j))][2]
            else:
                assert found[frozenset((i, j))] == ((i, j) if gap > 0 else (j, i)) + (False,)


def test_no_pair_is_one_line():
    with pytest.raises(ValueError, match="expected two texts on one topic with scores 0.5 apart"):
        pairs_from_scores(
            [Triple("t", "a", 0.5), Triple("t", "b", 0.6), Triple("u", "c", 1.0)], 0.5
        )


def test_pairs_as_given():
    triples = [Triple("t", "b", 0.2), Triple("u", "a", 0.9), Triple("t", "a", 0.8)]
    pairs = pairs_as_given(
        triples, [Comparison("t", "a", "b"), Comparison("t", "b", "a", tie=True)]
    )
    assert (pairs.better.tolist(), pairs.worse.tolist(), pairs.tie.tolist()) == (
        [2, 0],
        [0, 2],
        [False, True],
    )
    with pytest.raises(ValueError, match="expected texts that are among the triples"):
        pairs_as_given(triples, [Comparison("t", "a", "z")])


def test_random_pairs_depend_on_seed_stage_and_step_only():
    pairs = pairs_from_scores([Triple("t", str(index), index / 50) for index in range(50)], 0.1)
    first = [pairs.random(8, 1, "a", step).better.tolist() for step in range(10)]
    assert (
        first
        == [pairs.random(8, 1, "a", step).better.tolist() for step in reversed(range(10))][::-1]
    )
    assert (
        first != [pairs.random(8, 1, "b", step).better.tolist() for step in range(10)]
        and len(pairs.random(8, 1, "a", 0)) == 8
    )


def test_pairwise_accuracy_by_hand():
    pairs = Pairs(
        torch.tensor([0, 1, 2, 0]),
        torch.tensor([1, 2, 3, 3]),
        torch.tensor([False, False, False, True]),
    )
    assert pairwise_accuracy(torch.tensor([0.9, 0.2, 0.2, 0.5]), pairs) == pytest.approx(
        (1 + 0.5 + 0) / 3
    )


# ---- the loss


def test_a_tie_pulls_two_logits_together_and_a_win_apart():
    better, worse = (
        torch.tensor([2.0, 2.0, 0.5], requires_grad=True),
        torch.tensor([-1.0, -1.0, 0.5], requires_grad=True),
    )
    tie = torch.tensor([False, True, True])
    loss = tied_ranking_loss(better, worse, tie)
    softplus = lambda x: math.log1p(math.exp(x))  # noqa: E731
    assert loss.item() == pytest.approx(
        (softplus(-3) + (softplus(3) + softplus(-3)) / 2 + math.log(2)) / 3
    )
    loss.backward()
    assert better.grad[0] < 0 < better.grad[1] and better.grad[2] == 0
    torch.testing.assert_close(worse.grad, -better.grad)


TEXT_PAIRS = [
    ("tea", "Tea wakes people up."),
    ("tea", "Tea."),
    ("sun", "It is so."),
    ("sun", "The sun is far away and hot."),
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_bpe([f"{topic} {text}" for topic, text in TEXT_PAIRS], 270))


def model_of(tokenizer: Tokenizer, width: int = 16) -> RewardModel:
    torch.manual_seed(0)
    model = RewardModel.from_policy(
        Policy(TransformerConfig(tokenizer.vocab_size, context=64, width=width, layers=1, heads=2))
    )
    torch.nn.init.normal_(model.score.weight)
    return model


def test_ranking_reward_loss_equals_a_loop(tokenizer):
    model = model_of(tokenizer).double()
    texts = ScoredTexts(tokenizer, [Triple(topic, text, 0.5) for topic, text in TEXT_PAIRS], 64)
    pairs = Pairs(torch.tensor([0, 2]), torch.tensor([1, 3]), torch.tensor([False, True]))
    batch = pair_batch(texts, pairs, CPU)

    def logit(row: int, t: int) -> float:
        """f of the first t tokens of a text, through a pass of its own and back through the
        sigmoid.
        """
        topic, text = TEXT_PAIRS[row]
        ids = tokenizer.encode_text(text)[:t]
        score = float(model(torch.tensor([tokenizer.encode_prompt(topic) + ids]))[0, -1].detach())
        return math.log(score / (1 - score))

    lengths = [len(tokenizer.encode_text(text)) for _, text in TEXT_PAIRS]
    losses, whole = [], []
    for better, worse, tie in ((0, 1, False), (2, 3, True)):
        longest = max(lengths[better], lengths[worse])
        for t in range(1, longest + 1):
            gap = logit(better, min(t, lengths[better])) - logit(worse, min(t, lengths[worse]))
            lost = [math.log1p(math.exp(-gap)), math.log1p(math.exp(gap))]
            losses.append(sum(lost) / 2 if tie else lost[0])
        whole.append(losses[-1])
    every = ranking_reward_loss(model, batch, pairs.tie, "every-prefix").item()
    assert every == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert ranking_reward_loss(model, batch, pairs.tie, "final").item() == pytest.approx(
        sum(whole) / 2, abs=1e-5
    )
    assert heldout_ranking_loss(predict(model.float(), texts), pairs) == pytest.approx(
        sum(whole) / 2, abs=1e-4
    )


def test_centre_moves_the_level_and_no_difference(tokenizer):
    model = model_of(tokenizer)
    texts = ScoredTexts(tokenizer, [Triple(topic, text, 0.5) for topic, text in TEXT_PAIRS], 64)
    with torch.no_grad():
        model.score.bias.fill_(1.5)
    before = torch.logit(predict(model, texts))
    centre(model, texts)
    after = torch.logit(predict(model, texts))
    assert after.mean().abs() < 1e-5 and before.mean().abs() > 0.5
    torch.testing.assert_close(after - after[0], before - before[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("given_as", ["scores", "comparisons"])
def test_a_reward_model_learns_to_rank(given_as):
    """Texts that name "gold" are better.

    After 60 steps on comparisons the order of texts never seen is right.
    """
    generator = random.Random(0)

    def triples(count: int) -> list[Triple]:
        made = []
        for index in range(count):
            words = generator.choices(["tin", "iron", "lead", "zinc"], k=6)
            if index % 2:
                words[generator.randrange(6)] = "gold"
            made.append(
                Triple(
                    f"topic {index % 3}", f"{' '.join(words)} {index}.", 0.75 if index % 2 else 0.25
                )
            )
        return made

    train, heldout = triples(120), triples(60)
    tokenizer = Tokenizer(train_bpe([triple.text for triple in train], 300))

    def texts(part: list[Triple]) -> ScoredTexts:
        if given_as == "scores":
            return ScoredTexts(tokenizer, part, 64)
        pairs = pairs_from_scores(part, 0.1)
        compared = [
            Comparison(part[b].topic, part[b].text, part[w].text)
            for b, w in zip(pairs.better, pairs.worse)
        ]
        return ScoredTexts(
            tokenizer, [dataclasses.replace(one, score=0.5) for one in part], 64, compared
        )  # scores say nothing

    log = TrainLog("reward")
    model = model_of(tokenizer, 32)
    config = RewardConfig(
        loss="ranking", steps=60, batch_size=32, warmup=5, evaluate_every=4, patience=15
    )
    train_reward_model(model, Split(texts(train), texts(heldout)), config, TINY.seed, log)
    predicted = predict(model, texts(heldout))
    assert pairwise_accuracy(predicted, pairs_from_scores(heldout, 0.1)) > 0.95
    assert predicted.min() >= 0 and predicted.max() <= 1 and 0.3 < predicted.mean() < 0.7
    rows = log.tables.read(METRICS)
    assert (
        rows[-1]["heldout_ranking_nats"] < rows[0]["heldout_ranking_nats"]
        and "loss_ranking_nats" in rows[0]
    )


# ---- your own comparisons


def comparisons_file(path, count: int = 60):
    """People's comparisons as `rate` writes them: the text with a reason wins."""
    lines = [
        json.dumps(
            {
                "topic": f"topic {index % 3}",
                "better": f"It is so, because {index} people saw it.",
                "worse": f"Many things are so, {index} of them.",
                "tie": index % 10 == 0,
            }
        )
        for index in range(count)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_own_comparisons_are_shared_out(tmp_path):
    task = custom.load(comparisons_file(tmp_path / "c.jsonl"), (1, 5), 0)
    texts = [
        {(one.topic, text) for one in part for text in (one.better, one.worse)}
        for part in (task.comparisons, task.heldout_comparisons)
    ]
    assert texts == [
        {(triple.topic, triple.text) for triple in part}
        for part in (task.feedback, task.heldout_feedback)
    ]
    assert (
        not texts[0] & texts[1]
        and len(task.comparisons) == 32
        and len(task.heldout_comparisons) == 8
    )
    better, worse = "It is so, because 777 people saw it.", "Many things are so, 777 of them."
    assert task.judge("topic 1", better) > task.judge("topic 1", worse)


@pytest.mark.usefixtures("small_openings_only")
def test_demo_on_own_comparisons(tmp_path, capsys):
    path = comparisons_file(tmp_path / "c.jsonl")
    main(
        [
            "demo",
            "--feedback",
            str(path),
            "--loss",
            "ranking",
            "--run",
            "c",
            "--runs",
            str(tmp_path),
            *tiny_options(),
        ]
    )
    printed = capsys.readouterr().out
    assert (
        "word regression on held-out comparisons" in printed
        and "share of its comparisons" in printed
    )
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    assert config["reward"]["loss"] == "ranking"
