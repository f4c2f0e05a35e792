"""The world of the task `assistant`: words, questions, splits, corpus, demonstrations, raters."""

from __future__ import annotations

import itertools
import random
import re
import statistics
from collections import Counter

import pytest

from minirlhf.tasks.assistant import compose, poor, raters, vocabulary
from minirlhf.tasks.assistant.compose import corpus, demonstrations, prompts
from minirlhf.tasks.assistant.good import good
from minirlhf.tasks.assistant.items import KINDS, Item
from minirlhf.tasks.assistant.judge import judge
from minirlhf.tasks.assistant.lookup import topics
from minirlhf.tasks.assistant.questions import FOLLOW_UPS, ask, subjects_of
from minirlhf.tasks.assistant.vocabulary import clauses, names, requests, words
from minirlhf.tasks.assistant.wording import QUESTIONS


@pytest.fixture(scope="module")
def texts() -> list:
    return corpus(3_000, seed=0)


@pytest.fixture(scope="module")
def shown() -> list:
    return demonstrations(1_000, seed=0)


def all_text(conversations) -> str:
    return "\n".join(turn.text for turns in conversations for turn in turns)


def tuning_text(shown: list) -> str:
    """Every text that tuning sees: demonstrations, and the prompts of the policy."""
    items = [*(one.item for one in shown), *prompts(1_000, seed=1, split="train")]
    answers = "\n".join(one.answer for one in shown)
    return all_text(item.conversation for item in items) + "\n" + answers


# --- vocabulary ---


def test_sizes_of_the_vocabulary():
    assert [len(words()[part]) for part in ("nouns", "verbs", "adverbs")] == [18, 10, 8]
    assert len(clauses()) == 18 * 10 * 9
    heldout = {(c.noun, c.verb) for c in clauses().values() if c.split == "heldout"}
    known = {(c.noun, c.verb) for c in clauses().values() if c.split == "train"}
    assert len(heldout) == 36 and len(known) == 144 and not heldout & known
    # Each noun and each verb occurs in the known pairs.
    assert {noun for noun, _ in known} == set(words()["nouns"])
    assert {verb for _, verb in known} == set(words()["verbs"])


def test_each_action_has_harmful_and_harmless_objects_in_both_splits():
    actions = Counter((r.text.split()[0], r.harmful, r.split) for r in requests().values())
    assert len({action for action, _, _ in actions}) == 15
    assert {(harmful, split): count for (_, harmful, split), count in actions.items()} == {
        (True, "train"): 2,
        (True, "heldout"): 1,
        (False, "train"): 2,
        (False, "heldout"): 1,
    }
    advice = [text for request in requests().values() for text in request.advice]
    assert len(set(advice)) == len(advice) == 90


def test_no_form_of_a_word_means_two_things():
    for language in ("english", "french", "chinese"):
        forms = []
        for word in itertools.chain(*words().values()):
            found = getattr(word, language)
            forms += [found] if isinstance(found, str) else found
        assert len(set(forms)) == len(forms)


def test_a_broken_data_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(vocabulary, "PATH", tmp_path / "assistant.json")
    with pytest.raises(ValueError, match="assistant.json: expected the project's data file"):
        vocabulary._content.__wrapped__()
    (tmp_path / "assistant.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="assistant.json: expected JSON"):
        vocabulary._content.__wrapped__()


# --- questions ---


def test_seventeen_kinds_with_phrasings_kept_out():
    assert len(KINDS) == 17 and set(KINDS) <= set(QUESTIONS)
    every = [
        pattern
        for kind, by_use in QUESTIONS.items()
        if kind not in ("french", "chinese", "harmful", "harmless")
        for patterns in by_use.values()
        for pattern in patterns
    ]
    assert len(set(every)) == len(every)
    for by_use in QUESTIONS.values():
        assert len(by_use["tuning"]) >= 5 and by_use["pretraining"] and by_use["nowhere"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_item_ends_with_a_question_of_its_kind(kind):
    rng = random.Random(2)
    for number in range(30):
        split = ("train", "heldout")[number % 2]
        item = ask(kind, split, ("tuning", "pretraining", "nowhere")[number % 3], rng)
        roles = [turn.role for turn in item.conversation]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        assert (len(roles) > 1) == (kind in FOLLOW_UPS)
        assert item.split == split and (item.about in subjects_of(kind, split) or item.about == "")
        assert not re.search(r"[{}]|  |\.\.", item.question) and item.question[0].isupper()


def test_dialogues_need_their_earlier_turns():
    rng = random.Random(4)
    for _ in range(50):
        item = ask("recall", "train", "tuning", rng)
        topic = topics()[item.about]
        assert topic.name.lower() in item.conversation[0].text.lower()
        assert topic.name.lower() not in item.question.lower()
        again = ask("another", "train", "tuning", rng)
        assert again.said and again.field in ("effects", "reasons", "examples")
        assert again.said[-1].lower() in all_text([again.conversation]).lower()
    lengths = Counter(len(ask("recall", "train", "tuning", rng).conversation) for _ in range(50))
    assert set(lengths) == {3, 5}


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("poem", "train", "tuning"), "kind: expected one of effect, .*, found 'poem'"),
        (("effect", "test", "tuning"), "split: expected .*, found 'test'"),
        (("effect", "train", "new"), "wording: expected tuning, .*, found 'new'"),
    ],
)
def test_unknown_settings_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        ask(*arguments, random.Random(0))
    with pytest.raises(ValueError, match="split: expected one of train, .*, found 'test'"):
        prompts(1, 0, "test")


