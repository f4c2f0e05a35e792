"""benchmarks/instruction_tuning.py: what is left out is really left out."""

import pytest

from benchmarks import instruction_tuning as flan
from minirlhf.tasks.assistant import compose
from minirlhf.tasks.assistant.items import KINDS, SAFETY


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
    found = flan.over_seeds(rows, "train")
    assert found["mean"] == 0.5 and found["n"] == 2


def test_the_table_has_a_row_for_each_number_of_kinds():
    row = {"train": [0.25], "heldout": [0.5], "phrasings": [0.75]}
    curve = [{"tuned_kinds": ["why"] * count, **row} for count in (0, *flan.COUNTS)]
    refusals = [{"tuned_on": "base", "refused": [1.0, 0.0], "answered": [1.0]}]
    lines = flan.table({"curve": curve, "refusals": refusals}).splitlines()
    assert lines[2] == "| 0 kinds | 0.25 | 0.50 | 0.75 |"
    assert lines[-1] == "| base | 50% | 100% |"
    assert len(lines) == 2 + len(curve) + 3 + len(refusals)
