"""What a run reports at its end: samples judged before and after fine-tuning, and summary.json."""

from __future__ import annotations

from minirlhf.config_file import to_json
from minirlhf.evaluation.judge import is_reward_hacking, sample_and_judge, summarise
from minirlhf.runs.folder import Run
from minirlhf.runs.hardware import hardware
from minirlhf.runs.products import REWARD_FINAL
from minirlhf.runs.run_models import load_reward_model, model_for_sampling, tokenizer_of
from minirlhf.tasks.task import Task
from minirlhf.training.rollout import Models, in_turn


def judge_samples(run: Run, task: Task) -> tuple[dict[str, dict], list[dict]]:
    """Per split (training, held-out topics) the means before and after; and the judged samples."""
    config, tokenizer = run.config, tokenizer_of(run, task)
    reference = model_for_sampling(run, tokenizer, tuned=False)
    policy = model_for_sampling(run, tokenizer, tuned=True)
    reward_model = load_reward_model(run, REWARD_FINAL, tokenizer, config.finetune.conservatism)
    splits, rows = {}, []
    for split, topics in (("train", task.train_prompts), ("heldout", task.heldout_prompts)):
        judged = {}
        for when, model in (("before", reference), ("after", policy)):
            judged[when] = sample_and_judge(
                Models(model, reference, reward_model, tokenizer),
                task,
                in_turn(topics, config.evaluate.samples),
                config.finetune.max_new_tokens,
                config.seed,
                f"judge {split} {when}",
            )
            rows += [{"when": when, "split": split, **row} for row in judged[when]]
        splits[split] = summarise(judged["before"], judged["after"])
    return splits, rows


def summary_of(run: Run, task: Task, splits: dict[str, dict]) -> dict:
    """What summary.json holds: the results, how they were obtained, and all settings."""
    config, progress = run.config, run.progress()
    return {
        "task": config.task if config.feedback is None else str(config.feedback.name),
        "seed": config.seed,
        "device": str(run.device),
        "hardware": hardware(run.device),
        "judge_name": task.judge_name,
        "seconds": progress["seconds"] | {"total": round(sum(progress["seconds"].values()), 2)},
        "peak_rss_mb": progress.get("peak_rss_mb"),
        "ratings": {
            "shipped": len(task.feedback) + len(task.heldout_feedback),
            "raters": task.raters_are if task.ranker else task.feedback[0].provenance,
            "authors": len(task.authors_feedback),
            "collected": progress.get("collected_first", 0) + progress.get("collected", 0),
        },
        "reward_model": progress["reward_model"],
        **splits,
        "reward_hacking": is_reward_hacking(*splits.values()),
        "notes": list(task.notes),
        "config": to_json(config),
    }
