"""The stages of a run: pretrain, sft, reward, finetune, evaluate. `demo` runs all of them.

Supervised fine-tuning (sft) is left out where there are no demonstrations.

Each loads what it needs from the run folder, calls the training or evaluation, and stores the
result. A stage whose result is in the folder is not repeated; an interrupted one continues at its
checkpoint.
"""

from __future__ import annotations

import json
import sys
import time

import torch

from minirlhf.feedback.demonstrations import split_demonstrations
from minirlhf.feedback.records import Triple
from minirlhf.look_inside.looks import to_json
from minirlhf.reports.run_report import write_report
from minirlhf.runs.base import read_base
from minirlhf.runs.divergence import check_loss
from minirlhf.runs.folder import Run
from minirlhf.runs.limits import length_warning
from minirlhf.runs.look_inside import looks_of_samples
from minirlhf.runs.products import LOOKS, RESULT, REWARD_FINAL
from minirlhf.runs.run_comparisons import comparisons_of
from minirlhf.runs.run_feedback import first_ratings, split_feedback
from minirlhf.runs.run_models import (
    load_policy,
    load_reward_model,
    new_reward_model,
    start_of,
    tokenizer_of,
)
from minirlhf.runs.run_reward import quality_of, texts_of
from minirlhf.runs.summary import (
    alignment_tax,
    judge_samples,
    models_of,
    safety_of,
    summary_of,
)
from minirlhf.system.files import atomic_write
from minirlhf.tasks.task import Task
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.batches import EncodedTexts, Split, corpus_of
from minirlhf.training.demonstrations import train_on_demonstrations
from minirlhf.training.dpo import train_on_comparisons
from minirlhf.training.finetune import finetune
from minirlhf.training.pretrain import pretrain
from minirlhf.training.rollout import Models
from minirlhf.training.train_reward_model import train_reward_model
from minirlhf.training.truncation import CutTopics
from minirlhf.training.tuning import policy_to_tune, reference_of


def pretrain_stage(run: Run, task: Task) -> None:
    """Pretrain the policy: take a base, train from random weights, or train a base further."""
    started = time.perf_counter()
    settings, policy = run.config.pretrain, None
    if settings.start == "base":
        base = read_base(settings.base or task.base)
        base.tokenizer().save(run.path / "tokenizer.json")
        policy = base.policy().to(run.device)
        if not run.read("metrics.jsonl"):
            run.append("metrics.jsonl", base.curve())
    tokenizer = tokenizer_of(run, task)
    warn_of_cut_topics(run, task, tokenizer)
    if run.config.feedback is not None:
        warn_of_long_texts(run, task, tokenizer)
    if policy is None or settings.steps > 0:
        log, checkpoints = run.log("pretrain"), run.checkpoints("pretrain")
        policy = pretrain(tokenizer, corpus_of(task), run.config, log, checkpoints, policy)
        check_loss(log.rows, "pretrain", run.config)
    run.finish_stage("pretrain", _seconds(run, "pretrain", started), {RESULT["pretrain"]: policy})


def sft_stage(run: Run, task: Task) -> None:
    """Supervised fine-tuning on the demonstrations; without any there is no such stage."""
    if not task.demonstrations:
        return
    started = time.perf_counter()
    settings, seed, tokenizer = run.config.sft, run.config.seed, tokenizer_of(run, task)
    start = load_policy(run, RESULT["pretrain"], tokenizer)
    policy = policy_to_tune(start, settings, task, tokenizer, seed)
    context = policy.config.context
    parts = split_demonstrations(task.demonstrations, settings.heldout_share, seed)
    texts = Split(*(EncodedTexts(tokenizer, part, context) for part in parts))
    if cut := texts.train.cut + texts.heldout.cut:
        print(
            f"warning: {cut:,} of {len(task.demonstrations):,} demonstrations are longer than "
            f"{context} tokens with their prompt and lose their end; raise --model.context",
            file=sys.stderr,
        )
    log, checkpoints = run.log("sft"), run.checkpoints("sft")
    train_on_demonstrations(policy, texts, settings, seed, log, checkpoints)
    check_loss(log.rows, "sft", run.config)
    run.finish_stage("sft", _seconds(run, "sft", started), {RESULT["sft"]: policy})


