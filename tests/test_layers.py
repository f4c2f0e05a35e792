"""The layers hold: a file imports only from its own folder or from above, and not in circles.

Imports inside functions and under TYPE_CHECKING count too. Nor does any function take many
parameters. The files are read, not run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "minirlhf"
BENCHMARKS = PACKAGE.parent / "benchmarks"

# From the ground up. Files of one layer may import each other, and everything in the layers before.
LAYERS = [
    ["equations", "enumeration", "linear_algebra", "stats"],
    ["settings", "config", "config_file"],
    ["system"],
    ["tokenizer"],
    ["models"],
    ["feedback"],
    ["tasks"],
    ["training"],
    ["evaluation"],
    ["look_inside"],
    ["reports"],
    ["runs"],
    ["play"],
    ["cli"],
    ["__main__"],
]
MOST_PARAMETERS = 6
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def module_name(path: Path) -> str:
    """ "models.policy" for minirlhf/models/policy.py, "models" for minirlhf/models/__init__.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
FILES.pop("")  # minirlhf/__init__.py only sets the environment


def imported_modules(path: Path) -> set[str]:
    """The modules of this package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: expected absolute imports, found a relative one"
            # `from minirlhf.models import build` imports a module, `from minirlhf.stats import
            # ranks` a name in one: of the longer and the shorter name take the one that is a file.
            names = []
            for alias in node.names:
                longer = f"{node.module}.{alias.name}"
                is_file = longer.removeprefix("minirlhf.") in FILES
                names.append(longer if is_file else node.module)
        else:
            continue
        found |= {name.removeprefix("minirlhf.") for name in names if name.startswith("minirlhf.")}
    return found & FILES.keys()


GRAPH = {name: imported_modules(path) for name, path in FILES.items()}


def layer_of(name: str) -> int:
    return LEVEL[name.split(".")[0]]


def test_every_file_has_a_place():
    assert {name.split(".")[0] for name in FILES} <= LEVEL.keys()


def test_imports_only_go_to_the_layers_before():
    wrong = [
        f"{name} imports {other}"
        for name, others in GRAPH.items()
        for other in sorted(others)
        if layer_of(other) > layer_of(name)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_circle_between_files():
    """Remove the files that import none of those left, again and again; circles remain."""
    left = dict(GRAPH)
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    # What remains are circles, and files that import one; show the circles alone.
    while outer := [name for name in left if not any(name in others for others in left.values())]:
        for name in outer:
            del left[name]
    arrows = [f"{name} -> {other}" for name in left for other in sorted(left[name] & left.keys())]
    assert not left, "\n".join(arrows)


def test_every_folder_says_what_lives_in_it():
    for name, path in FILES.items():
        if path.name == "__init__.py":
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            assert "Not here:" in text, name
            assert len(ast.parse(path.read_text(encoding="utf-8")).body) == 1, (
                f"{name}: only a docstring"
            )


Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(node: ast.AST, name: str) -> Iterator[tuple[str, Function]]:
    """All functions in a piece of code with their full names, also methods and inner ones."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            inner = f"{name}.{child.name}"
            if not isinstance(child, ast.ClassDef):
                yield inner, child
            yield from functions(child, inner)
        else:
            yield from functions(child, name)


def count_parameters(function: Function) -> int:
    """The parameters that a caller may give."""
    taken = function.args
    listed = [*taken.posonlyargs, *taken.args, *taken.kwonlyargs, taken.vararg, taken.kwarg]
    return sum(one is not None and one.arg not in ("self", "cls") for one in listed)


def test_what_counts_as_a_parameter():
    source = """
class A:
    def one(self, a): ...
if True:
    async def five(a, /, b, *c, d, **e): ...
    def outer():
        def inner(a, b): ...
"""
    counts = {name: count_parameters(found) for name, found in functions(ast.parse(source), "m")}
    assert counts == {"m.A.one": 1, "m.five": 5, "m.outer": 0, "m.outer.inner": 2}


def test_no_function_takes_many_parameters():
    """Arguments that travel together are one object."""
    files = FILES | {f"benchmarks.{path.stem}": path for path in BENCHMARKS.glob("*.py")}
    many = {
        full_name
        for name, path in files.items()
        for full_name, function in functions(ast.parse(path.read_text(encoding="utf-8")), name)
        if count_parameters(function) > MOST_PARAMETERS
    }
    assert not many, many
