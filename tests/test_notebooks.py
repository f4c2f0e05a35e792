"""The notebooks: they run, their exercises can be solved and not be passed by doing nothing, and
they say what is there.

The runs are in fast mode (fewer steps). `make notebooks` runs them in full.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import json
import pkgutil
import re
import shlex
import sys
from functools import lru_cache
from pathlib import Path

import nbformat
import pytest
from jupyter_client.provisioning import local_provisioner
from warm_process import Kernel, can_fork

import minirlhf
from minirlhf import equations
from minirlhf.cli import main
from minirlhf.runs.base import read_base
from minirlhf.training.algorithms import pretraining_mix

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "notebooks"))
import pages  # noqa: E402
import run_all  # noqa: E402

PATHS = run_all.notebooks()
TEXT_IDS = [f"E{number}" for number in range(1, 13)]
LIBRARIES = {
    "torch.optim.Muon",
    "transformers",
}  # named in the prose, not imported by the notebook that names them
PLACES = re.compile(
    r"/(?:work|tmp|home|root|usr|Users|private|mnt)\b|[A-Z]:\\\\|site-packages|\.venv"
)


@lru_cache
def read(path: Path):
    return nbformat.read(path, as_version=4)


def cells(path: Path, kind: str) -> list:
    return [cell for cell in read(path).cells if cell.cell_type == kind]


def prose(path: Path) -> str:
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    return "\n\n".join(cell.source for cell in cells(path, "markdown"))


def text_outputs(cell) -> str:
    """Everything in a cell's outputs that is not a picture."""
    parts = []
    for output in cell.get("outputs", []):
        parts.append(output.get("text", ""))
        parts += [
            value if isinstance(value, str) else json.dumps(value)
            for kind, value in output.get("data", {}).items()
            if not kind.startswith("image/")
        ]
    return "\n".join(parts)


def test_there_is_a_notebook_for_each_part():
    assert [path.name[:2] for path in PATHS] == [f"{number:02d}" for number in range(13)]


def test_each_formula_of_the_text_stands_in_a_notebook_and_in_the_equations():
    everything = "\n".join(prose(path) for path in PATHS)
    source = inspect.getsource(equations) + inspect.getsource(pretraining_mix)  # (E11)
    for formula in TEXT_IDS:
        assert re.search(rf"\*\*{formula}\*\*", everything), f"{formula}: stated in no notebook"
        assert re.search(rf"\b{formula}\b", source), f"{formula}: not in the equations"


# What each page holds -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_page_begins_and_ends_as_all_do(path):
    markdown = [cell.source for cell in cells(path, "markdown")]
    head = markdown[0]
    assert head.startswith(f"# {path.name[:2]} · ")
    for part in ("**Where this stands.**", "**What you will be able to do**", "**Needs.**"):
        assert part in head, f"the first cell lacks {part}"
    assert re.search(r"[Ss]ections? \d", head) and re.search(r"[\u4e00-\u9fff]", head), (
        "no section, or no Chinese term"
    )
    assert any("## Exercises" in source for source in markdown)
    everything = "\n".join(markdown)
    assert 0 < everything.count("> **Predict.**") == everything.count("<summary>Answer</summary>")
    assert everything.count("<details>") == everything.count("</details>")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_page_links_to_its_neighbours_and_to_its_solutions(path):
    place = PATHS.index(path)
    ends = cells(path, "markdown")[-1].source
    for neighbour in PATHS[max(0, place - 1) : place] + PATHS[place + 1 : place + 2]:
        assert f"]({neighbour.name})" in ends, f"no link to {neighbour.name} at the end"
    assert f"](solutions/{path.stem}.py)" in prose(path)


def test_notebooks_start_from_the_shipped_base_and_say_so_or_pretrain_their_own():
    import helpers

    assert helpers.small_config().pretrain.start == "base"
    assert helpers.small_config().model == read_base().model
    for path in PATHS:
        code = "\n".join(cell.source for cell in cells(path, "code"))
        pretrains = path.name[:2] in ("01", "07", "08", "09")
        assert ("scratch_config(" in code) == pretrains, path.name
        if "small_config(" in code:
            assert "the project ships" in prose(path), f"{path.name}: says not what it starts from"