def warn_of_cut_topics(run: Run, task: Task, tokenizer: Tokenizer) -> None:
    """Tell how many topics are too long for the context, and whether some become the same."""
    topics = [*task.train_prompts, *task.heldout_prompts]
    if warning := CutTopics.of(tokenizer, topics, run.config.model.context).warning():
        print(f"warning: {warning}", file=sys.stderr)


def warn_of_long_texts(run: Run, task: Task, tokenizer: Tokenizer) -> None:
    """Tell how many of the user's texts are longer than the run's limits."""
    texts = [(triple.topic, triple.text) for triple in task.feedback + task.heldout_feedback]
    limits = run.config.model.context, run.config.finetune.max_new_tokens
    if warning := length_warning(tokenizer, texts, *limits):
        print(f"warning: {warning}", file=sys.stderr)


def reward_stage(run: Run, task: Task) -> None:
    """Train the reward model on scores or, where answers are ranked, on rankings; measure it."""
    started = time.perf_counter()
    tokenizer, seed = tokenizer_of(run, task), run.config.seed
    texts = texts_of(run, task, tokenizer)
    # Seeded only here, so that the initial weights do not depend on whether the policy's samples
    # had already been rated or were rated just now.
    torch.manual_seed(seed)
    model = new_reward_model(run, tokenizer, task)
    log, checkpoints = run.log("reward"), run.checkpoints("reward")
    model = train_reward_model(model, texts, run.config.reward, seed, log, checkpoints)
    run.finish_stage(
        "reward",
        _seconds(run, "reward", started),
        {RESULT["reward"]: model},
        reward_model=quality_of(model, run, task, tokenizer, texts),
        collected_first=len(first_ratings(run, task)),
    )


def finetune_stage(run: Run, task: Task) -> None:
    """Fine-tune the policy on the reward model's scores, or (DPO) on comparisons directly."""
    started = time.perf_counter()
    settings, tokenizer = run.config.finetune, tokenizer_of(run, task)
    start = load_policy(run, start_of(run), tokenizer)
    reward_model = load_reward_model(run, RESULT["reward"], tokenizer, settings.conservatism)
    reference = reference_of(start, settings.tune)
    policy = policy_to_tune(start, settings, task, tokenizer, run.config.seed)
    models = Models(policy, reference, reward_model, tokenizer)
    log, checkpoints = run.log("finetune"), run.checkpoints("finetune")
    collected: list[Triple] = []
    if settings.algorithm == "dpo":
        compared = comparisons_of(run, task)
        train_on_comparisons(models, task, run.config, compared, log, checkpoints)
        check_loss(log.rows, "finetune", run.config)
    else:
        feedback = Split(*split_feedback(run, task))
        collected = finetune(models, task, run.config, feedback, log, checkpoints)
    run.finish_stage(
        "finetune",
        _seconds(run, "finetune", started),
        {REWARD_FINAL: reward_model, RESULT["finetune"]: policy},
        collected=len(collected),
    )


def evaluate_stage(run: Run, task: Task) -> dict:
    """Judge before and after; write samples.jsonl, looks.jsonl, summary.json, report.html.

    Returns the summary.
    """
    started = time.perf_counter()
    models, conservatism = models_of(run, task), run.config.finetune.conservatism
    reward_model = load_reward_model(run, REWARD_FINAL, tokenizer_of(run, task), conservatism)
    splits, rows = judge_samples(run, task, models, reward_model)
    others = safety_of(run, task, models) | alignment_tax(run, task, models)
    logged = [row for row in run.read("samples.jsonl") if row["when"].startswith("step")]
    run.rewrite("samples.jsonl", logged + rows)
    looks = looks_of_samples(run, task, models, reward_model, rows)
    run.rewrite(LOOKS, map(to_json, looks))
    run.finish_stage("evaluate", time.perf_counter() - started, {})
    summary = summary_of(run, task, splits, others)
    text = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
    atomic_write(run.path / "summary.json", text)
    write_report(run.path)
    return summary


def _seconds(run: Run, stage: str, started: float) -> float:
    """Wall seconds of a stage. Its last row of metrics includes those before an interruption."""
    logged = [row["seconds"] for row in run.read("metrics.jsonl") if row["stage"] == stage]
    return max([time.perf_counter() - started, *logged[-1:]])


STAGE_FUNCTIONS = {
    "pretrain": pretrain_stage,
    "sft": sft_stage,
    "reward": reward_stage,
    "finetune": finetune_stage,
    "evaluate": evaluate_stage,
}
