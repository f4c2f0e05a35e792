"""The models of a run, loaded once to look inside: open_models for a program, show for a notebook.

from minirlhf.runs import look_inside
look_inside.show("runs/demo", "sleep")
"""

from __future__ import annotations

import dataclasses
from functools import cache

from minirlhf.feedback.conversation import Prompt, as_conversation
from minirlhf.look_inside.tokens import Judge, LookModels
from minirlhf.runs import run_models
from minirlhf.runs.chat import REWARD_MODELS, WRITERS
from minirlhf.runs.folder import Run
from minirlhf.runs.products import RESULT
from minirlhf.runs.run_task import task_of
from minirlhf.runs.topics import has_conversations
from minirlhf.tasks.task import Task
from minirlhf.tokenizer import Tokenizer


def open_models(run: Run) -> LookModels:
    """All models that the run has so far, in evaluation mode.

    The judge is that of the run's task; the task is loaded when it is first asked. Raises
    ValueError if the run is not pretrained yet.
    """
    if not run.is_done("pretrain"):
        raise ValueError(
            f"{run.path}: no model here yet; run: python -m minirlhf pretrain {run.words} --resume"
        )
    tokenizer = Tokenizer.load(run.path / "tokenizer.json")
    writers = {
        name: run_models.load_policy(run, RESULT[stage], tokenizer).eval()
        for name, stage in WRITERS.items()
        if run.is_done(stage)
    }
    reward_model = None
    if found := [name for name in REWARD_MODELS if (run.path / name).exists()]:
        conservatism = run.config.finetune.conservatism
        reward_model = run_models.load_reward_model(run, found[0], tokenizer, conservatism).eval()
    return LookModels(
        writers=writers,
        reference=writers["sft" if "sft" in writers else "base"],
        tokenizer=tokenizer,
        reward_model=reward_model,
        judge=judge_of(run),
        settings=run.config.finetune,
        kl_weight=last_kl_weight(run),
    )


def last_kl_weight(run: Run) -> float:
    """What a nat cost in the last update of fine-tuning; before the first, what it will cost."""
    logged = [row["kl_weight"] for row in run.read("metrics.jsonl") if "kl_weight" in row]
    return logged[-1] if logged else run.config.finetune.kl_weight


def judge_of(run: Run) -> Judge:
    """The judge of the run's task, with the points of its rules. The task is loaded when needed."""

    @cache
    def task() -> Task:
        # Its corpus is not needed, and takes the longest to compose.
        pretrain = dataclasses.replace(run.config.pretrain, corpus_texts=1)
        small = dataclasses.replace(run.config, pretrain=pretrain)
        return task_of(Run(run.path, small))

    conversations = has_conversations(run)

    def judge(prompt: Prompt, text: str) -> tuple[float, dict[str, float]]:
        if conversations:
            prompt = as_conversation(prompt)
        score = task().judge(prompt, text)
        explain = task().explain
        return score, explain(prompt, text) if explain is not None else {}

    return judge
