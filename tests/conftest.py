"""One tiny run for all tests that need one: the real stages on the real task, small enough for
seconds.
"""

from __future__ import annotations

import inspect
import os
import sys
from functools import cache
from pathlib import Path

# One thread, here and in every process that a test starts: tiny models gain nothing from more, and
# sums keep their order.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import quick_figures  # noqa: F401
import torch
from tiny_command import small_openings

from minirlhf.config import (
    Config,
    EvaluateConfig,
    FinetuneConfig,
    ModelConfig,
    PretrainConfig,
    RewardConfig,
)
from minirlhf.runs import pipeline, products, run_task
from minirlhf.runs.folder import Run
from minirlhf.system import devices
from minirlhf.tasks import custom
from minirlhf.tasks.task import Task

# tyro reads the source of every dataclass of settings anew for each command line.
inspect.getsource = cache(inspect.getsource)
# Where this package is, jsonschema compiles its grammar of web addresses (3 s in each process that
# reads a notebook). No field of a notebook is checked by it.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

# Begun first, so that the workers of pytest-xdist end together.
SLOW_FILES = (
    "test_notebooks.py",
    "test_distributed.py",
    "test_package.py",
    "test_robustness.py",
    "test_cli.py",
    "test_iterate.py",
    "test_precision.py",
    "test_algorithms.py",
    "test_training.py",
    "test_report.py",
)


def pytest_collection_modifyitems(items):
    rank = {name: place for place, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))


@pytest.fixture(autouse=True)
def no_precision_chosen(monkeypatch):
    """A run that one test opens chooses the precision of the whole process: the next test begins
    without a choice.
    """
    monkeypatch.setattr(devices, "_chosen", {})


TINY = Config(
    device="cpu",
    precision="float32",  # the same numbers on every machine; test_precision.py has the rest
    model=ModelConfig(vocab_size=400, context=96, width=32, layers=1, heads=2),
    pretrain=PretrainConfig(steps=30, batch_size=16, warmup=5, evaluate_every=10),
    reward=RewardConfig(
        own_texts=40, heldout_share=0.1, steps=20, batch_size=16, warmup=2, evaluate_every=10
    ),
    finetune=FinetuneConfig(
        updates=6, batch_size=16, max_new_tokens=40, rounds=2, ratings_per_round=20, refit_steps=4
    ),
    evaluate=EvaluateConfig(samples=32),
)


@pytest.fixture(scope="session")
def small_task() -> Task:
    """The openings task with a tenth of its texts."""
    return small_openings()


@pytest.fixture
def small_openings_only(monkeypatch, small_task) -> None:
    """Commands on the task `openings` take the small one, too; own texts join a small corpus."""
    monkeypatch.setattr(run_task, "load_task", lambda *_: small_task)
    monkeypatch.setattr(custom.openings, "CORPUS_SIZE", 1500)


def run_all(path: Path, task: Task, config: Config = TINY) -> Run:
    run = Run.create(path, config)
    for stage in products.STAGES:
        pipeline.STAGE_FUNCTIONS[stage](run, task)
    return run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, small_task) -> Run:
    return run_all(tmp_path_factory.mktemp("runs") / "tiny", small_task)