def test_the_training_loop_of_05_stands_in_its_cells():
    """Fine-tuning there is written out, not called; its steps are compared with the package's."""
    (path,) = [path for path in PATHS if path.name.startswith("05")]
    code = "\n".join(cell.source for cell in cells(path, "code"))
    assert '"finetune"' not in code
    assert "optimizer.step()" in code
    outputs = "\n".join(text_outputs(cell) for cell in cells(path, "code"))
    for weigh in ("article", "with_baseline", "with_price"):
        assert f"{weigh}: the same step" in outputs


def test_the_training_loop_of_03_stands_in_its_cells():
    """One loop for all three reward models; its loss and its steps are the package's."""
    (path,) = [path for path in PATHS if path.name.startswith("03")]
    code = "\n".join(cell.source for cell in cells(path, "code"))
    assert 'run_stages(run, task, "reward")' not in code
    assert code.count("loss.backward()") == 1 and code.count("train_by(") == 5
    outputs = "\n".join(text_outputs(cell) for cell in cells(path, "code"))
    assert "the same loss" in outputs and "the same three steps" in outputs


def test_what_01_writes_out_is_what_the_package_does():
    """Merges, attention, transformer, loss, loop and sampling stand in its cells."""
    (path,) = [path for path in PATHS if path.name.startswith("01")]
    code = "\n".join(cell.source for cell in cells(path, "code"))
    assert code.count("backward(loss, policy)") == 1 and code.count("assert mine == package") == 1
    outputs = "\n".join(text_outputs(cell) for cell in cells(path, "code"))
    for found in ("first merges", "attention", "logits", "loss", "weights", "text"):
        assert re.search(rf"the same (as the package's )?{found}", outputs), found


def test_the_loops_of_10_stand_in_its_cells():
    """Its stages, too: SFT, reward model, RL and DPO; and they are compared with the package's."""
    (path,) = [path for path in PATHS if path.name.startswith("10")]
    code = "\n".join(cell.source for cell in cells(path, "code"))
    assert code.count(".backward()") == 4
    outputs = "\n".join(text_outputs(cell) for cell in cells(path, "code"))
    for found in ("same three steps", "same loss as", "same update", "loss equals the package's"):
        assert found in outputs, found


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_outputs_are_those_of_one_clean_full_run(path):
    code = cells(path, "code")
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    pictures = 0
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", cell.source
            pictures += any(kind.startswith("image/") for kind in output.get("data", {}))
        found = PLACES.search(text_outputs(cell)) or PLACES.search(cell.source)
        assert not found, f"a path of some machine: {found.group()!r} in\n{cell.source}"
        assert "Traceback" not in text_outputs(cell)
        if "plt.show()" in cell.source.splitlines()[-1:]:
            assert cell.outputs, f"no output of\n{cell.source}"
    assert pictures >= 1
    assert path.stat().st_size < 1_500_000, "a page of more than 1.5 MB loads slowly"


def test_no_sentence_of_the_reviews_is_shown():
    """Runs of eight words; only where the data is: no copy of it may be here to compare with."""
    from minirlhf.tasks.reviews import task as reviews

    try:
        task = reviews.load(0)
    except ValueError:
        pytest.skip("the reviews are not on this machine: python -m minirlhf data reviews")

    def runs(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"[a-z0-9']+", text.lower())
        return {tuple(words[start : start + 8]) for start in range(len(words) - 7)}

    theirs = set().union(*(runs(text) for _, text in task.corpus + task.corpus_heldout))
    assert len(theirs) > 100_000
    for path in PATHS:
        shown = [
            prose(path),
            *(cell.source for cell in cells(path, "code")),
            *map(text_outputs, cells(path, "code")),
        ]
        assert not (found := runs("\n".join(shown)) & theirs), f"{path.name}: {sorted(found)[:3]}"


# What the words promise ---------------------------------------------------------------------------


