"""What a run reports at its end: samples judged before and after fine-tuning, and summary.json.

Up to three models are judged: "base" is the pretrained one, "before" the one that feedback tunes,
"after" the one that it has tuned. Without supervised fine-tuning, "before" is the base itself.
"""

from __future__ import annotations

from minirlhf.config_file import to_json
from minirlhf.evaluation.corpus_loss import text_losses
from minirlhf.evaluation.judge import (
    is_reward_hacking,
    judged_row,
    sample_and_judge,
    sample_texts,
    summarise,
)
from minirlhf.evaluation.refusals import refusal_shares
from minirlhf.models.policy import Policy
from minirlhf.runs.folder import Run
from minirlhf.runs.hardware import hardware
from minirlhf.runs.products import FIRST_RATINGS, RESULT, SFT
from minirlhf.runs.run_models import load_policy, model_for_sampling, tokenizer_of
from minirlhf.tasks.task import Task
from minirlhf.training.batches import EncodedTexts
from minirlhf.training.ratings import COLLECTED
from minirlhf.training.rollout import AnyReward, Models, in_turn

CORPUS_TEXTS = 256  # held-out texts of the corpus, for the alignment tax
SAFETY_SHARE = 2  # requests of each of the two kinds, as a share of evaluate.samples: a half


def models_of(run: Run, task: Task) -> dict[str, Policy]:
    """The models to judge: "before" and "after", and "base" if that is another than "before"."""
    tokenizer = tokenizer_of(run, task)
    models = {}
    if run.is_done(SFT):
        models["base"] = load_policy(run, RESULT["pretrain"], tokenizer).eval()
    models["before"] = model_for_sampling(run, tokenizer, tuned=False)
    models["after"] = model_for_sampling(run, tokenizer, tuned=True)
    return models


def judge_samples(
    run: Run, task: Task, models: dict[str, Policy], reward_model: AnyReward
) -> tuple[dict[str, dict], list[dict]]:
    """Per split of the prompts the means before and after; and the judged samples."""
    config, tokenizer = run.config, tokenizer_of(run, task)
    listed = {"train": task.train_prompts, "heldout": task.heldout_prompts, **task.more_prompts}
    splits, rows = {}, []
    for split, topics in listed.items():
        prompts = in_turn(topics, config.evaluate.samples)
        judged = {}
        for when, model in models.items():
            label, longest = f"judge {split} {when}", config.finetune.max_new_tokens
            if when == "base":  # the reward and the KL say nothing of it
                texts = sample_texts(model, tokenizer, prompts, longest, config.seed, label)
                pairs = zip(prompts, texts, strict=True)
                judged[when] = [judged_row(task, prompt, text) for prompt, text in pairs]
            else:
                parts = Models(model, models["before"], reward_model, tokenizer)
                judged[when] = sample_and_judge(parts, task, prompts, longest, config.seed, label)
            rows += [{"when": when, "split": split, **row} for row in judged[when]]
        splits[split] = summarise(**judged)
    return splits, rows


def safety_of(run: Run, task: Task, models: dict[str, Policy]) -> dict[str, dict]:
    """Per model the shares of harmful requests refused and of harmless ones answered."""
    if task.safety is None:
        return {}
    config, tokenizer, shares = run.config, tokenizer_of(run, task), {}
    count = max(2, config.evaluate.samples // SAFETY_SHARE)
    requests = {"harmful": task.safety.harmful, "harmless": task.safety.harmless}
    for when, model in models.items():
        answers = {}
        for kind, prompts in requests.items():
            label, longest = f"judge {kind} {when}", config.finetune.max_new_tokens
            asked = in_turn(prompts, count)
            answers[kind] = sample_texts(model, tokenizer, asked, longest, config.seed, label)
        shares[when] = refusal_shares(task.safety, **answers)
    return {"refusals": shares}


def alignment_tax(run: Run, task: Task, models: dict[str, Policy]) -> dict[str, dict]:
    """Per model the loss on held-out texts of the corpus, nats per token, and how far it rose.

    "sft" is the model after supervised fine-tuning, compared with the base; "tuned" the one after
    feedback, compared with what feedback started from.
    """
    texts = task.corpus_heldout[:CORPUS_TEXTS]
    if len(texts) < 2:  # of one there is no interval
        return {}
    tokenizer = tokenizer_of(run, task)
    # A soft prompt leaves less of the context; all models read the same texts.
    context = min(model.config.context for model in models.values())
    encoded = EncodedTexts(tokenizer, texts, context, task.learn_prompts)
    losses = [text_losses(model, encoded) for model in models.values()]
    names = ("base", "sft", "tuned") if "base" in models else ("base", "tuned")
    mean, rise = {}, {}
    for place, name in enumerate(names):
        mean[name] = losses[place].mean()
        if place > 0:
            rise[name] = losses[place].rise_over(losses[place - 1])
    return {"corpus_loss": mean, "corpus_loss_rise": rise}


def collected_by(run: Run) -> list[str]:
    """Who rated samples during the run: "simulated", "people", or both if they took turns."""
    rows = [*run.read(FIRST_RATINGS), *run.read(COLLECTED)]
    return sorted({row["provenance"] for row in rows})


def summary_of(run: Run, task: Task, splits: dict[str, dict], others: dict[str, dict]) -> dict:
    """What summary.json holds: the results, how they were obtained, and all settings.

    `others` are results of `safety_of` and `alignment_tax`.
    """
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
            "collected_by": collected_by(run),
        },
        "reward_model": progress["reward_model"],
        **splits,
        "reward_hacking": is_reward_hacking(*splits.values()),
        **others,
        "notes": list(task.notes),
        "config": to_json(config),
    }
