"""benchmarks/instruction_tuning.py: what is left out is really left out."""

import random

import pytest

from benchmarks import instruction_figure as figure
from benchmarks import instruction_prompts as prompts
from benchmarks import instruction_tuning as flan
from minirlhf.tasks.assistant import compose
from minirlhf.tasks.assistant.good import good
from minirlhf.tasks.assistant.items import KINDS, SAFETY
from minirlhf.tasks.assistant.judge import judge
from minirlhf.tasks.assistant.wording import QUESTIONS


@pytest.mark.parametrize("seed", range(len(flan.LEFT_OUT)))
def test_a_seed_tunes_on_all_kinds_but_those_it_judges(seed):
    order = flan.order_of_kinds(seed)
    assert sorted([*order, *flan.left_out(seed)]) == sorted(KINDS)
    assert len(order) == max(flan.COUNTS)
    assert not set(flan.left_out(seed)) & set(SAFETY)


def test_seeds_leave_out_different_kinds_in_different_orders():
    left_out = [kind for kinds in flan.LEFT_OUT for kind in kinds]
    assert len(set(left_out)) == len(left_out)
    assert flan.order_of_kinds(0) != flan.order_of_kinds(3)
    assert flan.order_of_kinds(1) == flan.order_of_kinds(1)


@pytest.mark.parametrize("count", flan.COUNTS)
def test_demonstrations_are_of_the_tuned_kinds_alone(count):
    kinds = tuple(flan.order_of_kinds(0)[:count])
    shown = compose.demonstrations(40, flan.DATA_SEED, kinds)
    assert {one.item.kind for one in shown} == set(kinds)


def test_a_mean_over_seeds_counts_each_seed_once():
    rows = [{"train": [1.0, 1.0, 1.0, 1.0]}, {"train": [0.0]}]
    found = figure.over_seeds(rows, "train")
    assert found["mean"] == 0.5 and found["n"] == 2


def test_the_table_has_a_row_for_each_number_of_kinds():
    row = {"train": [0.25], "heldout": [0.5], "phrasings": [0.75]}
    curve = [{"tuned_kinds": ["why"] * count, **row} for count in (0, *flan.COUNTS)]
    refusals = [{"tuned_on": "base", "refused": [1.0, 0.0], "answered": [1.0]}]
    lines = figure.table({"curve": curve, "refusals": refusals}).splitlines()
    assert lines[2] == "| 0 kinds | 0.25 | 0.50 | 0.75 |"
    assert lines[-1] == "| base | 50% | 100% |"
    assert len(lines) == 2 + len(curve) + 3 + len(refusals)


def test_each_kind_is_of_one_family():
    kinds = [kind for family in prompts.FAMILIES.values() for kind in family]
    assert sorted(kinds) == sorted(KINDS)
    assert sorted([*prompts.others("facts"), *prompts.FAMILIES["facts"]]) == sorted(KINDS)
    assert "safety" not in prompts.JUDGED_FAMILIES


@pytest.mark.parametrize("kind", ["effect", "topic", "recall", "french", "hello", "harmful"])
def test_a_phrasing_is_recognized(kind):
    """The n-th phrasing of tuning, whatever it asks about; one of pretraining is none of them."""
    rng = random.Random(0)
    items = [prompts.ask(kind, "train", "tuning", rng) for _ in range(40)]
    for item in items:
        words = QUESTIONS[kind]["tuning"][prompts.phrasing_of(item)].partition("{")[0]
        assert item.question.lower().startswith(words.lower())
    assert len({prompts.phrasing_of(item) for item in items}) >= 4
    with pytest.raises(ValueError, match="expected a phrasing of tuning"):
        prompts.phrasing_of(prompts.ask(kind, "train", "nowhere", rng))


def test_few_phrasings_are_shown_equally_often_as_all():
    for number in (2, None):
        shown = prompts.demonstrations_in(number, 85, seed=3)
        assert len(set(shown)) == 85
        used = {(one.item.kind, prompts.phrasing_of(one.item)) for one in shown}
        for kind in KINDS:
            counts = sum(one.item.kind == kind for one in shown)
            assert 4 <= counts <= 6 or (kind == "hello" and number)  # which has few names
        places = {place for _, place in used}
        assert places == set(range(number or 6))  # greetings have six
    with pytest.raises(ValueError, match="count: expected at most"):
        prompts.demonstrations_in(0, 17, seed=3)


@pytest.mark.parametrize("family", prompts.WITH_EXAMPLES)
def test_examples_are_good_and_about_something_else(family):
    kinds, rng = prompts.FAMILIES[family], random.Random(1)
    items = compose.prompts(len(kinds) * 3, 0, "heldout", kinds)
    for item in items:
        for is_same in (True, False):
            of_kinds = prompts.example_kinds(item, family, is_same)
            asked = prompts.with_examples(item, 3, of_kinds, rng)
            assert asked.conversation[-1:] == item.conversation and len(asked.conversation) == 7
            assert (set(of_kinds) == {item.kind}) == is_same
            assert is_same or not set(of_kinds) & set(kinds)
            roles = [turn.role for turn in asked.conversation]
            assert roles == ["user", "assistant"] * 3 + ["user"]
            assert item.about not in "".join(turn.text for turn in asked.conversation[:-1])
            assert judge(asked, good(asked, rng)) == judge(item, good(item, rng))


def test_what_is_measured_is_not_measured_again():
    rows = [{"seed": 0, "phrasings_per_kind": 1, "train": [1.0]}]
    assert flan.has(rows, {"seed": 0, "phrasings_per_kind": 1})
    assert not flan.has(rows, {"seed": 0, "phrasings_per_kind": None})
    assert not flan.has(rows, {"seed": 1, "phrasings_per_kind": 1})
    for part in flan.PARTS:
        named = [repr(names) for names, _ in flan.rows_of(part, 0)]
        assert len(set(named)) == len(named) > 2


def test_the_tables_of_phrasings_and_families():
    splits = {"train": [0.25], "heldout": [0.5], "phrasings": [0.75]}
    rows = [{"phrasings_per_kind": number, **splits} for number in (None, 1)]
    assert figure.phrasings_table(rows)[-2:] == [
        "| all | 0.25 | 0.50 | 0.75 |",
        "| 1 | 0.25 | 0.50 | 0.75 |",
    ]
    families = [
        {"family": "facts", "tuned": False, "train": [0.0], "1 of the kind": [1.0, 0.0]},
        {"family": "facts", "tuned": True, "train": [0.5], "1 of the kind": [1.0]},
        {"family": "writing", "tuned": True, "train": [0.5, 1.0]},
    ]
    assert figure.families_table(families)[3:] == [
        "| facts | base | 0.00 | 0.50 |",
        "| facts | tuned on all others | 0.50 | 1.00 |",
        "| writing | tuned on all others | 0.75 |  |",
    ]
