"""The front door: an installed package runs anywhere, and the links in the pages resolve."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tiny_command import tiny_options

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "data/README.md")
SOURCES = ("pyproject.toml", "setup.py", "requirements.txt", "README.md", "LICENSE")
TINY = tiny_options(pretrain_steps=2, reward_steps=2, reward_own_texts=8, finetune_updates=1)


def run(*command: object, folder: Path, **environment: str) -> str:
    """Run a command in `folder`; return its standard output, or fail with what it said."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy: building leaves a build folder, which the checkout shall not
    get.
    """
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        shutil.copy(ROOT / name, source / name)
    for name in ("minirlhf", "data"):
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.tmp")
        )
    build = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(sys.executable, *build, "--wheel-dir", folder, source, folder=folder)
    (path,) = folder.glob("minirlhf-*.whl")
    return path


def test_the_wheel_holds_every_module_and_the_data(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("minirlhf/**/*.py")}
    data = {
        "minirlhf/" + path.relative_to(ROOT).as_posix()
        for path in ROOT.glob("data/**/*")
        if path.is_file()
        and (path.suffix in (".json", ".jsonl") or path.parent.name.startswith("base"))
    }
    assert {"minirlhf/data/topics.json", "minirlhf/data/openings.jsonl"} <= data
    pages = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("minirlhf/play/static/*")}
    assert "minirlhf/play/static/index.html" in pages
    assert modules | data | pages <= names


def test_an_installed_package_runs_the_demo_from_an_empty_folder(wheel, tmp_path):
    target, folder = tmp_path / "target", tmp_path / "empty"
    folder.mkdir()
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target)
    run(sys.executable, *install, wheel, folder=folder)

    where = run(
        *(sys.executable, "-c", "import minirlhf; print(minirlhf.__file__)"),
        folder=folder,
        PYTHONPATH=str(target),
    )
    assert Path(where.strip()).is_relative_to(target)

    run(*(sys.executable, "-m", "minirlhf", "demo", *TINY), folder=folder, PYTHONPATH=str(target))
    summary = json.loads((folder / "runs" / "demo" / "summary.json").read_text(encoding="utf-8"))
    assert summary["train"]["judge_after"]["n"] == 16


def test_the_extra_reviews_and_its_requirements_file_agree():
    extra = re.search(
        r"^reviews = (\[.*\])$", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE
    )
    lines = (ROOT / "requirements-reviews.txt").read_text(encoding="utf-8").split()
    assert json.loads(extra[1]) == lines


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page):
    path = ROOT / page
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        if target.startswith("http"):
            continue
        aim = path.parent / file if file else path
        assert aim.exists(), f"{page}: broken link {target}"
        if anchor:
            assert anchor in anchors(aim), f"{page}: no section #{anchor} in {aim.name}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings: lower case, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", words).strip().lower().replace(" ", "-") for words in headings}
