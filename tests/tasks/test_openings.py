"""The task `openings`: composer, judge, simulated raters and the shipped files."""

from __future__ import annotations

import json
import random
import re
import statistics
import sys
from collections import Counter

import pytest

from minirlhf.tasks.load import load_task
from minirlhf.tasks.openings import compose
from minirlhf.tasks.openings import task as openings
from minirlhf.tasks.openings.judge import explain, judge
from minirlhf.tasks.openings.knowledge import DATA, PARTS, Topic, knowledge
from minirlhf.tasks.openings.raters import rate

TOPICS = knowledge()
TRAIN = [topic for topic in TOPICS if topic.split == "train"]
HELDOUT = [topic for topic in TOPICS if topic.split == "heldout"]


def rubric(topic: Topic, text: str) -> float:
    return explain(topic.topic, text)["rubric"]


def sentence(*clauses: str) -> str:
    return compose.capitalised(", ".join(clauses)) + "."


def claim(topic: Topic) -> str:
    return sentence(f"{topic.subjects[0]} {topic.effects[0]} because {topic.reasons[0]}")


def pearson(x: list[float], y: list[float]) -> float:
    mx, my = statistics.fmean(x), statistics.fmean(y)
    covariance = sum((a - mx) * (b - my) for a, b in zip(x, y))
    return covariance / (sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y)) ** 0.5


@pytest.fixture(scope="module")
def shipped() -> list[dict]:
    lines = (DATA / "openings.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


# --- knowledge and composer ---


def test_forty_topics_with_different_names():
    assert len(TRAIN) >= 32 and len(HELDOUT) >= 8
    assert (
        len({topic.topic for topic in TOPICS})
        == len({topic.name for topic in TOPICS})
        == len(TOPICS)
    )


def test_no_phrase_is_written_twice():
    phrases = [
        phrase.lower() for topic in TOPICS for field in PARTS for phrase in getattr(topic, field)
    ]
    assert len(set(phrases)) == len(phrases)


def test_at_least_sixty_excellent_openings_a_topic():
    for topic in TOPICS:
        rng = random.Random(5)
        assert len({compose.excellent(topic, rng) for _ in range(200)}) >= 60, topic.topic


def test_no_slot_is_left_and_length_is_bounded():
    for topic, text in compose.corpus(8_000, seed=3):
        assert "{" not in text and "  " not in text and text == text.strip(), (topic, text)
        assert 2 <= len(text.split()) <= 50, (topic, text)


def test_corpus_is_the_same_for_the_same_seed_only():
    assert compose.corpus(500, seed=1) == compose.corpus(500, seed=1) != compose.corpus(500, seed=2)


def test_broken_topics_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "topics.json").write_text(
        '{"topics": [{"topic": "Tea", "name": "tea", "split": "train"}]}'
    )
    monkeypatch.setattr(sys.modules[knowledge.__module__], "DATA", tmp_path)
    with pytest.raises(ValueError, match="topics.json: topic 'Tea': subjects: expected"):
        knowledge.__wrapped__()
    (tmp_path / "topics.json").unlink()
    with pytest.raises(ValueError, match="topics.json: expected the project's data folder"):
        knowledge.__wrapped__()


# --- judge ---


def test_every_excellent_opening_gets_the_top():
    rng = random.Random(11)
    for topic in TOPICS:
        for _ in range(150):
            text = compose.excellent(topic, rng)
            assert rubric(topic, text) >= 4.75, (topic.topic, text)


def test_every_excellent_pattern_gets_the_top_for_each_topic():
    for topic in TOPICS:
        for pattern in compose.EXCELLENT:
            for attempt in range(
                200
            ):  # a filling within 15 to 34 words that says no four words twice
                text = compose.fill(pattern, topic, random.Random(attempt))
                fours = [
                    tuple(text.lower().split()[i : i + 4]) for i in range(len(text.split()) - 3)
                ]
                if 15 <= len(text.split()) <= 34 and len(set(fours)) == len(fours):
                    assert rubric(topic, text) >= 4.75, (topic.topic, text)
                    break
            else:
                pytest.fail(f"{topic.topic}: {pattern} is never filled within 15 to 34 words")


def test_kinds_come_out_in_the_right_order():
    mean = {}
    for kind in compose.CORPUS_SHARES:
        rng = random.Random(7)
        scores = [judge(topic.topic, kind(topic, rng)) for topic in TOPICS for _ in range(25)]
        mean[kind] = statistics.fmean(scores)
    assert mean[compose.excellent] > mean[compose.good] + 0.2 > mean[compose.plain] + 0.4
    assert mean[compose.excellent] > mean[compose.blend] + 0.2 > mean[compose.plain] + 0.2
    for poor in (compose.vague, compose.wordy, compose.repetitive, compose.unfinished):
        assert mean[compose.plain] > mean[poor] + 0.1 > mean[compose.off_topic] + 0.2