@lru_cache
def package_names() -> dict[str, object]:
    """Every public name of the package, bare and with its module: "reward_to_go" and
    "equations.reward_to_go".
    """
    names: dict[str, object] = {"minirlhf": minirlhf}
    for info in pkgutil.walk_packages(minirlhf.__path__, "minirlhf."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        dotted = info.name.removeprefix("minirlhf.")
        names |= {info.name: module, dotted: module, dotted.split(".")[-1]: module}
        for name, value in vars(module).items():
            if name.startswith("_") or inspect.ismodule(value):
                continue
            if getattr(value, "__module__", info.name).startswith("minirlhf"):
                names.setdefault(name, value)
                names[f"{dotted}.{name}"] = names[f"{info.name}.{name}"] = names[
                    f"{dotted.split('.')[-1]}.{name}"
                ] = value
    return names


def own_names(path: Path) -> set[str]:
    """Names that a notebook's code defines or imports, the arguments of its functions included."""
    if path.suffix == ".md":
        return set()
    names: set[str] = set()
    for cell in cells(path, "code"):
        tree = ast.parse(re.sub(r"^[%!].*$", "", cell.source, flags=re.MULTILINE))
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.add(node.name)
            elif isinstance(node, ast.alias):
                names.add(node.asname or node.name)
            elif isinstance(node, ast.arg):
                names.add(node.arg)
    return names


def is_command(span: str) -> bool:
    """A command that the project has: a make target, python -m minirlhf with known flags, or a
    setting before one.
    """
    words = shlex.split(span)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
        if not words:
            return span.split("=")[0] in (ROOT / "notebooks" / "helpers.py").read_text(
                encoding="utf-8"
            )
    if words[:1] == ["make"]:
        return all(
            re.search(rf"^{word}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
            for word in words[1:]
        )
    if words[:1] == ["python"] and words[1:2] and words[1].endswith(".py"):
        return (ROOT / words[1]).is_file()
    if words[:4] == ["python", "-m", "pip", "install"]:
        return all((ROOT / word).is_file() for word in words[5:])
    if words[:3] != ["python", "-m", "minirlhf"]:
        return False
    if len(words) == 3:
        return True
    assert words[3] in main.COMMANDS, f"no such command: {span}"
    known = flags_of(words[3])
    unknown = [word for word in words[4:] if word.startswith("--") and word not in known]
    assert not unknown, f"no such flag: {unknown} in {span}"
    return True


@lru_cache
def flags_of(command: str) -> frozenset[str]:
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main.main([command, "--help"])
    return frozenset(re.findall(r"--[a-z][a-z0-9.-]*", out.getvalue())) | frozenset(main.SHORT)


def is_flag(span: str) -> bool:
    return span.startswith("--") and any(
        span.split()[0] in flags_of(command) for command in main.COMMANDS
    )


def resolves(span: str, known: dict[str, object]) -> bool:
    """`known` or `known.attribute...`, a call's arguments left aside."""
    name = re.sub(r"\(.*\)$", "", span)
    if name in known:
        return True
    owner, _, attribute = name.rpartition(".")
    if not owner or owner not in known:
        return False
    fields = getattr(known[owner], "__dataclass_fields__", {})
    return hasattr(known[owner], attribute) or attribute in fields


@pytest.mark.parametrize(
    "path", [*PATHS, ROOT / "notebooks" / "README.md"], ids=lambda path: path.stem
)
def test_each_code_name_in_the_prose_exists(path):
    import helpers
    import torch

    known = (
        package_names()
        | vars(helpers)
        | vars(builtins)
        | {"torch": torch, "inspect": inspect, "helpers": helpers}
    )
    own = own_names(path)
    text = re.sub(r"```.*?```", "", prose(path), flags=re.DOTALL)
    for span in re.findall(r"`([^`\n]+)`", text):
        good = (
            resolves(span, known)
            or re.split(r"[.(\[]", span)[0] in own
            or (ROOT / span).exists()
            or (ROOT / "notebooks" / span).exists()
            or is_command(span)
            or is_flag(span)
            or span in run_files()
            or span == "..."
            or span in LIBRARIES
        )
        assert good, f"`{span}` is no name, file or command of the project"
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (path.parent / target).exists(), f"broken link {target}"


@lru_cache
def run_files() -> frozenset[str]:
    """Names of the files of a run folder, as the package's own description of it lists them."""
    from minirlhf.runs import folder

    return frozenset(
        re.findall(
            r"\b[a-z_]+\.(?:jsonl?|safetensors|html)\b", folder.__doc__ + inspect.getsource(folder)
        )
    )


# They run, and the exercises are real -------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_exercises_have_answers_and_checks_and_solutions(path):
    found = {
        kind: [
            number
            for cell in cells(path, "code")
            if (number := run_all.tag_of(cell, kind)) is not None
        ]
        for kind in ("answer", "check")
    }
    numbers = list(range(1, len(found["answer"]) + 1))
    assert 3 <= len(numbers) <= 5
    assert found["answer"] == found["check"] == numbers == sorted(run_all.solutions(path))
    for number in numbers:
        assert f"**Exercise {number}.**" in prose(path)


@pytest.fixture
def warm_kernels(monkeypatch):
    """Kernels that need not import torch first, if the system and jupyter_client let us."""
    if can_fork:
        monkeypatch.setattr(local_provisioner, "launch_kernel", Kernel, raising=False)


@pytest.mark.usefixtures("warm_kernels")
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebook_runs_and_its_checks_fail_unanswered_and_pass_on_the_solution(path):
    notebook = run_all.with_solutions(read(path), path)
    run_all.execute(notebook, fast=True)
    for cell in notebook.cells:
        for kind, expected in (("check", "not yet"), ("recheck", "right.")):
            if (number := run_all.tag_of(cell, kind)) is not None:
                assert f"Exercise {number}: {expected}" in text_outputs(cell), text_outputs(cell)


def test_an_error_or_a_warning_is_a_failure():
    for source in (
        "1 / 0",
        "import warnings; warnings.warn('look out')",
        "import sys; print('oh', file=sys.stderr)",
    ):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
        with pytest.raises(run_all.Faulty):
            run_all.execute(notebook, fast=True)


# A question comes before its answer -------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_page_ends_with_take_aways_before_its_exercises(path):
    (cell,) = [cell for cell in cells(path, "markdown") if "## Take-aways" in cell.source]
    takeaways, _, rest = cell.source.partition("## Take-aways")[2].partition("## Exercises")
    assert rest, "the exercises do not follow"
    assert takeaways.count("\n- ") >= 3 or takeaways.count("\n|") >= 5


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_outputs_under_a_question_are_folded(path):
    """All between a question and its answer, except source code and exercises."""
    asked = False
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            question, answer = (
                cell.source.rfind(mark) for mark in ("> **Predict.**", "<summary>Answer</summary>")
            )
            asked = question > answer if max(question, answer) >= 0 else asked
            continue
        shows = cell.outputs and not re.fullmatch(r"show_source\([^)]*\)", cell.source.strip())
        folded = cell.metadata.get("jupyter", {}).get("outputs_hidden", False)
        assert folded == bool(asked and shows and not cell.metadata.get("tags")), cell.source


def test_a_page_folds_what_jupyter_folds(tmp_path):
    cell = nbformat.v4.new_code_cell("1", metadata={"jupyter": {"outputs_hidden": True}})
    cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text="the answer")]
    notebook = nbformat.v4.new_notebook(cells=[cell])
    nbformat.write(notebook, tmp_path / "page.ipynb")
    folded = pages.page(tmp_path / "page.ipynb")
    body = folded.partition("<main")[2]
    opens = body.find('<details class="folded-output">')
    assert 0 <= opens < body.find("the answer") < body.find("</details>")
    del cell.metadata["jupyter"]
    nbformat.write(notebook, tmp_path / "page.ipynb")
    assert '<details class="folded-output">' not in pages.page(tmp_path / "page.ipynb")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_an_empty_exercise_says_that_there_is_no_answer_yet(path):
    for cell in cells(path, "code"):
        if (number := run_all.tag_of(cell, "check")) is not None:
            said = text_outputs(cell)
            empty = ("no answer yet", "the function returns nothing yet")
            assert any(f"Exercise {number}: not yet ({words})" in said for words in empty), said


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_fewer_steps_for_tests_stand_in_the_metadata_and_fit_the_code(path):
    for cell in cells(path, "code"):
        source = cell.source
        for full, quick in cell.metadata.get("quick", []):
            assert source.count(full) == 1, f"{full!r} stands not once in\n{source}"
            source = source.replace(full, quick)
        assert source == run_all.quick_source(cell)
        ast.parse(source)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_article_is_quoted_and_translated(path):
    (head, *_) = cells(path, "markdown")
    quote = head.source.partition("**The article says** (section ")[2]
    assert re.search(r"> .*[\u4e00-\u9fff]{5}.*\n>\n> [A-Z].*\.", quote)
