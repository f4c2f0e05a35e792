"""The stages of a run, each from run folder to run folder: pretrain, reward, finetune, evaluate. `demo` is the four in a row.

A stage whose result is already in the folder is not done again; one that was interrupted goes on at its checkpoint.
"""
from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path

import torch

from minirlhf.config import to_json
from minirlhf.ensemble import RewardEnsemble
from minirlhf.evaluate import is_reward_hacking, sample_and_judge, summarise
from minirlhf.feedback import Triple, split_triples
from minirlhf.policy import Policy
from minirlhf.report import write_report
from minirlhf.reward import RewardModel
from minirlhf.run import Run, atomic_write
from minirlhf.tasks import Task, load_task, own
from minirlhf.tokenizer import Tokenizer, train_bpe
from minirlhf.training.finetune import finetune
from minirlhf.training.fit_reward import ScoredTexts, correlation, fit_reward, predict, quality, ranks
from minirlhf.training.pretrain import pretrain
from minirlhf.transformer import TransformerConfig

RESULT = {"pretrain": "pretrained.safetensors", "reward": "reward.safetensors", "finetune": "policy.safetensors",
          "evaluate": "summary.json"}
STAGES = tuple(RESULT)


def task_of(run: Run) -> Task:
    """The run's task, or the user's own feedback made into one."""
    config = run.config
    if config.feedback is not None:
        return own.load(config.feedback, config.score_range, config.seed)
    return load_task(config.task, config.seed)


def is_done(run: Run, stage: str) -> bool:
    return (run.path / RESULT[stage]).exists()


def tokenizer_of(run: Run, task: Task) -> Tokenizer:
    path = run.path / "tokenizer.json"
    if not path.exists():
        texts = [f"{topic} {text}" for topic, text in task.corpus]
        Tokenizer(train_bpe(texts, run.config.model.vocab_size)).save(path)
    return Tokenizer.load(path)


def load_policy(run: Run, name: str, tokenizer: Tokenizer) -> Policy:
    model = run.config.model
    config = TransformerConfig(tokenizer.vocab_size, model.context, model.width, model.layers, model.heads,
                               tie_embeddings=model.tie_embeddings)
    return run.load_model(name, Policy(config))


def load_reward_model(run: Run, name: str, tokenizer: Tokenizer, conservatism: float = 0.0) -> RewardModel | RewardEnsemble:
    model, count = run.config.model, run.config.reward.ensemble
    config = TransformerConfig(tokenizer.vocab_size, model.context, model.width, model.layers, model.heads)
    return run.load_model(name, _one_or_ensemble([RewardModel(config) for _ in range(count)], conservatism))


def _one_or_ensemble(models: list[RewardModel], conservatism: float = 0.0) -> RewardModel | RewardEnsemble:
    return models[0] if len(models) == 1 else RewardEnsemble(models, conservatism)


def new_reward_model(run: Run, tokenizer: Tokenizer) -> RewardModel | RewardEnsemble:
    """The reward model before it has learned from feedback, on the run's device."""
    policy = load_policy(run, RESULT["pretrain"], tokenizer)
    models = [RewardModel.from_policy(policy) if run.config.reward.start == "pretrained" else RewardModel(policy.config)
              for _ in range(run.config.reward.ensemble)]
    return _one_or_ensemble(models).to(run.device)


def split_feedback(run: Run, task: Task) -> tuple[list[Triple], list[Triple]]:
    """Training and held-out triples. A task with feedback of its own for that (held-out films) decides itself."""
    if task.heldout_feedback:
        return task.feedback, task.heldout_feedback
    return split_triples(task.feedback, run.config.reward.heldout_share, run.config.seed)


def pretrain_stage(run: Run, task: Task) -> None:
    started = time.perf_counter()
    tokenizer = tokenizer_of(run, task)
    policy = pretrain(run, tokenizer, task.corpus, task.corpus_heldout)
    run.save_model(RESULT["pretrain"], policy)
    run.finish_stage("pretrain", _seconds(run, "pretrain", started))


