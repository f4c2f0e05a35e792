"""The slips of tests/mutants.py can still be made: each pattern occurs exactly once in its
function."""

from __future__ import annotations

import re

import mutants
import pytest

SOURCE = (mutants.ROOT / "minirlhf" / "equations.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("function, old, new", mutants.MUTANTS)
def test_each_pattern_occurs_once(function, old, new):
    # `mutate` raises ValueError unless the pattern occurs exactly once and the result compiles.
    assert mutants.mutate(SOURCE, function, old, new) != SOURCE


def test_every_function_has_a_mutant():
    functions = set(re.findall(r"^def (\w+)\(", SOURCE, re.MULTILINE))
    assert functions == {function for function, _, _ in mutants.MUTANTS}


def test_the_tests_that_kill_mutants_exist():
    for name in ["small_worlds.py", *sum(mutants.STAGES, [])]:
        assert (mutants.ROOT / "tests" / name).is_file(), name