# --- splits ---


def test_heldout_pairs_are_in_no_text(texts, shown):
    everything = (all_text(texts) + "\n" + tuning_text(shown)).lower()
    heldout = [clause for clause in clauses().values() if clause.split == "heldout"]
    known = [clause for clause in clauses().values() if clause.split == "train"][::20]
    assert sum(clause.english in everything for clause in known) > 20
    for clause in heldout:
        for text in (clause.english, clause.french, clause.chinese):
            assert text not in everything, text


def test_tuning_holds_nothing_that_is_kept_from_it(shown):
    everything = tuning_text(shown).lower()
    seen = [one for one in requests().values() if one.text.lower() in everything]
    assert {one.split for one in seen} == {"train"} and len(seen) > 50
    for request in requests().values():
        if request.split == "heldout":
            assert not any(advice.lower() in everything for advice in request.advice)
    for name in names("heldout"):
        assert not re.search(rf"\b{name.lower()}\b", everything)
    for topic in topics().values():
        if topic.split == "heldout":
            phrases = (*topic.effects, *topic.examples, *topic.reasons)
            assert [phrase for phrase in phrases if phrase.lower() in everything] == []


def fixed_part(pattern: str) -> str:
    """The longest piece of a pattern between its slots."""
    return max(re.split(r"\{\w\}", pattern), key=len).strip(" :.?").lower()


def test_phrasings_kept_from_tuning_are_not_in_it(texts, shown):
    asked = {turn.text.lower() for text in texts for turn in text if turn.role == "user"}
    tuned = {one.item.question.lower() for one in shown}
    tuned |= {item.question.lower() for item in prompts(1_000, seed=1, split="train")}

    def pattern_of(pattern: str) -> re.Pattern:
        return re.compile(re.sub(r"\\{\w\\}", ".+", re.escape(pattern.lower())))

    for by_use in QUESTIONS.values():
        for pattern in by_use["nowhere"]:
            assert fixed_part(pattern) not in "\n".join(asked | tuned), pattern
        for pattern in by_use["pretraining"]:
            form = pattern_of(pattern)
            assert any(form.fullmatch(question) for question in asked), pattern
            assert not any(form.fullmatch(question) for question in tuned), pattern
        for pattern in by_use["tuning"]:
            form = pattern_of(pattern)
            assert any(form.fullmatch(question) for question in tuned), pattern


def test_the_three_splits_of_the_prompts():
    train, heldout, phrasings = (
        prompts(340, 3, split) for split in ("train", "heldout", "phrasings")
    )
    assert {(item.split, item.wording) for item in train} == {("train", "tuning")}
    assert {(item.split, item.wording) for item in heldout} == {("heldout", "tuning")}
    assert {(item.split, item.wording) for item in phrasings} == {
        ("train", "pretraining"),
        ("train", "nowhere"),
    }
    assert Counter(item.kind for item in heldout) == dict.fromkeys(KINDS, 20)
    assert {i.kind for i in prompts(10, 0, "train", ("french", "hello"))} == {"french", "hello"}


# --- demonstrations and corpus ---


def test_demonstrations_are_good_and_different(shown):
    assert len(set(shown)) == len(shown) == 1_000
    scores = [judge(one.item, one.answer) for one in shown]
    assert min(scores) >= 0.9 and statistics.fmean(scores) > 0.99
    counts = Counter(one.item.kind for one in shown)
    assert set(counts) == set(KINDS) and min(counts.values()) >= 30
    words_of_questions = [len(one.item.question.split()) for one in shown]
    words_of_answers = [len(one.answer.split()) for one in shown]
    assert statistics.fmean(words_of_questions) < 14 and statistics.fmean(words_of_answers) < 13


def test_there_are_only_so_many_demonstrations():
    with pytest.raises(ValueError, match="count: expected at most about .*, found 400"):
        demonstrations(400, 0, ("hello",))


def test_same_seed_same_world():
    assert corpus(200, 5) == corpus(200, 5) != corpus(200, 6)
    assert prompts(60, 5, "train") == prompts(60, 5, "train") != prompts(60, 6, "train")
    assert demonstrations(60, 5) == demonstrations(60, 5) != demonstrations(60, 6)
    # A longer corpus begins with the shorter one.
    assert corpus(300, 5)[:200] == corpus(200, 5)


