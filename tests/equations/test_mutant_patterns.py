"""The slips of tests/mutants.py can still be made: each pattern occurs exactly once in its
function.
"""

from __future__ import annotations

import ast

import mutants
import pytest
from mutants import Target

SOURCES = {
    target.module: (mutants.ROOT / "minirlhf" / target.module).read_text(encoding="utf-8")
    for target in mutants.TARGETS
}
EQUATIONS = mutants.TARGETS[0]


@pytest.mark.parametrize("function, old, new", EQUATIONS.mutants)
def test_each_pattern_occurs_once(function, old, new):
    # `mutate` raises ValueError unless the pattern occurs exactly once and the result compiles.
    assert mutants.mutate(SOURCES[EQUATIONS.module], function, old, new) != SOURCES["equations.py"]


@pytest.mark.parametrize("target", mutants.TARGETS[1:], ids=lambda target: target.module)
def test_each_pattern_of_a_loop_occurs_once(target: Target):
    source = SOURCES[target.module]
    assert len({mutants.mutate(source, *mutant) for mutant in target.mutants} - {source}) == len(
        target.mutants
    )


def test_every_function_has_a_mutant():
    mutants.check_complete()
    functions = {
        name
        for name, node in mutants.defined(SOURCES["equations.py"]).items()
        if isinstance(node, ast.FunctionDef)
    }
    assert functions == {function for function, _, _ in EQUATIONS.mutants}


@pytest.mark.parametrize("target", mutants.TARGETS, ids=lambda target: target.module)
def test_the_tests_that_kill_mutants_exist(target: Target):
    for stage in target.stages:
        for test in stage:
            file, _, name = test.partition("::")
            text = (mutants.ROOT / "tests" / file).read_text(encoding="utf-8")
            assert f"def {name}" in text, test


def test_a_slip_in_a_method_leaves_docstrings_and_other_methods_alone():
    source = 'class A:\n    def f(self):\n        """One + one."""\n        return 1 + 1\n\n'
    source += "    def g(self):\n        return 1 + 1\n\n\nB = 1 + 1\n"
    changed = mutants.mutate(source, "A.f", " + ", " - ")
    assert changed == source.replace("return 1 + 1", "return 1 - 1", 1)
    assert mutants.mutate(source, "B", " + ", " - ").endswith("B = 1 - 1\n")
    with pytest.raises(ValueError, match=r"A.g: expected '\*' once, found it 0 times"):
        mutants.mutate(source, "A.g", "*", "/")
    with pytest.raises(ValueError, match="no function g"):
        mutants.mutate(source, "g", "+", "-")