def reward_stage(run: Run, task: Task) -> None:
    started = time.perf_counter()
    torch.manual_seed(run.config.seed)
    tokenizer = tokenizer_of(run, task)
    train_triples, heldout_triples = split_feedback(run, task)
    context = run.config.model.context
    train = ScoredTexts(tokenizer, train_triples, context, task.comparisons)
    heldout = ScoredTexts(tokenizer, heldout_triples, context, task.heldout_comparisons)
    model = fit_reward(run, new_reward_model(run, tokenizer), train, heldout, run.config.reward)
    facts = quality(model, train, heldout)
    facts["handwritten_spearman"] = None
    if task.handwritten:
        handwritten = ScoredTexts(tokenizer, task.handwritten, context)
        facts["handwritten_spearman"] = correlation(ranks(predict(model, handwritten)), ranks(handwritten.scores))
        facts["handwritten_n"] = len(handwritten)
    run.save_model(RESULT["reward"], model)
    run.finish_stage("reward", _seconds(run, "reward", started), reward_model=facts)


def finetune_stage(run: Run, task: Task) -> None:
    started = time.perf_counter()
    tokenizer = tokenizer_of(run, task)
    policy = load_policy(run, RESULT["pretrain"], tokenizer)
    reward_model = load_reward_model(run, RESULT["reward"], tokenizer, run.config.finetune.conservatism)
    train_triples, heldout_triples = split_feedback(run, task)
    policy, reward_model, collected = finetune(run, task, tokenizer, policy, reward_model, train_triples, heldout_triples)
    run.save_model("reward_final.safetensors", reward_model)
    run.save_model(RESULT["finetune"], policy)
    run.finish_stage("finetune", _seconds(run, "finetune", started), collected=collected)


def evaluate_stage(run: Run, task: Task) -> dict:
    """Judge before and after; write samples.jsonl, summary.json and report.html; return the summary."""
    started = time.perf_counter()
    config = run.config
    tokenizer = tokenizer_of(run, task)
    reference, policy = (load_policy(run, RESULT[stage], tokenizer).eval() for stage in ("pretrain", "finetune"))
    reward_model = load_reward_model(run, "reward_final.safetensors", tokenizer, config.finetune.conservatism)
    splits, rows = {}, []
    for split, topics in (("train", task.train_prompts), ("heldout", task.heldout_prompts)):
        judged = {}
        for when, model in (("before", reference), ("after", policy)):
            judged[when] = sample_and_judge(model, reference, reward_model, tokenizer, task, topics, config.evaluate.samples,
                                            config.finetune.max_new_tokens, config.seed, f"judge {split} {when}")
            rows += [{"when": when, "split": split, **row} for row in judged[when]]
        splits[split] = summarise(judged["before"], judged["after"])
    run.rewrite("samples.jsonl", [row for row in run.read("samples.jsonl") if row["when"].startswith("step")] + rows)
    run.finish_stage("evaluate", time.perf_counter() - started)
    progress = run.progress()
    summary = {
        "task": config.task if config.feedback is None else str(config.feedback.name), "seed": config.seed,
        "device": str(run.device), "hardware": hardware(run.device), "judge_name": task.judge_name,
        "seconds": progress["seconds"] | {"total": round(sum(progress["seconds"].values()), 2)},
        "peak_rss_mb": progress.get("peak_rss_mb"),
        "ratings": {"shipped": len(task.feedback) + len(task.heldout_feedback), "collected": progress.get("collected", 0),
                    "raters": task.feedback[0].provenance},
        "reward_model": progress["reward_model"], **splits, "reward_hacking": is_reward_hacking(*splits.values()),
        "notes": list(task.notes), "config": to_json(config),
    }
    atomic_write(run.path / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    write_report(run.path)
    return summary


def _seconds(run: Run, stage: str, started: float) -> float:
    """Wall seconds of a stage, those before an interruption included (they stand in its last line of metrics)."""
    logged = [row["seconds"] for row in run.read("metrics.jsonl") if row["stage"] == stage]
    return max([time.perf_counter() - started, *logged[-1:]])


def hardware(device: torch.device) -> dict[str, str]:
    """What this ran on, in words."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"device": name, "cores": str(os.cpu_count()), "threads": str(torch.get_num_threads()),
            "system": platform.system(), "python": platform.python_version(), "torch": torch.__version__}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def model_for_sampling(run: Run, tokenizer: Tokenizer, tuned: bool) -> Policy:
    """The policy after (or, with tuned=False, before) fine-tuning."""
    return load_policy(run, RESULT["finetune" if tuned else "pretrain"], tokenizer).eval()


STAGE_FUNCTIONS = {"pretrain": pretrain_stage, "reward": reward_stage, "finetune": finetune_stage,
                   "evaluate": evaluate_stage}