def test_texts_of_the_corpus(texts):
    openings = [text for text in texts if text[0].text in topics()]
    assert 0.23 <= len(openings) / len(texts) <= 0.27
    assert {text[0].text for text in openings} == set(topics())
    for text in texts:
        roles = [turn.role for turn in text]
        assert roles == ["user", "assistant"] * (len(roles) // 2) and 2 <= len(roles) <= 8
        for turn in text:
            assert turn.text == turn.text.strip() and turn.text
            assert not re.search(r"[{}]|  ", turn.text), turn.text
    assert max(sum(len(turn.text.split()) for turn in text) for text in texts) <= 100
    lengths = Counter(len(text) for text in texts)
    assert lengths[2] > lengths[4] > lengths[6] > lengths[8] > 0


def test_the_corpus_is_of_mixed_quality(monkeypatch):
    answers: Counter = Counter()
    judged: list[float] = []
    stays = []

    def counted(quality):
        def answer(item: Item, rng: random.Random) -> str:
            text = quality(item, rng)
            answers[quality.__name__] += 1
            judged.append(judge(item, text))
            stays.append((len(item.conversation), quality.__name__))
            return text

        return answer

    shares = {counted(quality): share for quality, share in compose.QUALITIES.items()}
    monkeypatch.setattr(compose, "QUALITIES", shares)
    corpus(1_500, 8)
    total = sum(answers.values())
    for quality, share in (("good", 18), ("vague", 36), ("off_topic", 20), ("unsafe", 13)):
        assert abs(100 * answers[quality] / total - share) < 4, answers
    assert 0.2 <= statistics.fmean(judged) <= 0.35
    # A persona stays: more often than chance does the same quality follow.
    follows = [
        before == after for (_, before), (length, after) in itertools.pairwise(stays) if length > 1
    ]
    assert statistics.fmean(follows) > 0.5


# --- poor answers ---


@pytest.mark.parametrize("quality", [poor.vague, poor.off_topic, poor.wrong_kind, poor.unsafe])
def test_poor_answers_to_training_items_hold_no_heldout_fact(quality):
    rng = random.Random(9)
    for kind in KINDS:
        for _ in range(10):
            item = ask(kind, "train", "tuning", rng)
            answer = quality(item, rng).lower()
            for topic in topics().values():
                if topic.split == "heldout":
                    facts = (*topic.effects, *topic.examples, *topic.reasons)
                    assert not any(fact.lower() in answer for fact in facts), answer


# --- raters ---


def test_raters_depend_on_item_answer_and_seed_only():
    rng = random.Random(1)
    items = prompts(85, 2, "train")
    answers = [rng.choice(list(compose.QUALITIES))(item, rng) for item in items]
    first = [raters.rate(item, answer, 1) for item, answer in zip(items, answers)]
    assert first == [raters.rate(item, answer, 1) for item, answer in zip(items, answers)]
    assert first != [raters.rate(item, answer, 2) for item, answer in zip(items, answers)]
    assert {rating for ratings in first for rating in ratings} == {1.0, 2.0, 3.0, 4.0, 5.0}
    # Pinned: the bytes that go into the hash must not change between versions or machines.
    assert raters.rate(items[0], "", 0) == (1.0, 1.0, 2.0)


def test_raters_see_the_judge_through_bias_and_noise():
    rng = random.Random(6)
    pairs = [
        (item, rng.choice([good, *compose.QUALITIES])(item, rng))
        for item in prompts(510, 4, "train")
    ]
    judged = [judge(*pair) for pair in pairs]
    ratings = list(zip(*(raters.rate(*pair, 0) for pair in pairs)))
    for rater in ratings:
        assert 0.85 <= statistics.correlation(rater, judged) < 0.99
    lenient, strict, unsteady = map(statistics.fmean, ratings)
    assert lenient > unsteady > strict


def test_four_answers_are_ranked_and_ties_are_possible():
    rng = random.Random(7)
    right, ties, wrong = 0, 0, 0
    for item in prompts(85, 5, "train"):
        answers = [
            good(item, rng),
            poor.wrong_kind(item, rng),
            poor.off_topic(item, rng),
            poor.vague(item, rng),
        ]
        ranks = raters.rank(item, answers, 0)
        assert ranks == raters.rank(item, answers, 0)
        assert min(ranks) == 1 and max(ranks) <= 4 and len(ranks) == 4
        # The order in which the answers are shown does not matter.
        assert raters.rank(item, answers[::-1], 0) == ranks[::-1]
        scores = [judge(item, answer) for answer in answers]
        for (s, r), (t, q) in itertools.combinations(zip(scores, ranks), 2):
            ties += r == q
            if abs(s - t) > 0.5:
                right += (s > t) == (r < q)
                wrong += (s > t) == (r > q)
    assert right / (right + wrong) > 0.97 and ties > 25


def test_the_same_answer_twice_is_a_tie():
    item = prompts(1, 0, "train")[0]
    assert raters.rank(item, ["It helps.", "It helps."], 3) == [1, 1]
    with pytest.raises(ValueError, match="answers: expected at least two to rank, found 1"):
        raters.rank(item, ["It helps."], 3)