def test_corpus_is_mostly_poor():
    assert 0.35 <= statistics.fmean(judge(*pair) for pair in compose.corpus(20_000, seed=0)) <= 0.45


def test_hand_computed_points():
    topic = next(topic for topic in TOPICS if topic.topic == "Why sleep matters")
    said = f"{compose.capitalised(topic.subjects[0])} {topic.effects[0]}"
    full = explain(topic.topic, f"{said}, because {topic.reasons[0]}.")
    assert full["rubric"] == pytest.approx(5.0) and full["score"] == pytest.approx(1.0)
    # Without its full stop the same text is unfinished: the cap is 2.
    assert rubric(topic, f"{said}, because {topic.reasons[0]}") == 2.0
    # Vague: name .4, form .9, two stock phrases -.8 ("there is more to", "than meets the eye"), or
    # one -.4.
    assert rubric(topic, f"There is more to {topic.name} than meets the eye.") == pytest.approx(1.5)
    assert rubric(topic, f"There are many things to say about {topic.name}.") == pytest.approx(1.9)
    # Claim .6 + 1.3 + .9 with the reason of another topic (-1) in place of evidence.
    assert rubric(topic, f"{said}, because {TOPICS[3].reasons[0]}.") == pytest.approx(2.8)


def test_shuffled_words_are_not_an_opening():
    rng = random.Random(13)
    tidied = []
    for topic in TOPICS:
        for _ in range(50):
            words = compose.excellent(topic, rng).split()
            rng.shuffle(words)
            assert rubric(topic, " ".join(words)) <= 2.0, (topic.topic, words)
            text = " ".join(words).lower().rstrip(".,;:")
            tidied.append(rubric(topic, compose.capitalised(text) + "."))
    # With a capital and a full stop put back: at most 1 in 100 passes as middling, none as good.
    assert (
        statistics.fmean(tidied) < 1.1
        and sum(score > 2 for score in tidied) <= 20
        and max(tidied) < 3.75
    )


@pytest.mark.parametrize(
    "name, attempt, most",
    [
        (
            "all effects",
            lambda t, o: sentence(f"{t.subjects[0]} {t.effects[0]}", *t.effects[1:]),
            2.5,
        ),
        ("effects without marks", lambda t, o: " ".join(t.effects), 2.0),
        ("bare effects", lambda t, o: " ".join(map(sentence, t.effects)), 1.5),
        ("pasted examples", lambda t, o: " ".join(map(sentence, t.examples)), 2.0),
        ("two examples alone", lambda t, o: " ".join(map(sentence, t.examples[:2])), 4.0),
        ("keywords", lambda t, o: sentence(*t.subjects, *t.effects), 2.0),
        ("subjects", lambda t, o: sentence(*t.subjects), 2.5),
        ("said twice", lambda t, o: f"{claim(t)} {claim(t)}", 2.0),
        (
            "two topics",
            lambda t, o: f"{sentence(t.subjects[0] + ' ' + t.effects[0])} {claim(o)}",
            1.75,
        ),
        (
            "half phrases",
            lambda t, o: sentence(" ".join(" ".join(e.split()[:2]) for e in t.effects)),
            2.5,
        ),
        ("no text", lambda t, o: " ... ", 1.0),
        ("another topic", lambda t, o: claim(o), 1.5),
    ],
)
def test_attempts_to_game_the_judge(name, attempt, most):
    for topic, other in zip(TRAIN, TRAIN[1:] + TRAIN[:1]):
        text = attempt(topic, other)
        assert rubric(topic, text) <= most + 1e-9, (name, text, explain(topic.topic, text))


@pytest.mark.parametrize(
    "junk",
    [
        " Blorp the glim floop zanter mip.",
        " The of to and a the from.",
        " and and and",
        " the tower of",
        " In this day and age, as we all know, and so on and so forth, if you will.",
    ],
)
def test_junk_after_an_excellent_opening_costs(junk):
    rng = random.Random(17)
    for topic in TOPICS:
        text = compose.excellent(topic, rng)
        worse = explain(topic.topic, text + junk)
        assert worse["rubric"] <= rubric(topic, text) - 0.5, (text + junk, worse)


