"""The models of a run, loaded once to look inside: open_models for a program, show for a notebook.

from minirlhf.runs import look_inside
look_inside.show("runs/demo", "sleep")
"""

from __future__ import annotations

import dataclasses
import os
import uuid
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from minirlhf.feedback.conversation import Prompt, as_conversation, from_json
from minirlhf.look_inside.html import CSS, view
from minirlhf.look_inside.looks import TextLook
from minirlhf.look_inside.tokens import Judge, LookModels, look
from minirlhf.look_inside.write import Chosen, WritingOptions, write
from minirlhf.models.next_token import SamplingOptions
from minirlhf.models.policy import Policy
from minirlhf.runs import run_models
from minirlhf.runs.chat import WRITERS
from minirlhf.runs.folder import Run
from minirlhf.runs.products import RESULT
from minirlhf.runs.run_task import task_of
from minirlhf.runs.topics import has_conversations
from minirlhf.tasks.openings import judge as openings
from minirlhf.tasks.task import Task
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.rollout import AnyReward

SPLITS_SHOWN = ("train", "heldout")  # in the report


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
    if found := run_models.newest_reward_model(run):
        conservatism = run.config.finetune.conservatism
        reward_model = run_models.load_reward_model(run, found, tokenizer, conservatism).eval()
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
    conversations = has_conversations(run)

    @cache
    def judge_of_task() -> Judge:
        if run.config.feedback is None and run.config.task == "openings":
            return explained(openings.judge, openings.explain)  # a quarter of a second, not three
        # The corpus is not needed, and takes the longest to compose.
        pretrain = dataclasses.replace(run.config.pretrain, corpus_texts=1)
        task = task_of(Run(run.path, dataclasses.replace(run.config, pretrain=pretrain)))
        return explained(task.judge, task.explain)

    def judge(prompt: Prompt, text: str) -> tuple[float, dict[str, float]]:
        return judge_of_task()(as_conversation(prompt) if conversations else prompt, text)

    return judge


def explained(
    judge: Callable[[Any, str], float], explain: Callable[[Any, str], dict[str, float]] | None
) -> Judge:
    """A judge that also says why, if it can."""

    def both(prompt: Prompt, text: str) -> tuple[float, dict[str, float]]:
        return judge(prompt, text), {} if explain is None else explain(prompt, text)

    return both


# --- the report -----------------------------------------------------------------------------------


def looks_of_samples(
    run: Run, task: Task, policies: dict[str, Policy], reward_model: AnyReward, rows: list[dict]
) -> list[TextLook]:
    """A few evaluated samples, token by token: of each split the first, before and after.

    `policies` are those of `summary.models_of`, `rows` those of samples.jsonl. The tokens are those
    of the text as it is read, which may be others than were sampled.
    """
    tokenizer = Tokenizer.load(run.path / "tokenizer.json")
    stages = {"before": "sft" if "base" in policies else "base", "after": "tuned"}
    models = LookModels(
        writers={stage: policies[when] for when, stage in stages.items()},
        reference=policies["before"],
        tokenizer=tokenizer,
        reward_model=reward_model,
        judge=explained(task.judge, task.explain),
        settings=run.config.finetune,
        kl_weight=last_kl_weight(run),
    )
    looks = []
    for split in SPLITS_SHOWN:
        for when, stage in stages.items():
            row = next((row for row in rows if (row["split"], row["when"]) == (split, when)), None)
            if row is None:
                continue
            prompt = from_json(row.get("turns", row["topic"]))
            ids = tokenizer.encode_text(row["text"])[: models.context - len(models.prompt(prompt))]
            if row["length_tokens"] >= run.config.finetune.max_new_tokens and not row["reward"]:
                ids = ids[:-1]  # it was cut off: it has no end
            if ids:
                looks.append(look(models, prompt, ids, stage))
    return looks


# --- the notebook ---------------------------------------------------------------------------------


class Shown:
    """Texts token by token, for a notebook: the last line of a cell."""

    def __init__(self, looks: list[TextLook]):
        self.looks = looks

    def _repr_html_(self) -> str:
        """The views with their style sheet; each has a name of its own, also if shown twice."""
        views = "".join(view(one, f"look-{uuid.uuid4().hex}") for one in self.looks)
        return f"<style>{CSS}</style>{views}"


def show(
    run: Run | str | os.PathLike[str],
    prompt: Prompt,
    text: str | None = None,
    *,
    stages: Sequence[str] | None = None,
    options: SamplingOptions = SamplingOptions(),
    seed: int = 0,
) -> Shown:
    """What the models of a run write to a prompt, or think of `text`, token by token.

    `run` is a run or its folder; `stages` are base, sft, tuned (all that the run has). With a
    `text` nothing is sampled. Raises ValueError as `open_models`, `write` and `look` do.
    """
    if not isinstance(run, Run):
        run = Run.open(Path(run))
    models = open_models(run)
    looks = []
    for stage in stages or models.writers:
        shown: str | list[int] | None = text
        if shown is None:
            *_, last = write(models, prompt, stage, WritingOptions(options, seed))
            assert isinstance(last, Chosen)
            shown = last.tokens
        looks.append(look(models, prompt, shown, stage))
    return Shown(looks)
