"""The command line and the task of a run of seconds, for tests that go through `minirlhf demo`."""

from __future__ import annotations

import dataclasses
from functools import cache

from minirlhf.tasks.openings import task as openings
from minirlhf.tasks.task import Task

DEFAULTS = {
    "--model.vocab-size": 300,
    "--model.width": 16,
    "--model.layers": 1,
    "--model.heads": 2,
    "--device": "cpu",
    "--pretrain.corpus-texts": 1500,
    "--pretrain.steps": 20,
    "--pretrain.batch-size": 8,
    "--reward.steps": 10,
    "--reward.batch-size": 8,
    "--finetune.updates": 2,
    "--finetune.batch-size": 8,
    "--finetune.rounds": 1,
    "--finetune.max-new-tokens": 30,
    "--evaluate.samples": 16,
}


def tiny_options(**changes: int) -> list[str]:
    """Options of `demo` for a tiny model from random weights and a few steps of each stage.

    `changes` are other values or more settings: pretrain_batch_size=4 is --pretrain.batch-size 4.
    """
    options = dict(DEFAULTS)
    for name, value in changes.items():
        stage, setting = name.split("_", maxsplit=1)
        options[f"--{stage}.{setting.replace('_', '-')}"] = value
    return ["--from-scratch", *(str(word) for pair in options.items() for word in pair)]


@cache
def small_openings() -> Task:
    """The openings task with a tenth of its texts."""
    task = openings.load(0)
    return dataclasses.replace(
        task,
        corpus=task.corpus[:1500],
        corpus_heldout=task.corpus_heldout[:50],
        feedback=task.feedback[:400],
    )