def test_two_half_phrases_stuck_together_cost():
    """The start of an effect that runs into the end of an example is worth less than the whole
    effect."""
    for topic in TOPICS:
        start = topic.effects[0].split()
        joined = " ".join(start[: len(start) // 2] + topic.examples[0].split()[-4:])
        text = sentence(f"{topic.subjects[0]} {joined}")
        assert rubric(topic, text) < rubric(
            topic, sentence(f"{topic.subjects[0]} {topic.effects[0]}")
        ), text


@pytest.mark.parametrize(
    "text", ["", "   ", "…", "\U0001f600", "\x00", "the", "." * 500, "a " * 3000]
)
def test_any_text_gets_a_score_in_range(text):
    assert 0.0 <= judge(TOPICS[0].topic, text) <= 0.25


def test_unknown_topic_is_named():
    with pytest.raises(ValueError, match="'nonsense'"):
        judge("nonsense", "A text.")


# --- raters and shipped files ---


def test_raters_depend_on_seed_and_text_only():
    texts = compose.corpus(100, seed=4)
    first = [rate(*pair, 1) for pair in texts]
    assert first == [rate(*pair, 1) for pair in texts]
    assert first != [rate(*pair, 2) for pair in texts]
    assert {rating for ratings in first for rating in ratings} == {1.0, 2.0, 3.0, 4.0, 5.0}
    # Pinned: the bytes that go into the hash must not change between versions or machines.
    assert rate(TRAIN[0].topic, "", 0) == (1.0, 1.0, 1.0)


def test_raters_agree_with_the_judge_as_far_as_their_noise_lets_them(shipped):
    judged = [judge(record["topic"], record["text"]) for record in shipped]
    ratings = list(zip(*(record["ratings"] for record in shipped)))
    assert 0.96 <= pearson([record["score"] for record in shipped], judged) <= 0.985
    for rater in ratings:
        assert 0.90 <= pearson(rater, judged) <= 0.95
    lenient, strict, unsteady = map(statistics.fmean, ratings)
    assert lenient > unsteady + 0.15 > strict + 0.3


def test_shipped_feedback_is_rebuilt_bit_for_bit(tmp_path):
    openings.build_feedback(tmp_path / "openings.jsonl")
    assert (tmp_path / "openings.jsonl").read_bytes() == (DATA / "openings.jsonl").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["openings.jsonl"]


def test_shipped_feedback_holds_training_topics_only(shipped):
    assert {record["topic"] for record in shipped} == {topic.topic for topic in TRAIN}
    phrases = [
        phrase.lower()
        for topic in HELDOUT
        for field in PARTS
        for phrase in getattr(topic, field)
        if len(phrase.split()) >= 3
    ]
    everything = "\n".join(record["text"].lower() for record in shipped)
    assert [phrase for phrase in phrases if phrase in everything] == []


def test_shipped_feedback_has_the_schema(shipped):
    assert len(shipped) == 12_000 and len({(r["topic"], r["text"]) for r in shipped}) == 12_000
    for record in shipped:
        assert list(record) == ["topic", "text", "score", "ratings", "provenance"]
        assert len(record["ratings"]) == 3 and set(record["ratings"]) <= {1, 2, 3, 4, 5}
        assert (
            record["score"] == round(sum(record["ratings"]) / 3, 2)
            and record["provenance"] == "simulated"
        )
    assert (DATA / "openings.jsonl").stat().st_size < 3_000_000


def five_words(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.lower())
    return set(zip(*(words[start:] for start in range(5))))


def test_handwritten_training_texts_are_apart_from_the_test_set():
    training, test = (
        [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]
        for name in ("handwritten_train.jsonl", "handwritten.jsonl")
    )
    assert all(list(record) == ["topic", "text", "score", "provenance"] for record in training)
    assert {record["provenance"] for record in training} == {"authors"}
    assert {record["topic"] for record in training} == {topic.topic for topic in TRAIN}
    assert len({record["text"].lower() for record in training}) == len(training) >= 900
    counts = Counter((record["topic"], record["score"]) for record in training)
    assert all(5 <= counts[topic.topic, score] <= 8 for topic in TRAIN for score in range(1, 6))
    tested = set().union(*(five_words(record["text"]) for record in test))
    assert [record["text"] for record in training if five_words(record["text"]) & tested] == []


def test_load():
    task = load_task("openings", seed=0)
    assert task.train_prompts == [topic.topic for topic in TRAIN]
    assert task.heldout_prompts == [topic.topic for topic in HELDOUT]
    assert len(task.corpus) == 20_000 and len(task.corpus_heldout) == 1_000
    assert {topic for topic, _ in task.corpus} == {topic.topic for topic in TOPICS}
    assert not set(task.corpus) & set(task.corpus_heldout)
    assert len(task.feedback) == 12_000 and len(task.handwritten) >= 150
    assert (
        load_task("openings", seed=0).corpus == task.corpus != load_task("openings", seed=1).corpus
    )


def test_unknown_task_is_named():
    with pytest.raises(ValueError, match="found 'poems'"):
        load_task("poems", seed=0)
