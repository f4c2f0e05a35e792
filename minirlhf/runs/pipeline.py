"""The stages of a run: pretrain, reward, finetune, evaluate. `demo` runs all four.

Each loads what it needs from the run folder, calls the training or evaluation, and stores the
result. A stage whose result is in the folder is not repeated; an interrupted one continues at its
checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import time

import torch
from torch import nn

from minirlhf.config import Config, to_json
from minirlhf.evaluation.judge import is_reward_hacking, sample_and_judge, summarise
from minirlhf.evaluation.reward_quality import quality
from minirlhf.feedback.answers import AnswerFile
from minirlhf.feedback.person import PersonRaters
from minirlhf.feedback.records import Triple, read_triples, write_triples
from minirlhf.feedback.session import SCORES
from minirlhf.feedback.splits import split_triples, without
from minirlhf.models import build
from minirlhf.models.encoder import MaskedLanguageModel
from minirlhf.models.policy import Policy
from minirlhf.reports.run_report import write_report
from minirlhf.runs.base import read_base
from minirlhf.runs.folder import ANSWERS, Run
from minirlhf.runs.hardware import hardware
from minirlhf.stats import correlation, ranks
from minirlhf.system.files import atomic_write, replacing
from minirlhf.tasks import custom
from minirlhf.tasks.load import load_task
from minirlhf.tasks.task import Task, rated
from minirlhf.tokenizer import Tokenizer, train_bpe
from minirlhf.training.batches import Corpus, Split
from minirlhf.training.finetune import finetune
from minirlhf.training.pretrain import pretrain
from minirlhf.training.pretrain_mlm import pretrain_mlm
from minirlhf.training.ratings import sample_texts
from minirlhf.training.rollout import Models, in_turn
from minirlhf.training.train_reward_model import (
    AnyReward,
    ScoredTexts,
    predict,
    train_reward_model,
)

RESULT = {
    "pretrain": "pretrained.safetensors",
    "reward": "reward.safetensors",
    "finetune": "policy.safetensors",
    "evaluate": "summary.json",
}
STAGES = tuple(RESULT)
ENCODER = "encoder.safetensors"
REWARD_FINAL = "reward_final.safetensors"  # after the last refit of fine-tuning
FIRST_RATINGS = "first_ratings.jsonl"
FEEDBACK = "feedback.jsonl"  # a copy of --feedback
# Texts by the authors are repeated this often in training: there are few of them, and they are the
# only feedback in words that no program composed.
AUTHORS_COUNT = 2
MIN_SPLIT = 20  # up to this many rated samples, none is held out


def task_of(run: Run) -> Task:
    """The run's task, or one made from the user's own feedback.

    The feedback is read from a copy in the run folder: if answers were added to the original file,
    texts would move between the reward model's training data and the judge's.
    """
    config, kept = run.config, run.path / FEEDBACK
    if config.feedback is None:
        return task_from(config)
    if not kept.exists() and config.feedback.exists():
        with replacing(kept) as temporary:
            shutil.copyfile(config.feedback, temporary)
    feedback = kept if kept.exists() else config.feedback
    return task_from(dataclasses.replace(config, feedback=feedback))


def task_from(config: Config) -> Task:
    """The task that the settings name.

    Raises ValueError naming every fault of the user's own feedback.
    """
    if config.feedback is not None:
        return custom.load(config.feedback, config.score_range, config.seed)
    return load_task(config.task, config.seed, config.pretrain.corpus_texts)


def outdated_feedback(run: Run) -> list[str]:
    """Files to delete before the reward model is fitted again.

    The policy's samples are rated again, an encoder is pretrained with the new settings, and the
    file of --feedback is read again (the original is never deleted).
    """
    names, original = [FIRST_RATINGS, ENCODER, FEEDBACK], run.config.feedback
    if original is None:
        return names
    return [name for name in names if (run.path / name).resolve() != original.resolve()]


def with_raters(run: Run, task: Task, person: str | None) -> Task:
    """The task with a person at the terminal as its rater, or unchanged if `person` is None.

    Raises ValueError if there is nobody to ask.
    """
    if person is not None:
        config = run.config.finetune
        file, total = AnswerFile(run.path / ANSWERS[0]), config.rounds * config.ratings_per_round
        raters = PersonRaters(file, person, total)
        scale = float(SCORES[0]), float(SCORES[-1])
        task = dataclasses.replace(task, raters=raters, raters_are="people", rating_range=scale)
    if task.raters is None:
        raise ValueError(
            f"task {task.name}: no raters to ask between rounds; give the ratings yourself with "
            "--person NAME"
        )
    return task


def is_done(run: Run, stage: str) -> bool:
    return (run.path / RESULT[stage]).exists()


def tokenizer_of(run: Run, task: Task) -> Tokenizer:
    """The run's tokenizer; it is trained on the task's corpus first if the run has none."""
    path = run.path / "tokenizer.json"
    if not path.exists():
        texts = [f"{topic} {text}" for topic, text in task.corpus]
        Tokenizer(train_bpe(texts, run.config.model.vocab_size)).save(path)
    return Tokenizer.load(path)


def load_policy(run: Run, name: str, tokenizer: Tokenizer) -> Policy:
    return run.load_model(name, build.new_policy(run.config.model, tokenizer.vocab_size))


def load_reward_model(
    run: Run, name: str, tokenizer: Tokenizer, conservatism: float = 0.0
) -> AnyReward:
    return run.load_model(name, empty_reward_model(run, tokenizer, conservatism))


def empty_reward_model(run: Run, tokenizer: Tokenizer, conservatism: float = 0.0) -> AnyReward:
    """A reward model with random weights."""
    return build.new_reward_model(
        run.config.model, run.config.reward, tokenizer.vocab_size, conservatism
    )


def new_reward_model(run: Run, tokenizer: Tokenizer, task: Task) -> AnyReward:
    """The reward model before it is trained on feedback, on the run's device.

    An encoder is pretrained first if the run has none.
    """
    model = empty_reward_model(run, tokenizer)
    if run.config.reward.start == "pretrained":
        body: nn.Module
        if run.config.reward.body == "encoder":
            body = masked_language_model(run, tokenizer, task).body
        else:
            body = load_policy(run, RESULT["pretrain"], tokenizer).body
        for member in model.members:
            member.body.load_state_dict(body.state_dict())
    return model.to(run.device)


def masked_language_model(run: Run, tokenizer: Tokenizer, task: Task) -> MaskedLanguageModel:
    """The run's encoder, pretrained once on the task's corpus and kept in encoder.safetensors."""
    if not (run.path / ENCODER).exists():
        log, checkpoints = run.log("masked-lm"), run.checkpoints("masked-lm")
        trained = pretrain_mlm(tokenizer, corpus_of(task), run.config, log, checkpoints)
        run.save_model(ENCODER, trained)
    empty = build.new_masked_language_model(run.config.model, tokenizer.vocab_size)
    return run.load_model(ENCODER, empty)


def split_feedback(run: Run, task: Task) -> tuple[list[Triple], list[Triple]]:
    """Training and held-out triples. A task may bring its own held-out feedback (held-out films).

    Texts scored by the authors and rated samples of the policy are trained on too; the held-out
    triples are only the task's own.
    """
    train, heldout = task.feedback, task.heldout_feedback
    if not heldout:
        share = run.config.reward.heldout_share
        train, heldout = split_triples(task.feedback, share, run.config.seed)
    own_train, own_heldout = split_own_texts(run, task)
    train = train + AUTHORS_COUNT * task.authors_feedback + own_train
    return without(train, heldout + own_heldout), heldout


def split_own_texts(run: Run, task: Task) -> tuple[list[Triple], list[Triple]]:
    """The rated samples of the pretrained policy: training and held-out (none if there are few)."""
    first = first_ratings(run, task)
    if len(first) <= MIN_SPLIT:
        return first, []
    return split_triples(first, run.config.reward.heldout_share, run.config.seed)


def first_ratings(run: Run, task: Task) -> list[Triple]:
    """Ratings of samples from the pretrained policy, kept in first_ratings.jsonl.

    Step 1 of section 3.2 of the article. Empty if the task has no raters. Truncated samples are not
    rated, so there may be fewer than `reward.own_texts`.
    """
    path, count = run.path / FIRST_RATINGS, run.config.reward.own_texts
    if task.raters is None or count == 0:
        return []
    if not path.exists():
        texts = first_samples(run, task, count)
        if texts:
            ratings = [rated(task, topic, text, run.config.seed) for topic, text in texts]
            write_triples(path, ratings, task.rating_range)
        else:
            atomic_write(path, "")
    return read_triples(path, task.rating_range) if path.stat().st_size else []


def first_samples(run: Run, task: Task, count: int) -> list[tuple[str, str]]:
    """At most `count` different (topic, text) pairs sampled from the pretrained policy."""
    tokenizer = tokenizer_of(run, task)
    models = {"before": model_for_sampling(run, tokenizer, tuned=False)}
    number = count + count // 8  # some are truncated, empty or repeated
    length, seed = run.config.finetune.max_new_tokens, run.config.seed
    samples = sample_texts(models, tokenizer, task.train_prompts, number, length, seed)
    texts = dict.fromkeys((topic, text) for topic, text, _ in samples if text.strip())
    return list(texts)[:count]


def corpus_of(task: Task) -> Corpus:
    return Corpus(task.corpus, task.corpus_heldout, task.match_topics)


def pretrain_stage(run: Run, task: Task) -> None:
    """Pretrain the policy: take a base, train from random weights, or train a base further."""
    started = time.perf_counter()
    settings, policy = run.config.pretrain, None
    if settings.start == "base":
        base = read_base(settings.base)
        base.tokenizer().save(run.path / "tokenizer.json")
        policy = base.policy().to(run.device)
        if not run.read("metrics.jsonl"):
            run.append("metrics.jsonl", base.curve())
    tokenizer = tokenizer_of(run, task)
    if policy is None or settings.steps > 0:
        log, checkpoints = run.log("pretrain"), run.checkpoints("pretrain")
        policy = pretrain(tokenizer, corpus_of(task), run.config, log, checkpoints, policy)
    run.finish_stage("pretrain", _seconds(run, "pretrain", started), {RESULT["pretrain"]: policy})


def reward_stage(run: Run, task: Task) -> None:
    """Train the reward model on the feedback and measure it on what was held out."""
    started = time.perf_counter()
    tokenizer = tokenizer_of(run, task)
    train_triples, heldout_triples = split_feedback(run, task)
    context, seed = run.config.model.context, run.config.seed
    train = ScoredTexts(tokenizer, train_triples, context, task.comparisons)
    heldout = ScoredTexts(tokenizer, heldout_triples, context, task.heldout_comparisons)
    if train.cut:
        print(
            f"warning: {train.cut:,} of {len(train):,} scored texts are longer than {context} "
            "tokens with their topic and lose their end; raise --model.context and "
            "--finetune.max-new-tokens",
            file=sys.stderr,
        )
    # Seeded only here, so that the initial weights do not depend on whether the policy's samples
    # had already been rated or were rated just now.
    torch.manual_seed(seed)
    model = new_reward_model(run, tokenizer, task)
    log, checkpoints = run.log("reward"), run.checkpoints("reward")
    split = Split(train, heldout)
    model = train_reward_model(model, split, run.config.reward, seed, log, checkpoints)
    facts = quality(model, train, heldout) | other_quality(model, run, task, tokenizer)
    run.finish_stage(
        "reward",
        _seconds(run, "reward", started),
        {RESULT["reward"]: model},
        reward_model=facts,
        collected_first=len(first_ratings(run, task)),
    )


def other_quality(model: AnyReward, run: Run, task: Task, tokenizer: Tokenizer) -> dict:
    """Correlations on held-out samples of the policy and on handwritten texts, if there are any."""
    facts: dict[str, float | None] = {}
    context = run.config.model.context
    if own_heldout := split_own_texts(run, task)[1]:
        own = ScoredTexts(tokenizer, own_heldout, context)
        facts["own_texts_pearson"] = correlation(predict(model, own), own.scores)
        facts["own_texts_n"] = len(own)
    facts["handwritten_spearman"] = None
    if task.handwritten:
        handwritten = ScoredTexts(tokenizer, task.handwritten, context)
        predicted = predict(model, handwritten)
        facts["handwritten_spearman"] = correlation(ranks(predicted), ranks(handwritten.scores))
        facts["handwritten_n"] = len(handwritten)
    return facts


def finetune_stage(run: Run, task: Task) -> None:
    """Fine-tune the policy on the reward model's scores."""
    started = time.perf_counter()
    tokenizer = tokenizer_of(run, task)
    policy = load_policy(run, RESULT["pretrain"], tokenizer)
    conservatism = run.config.finetune.conservatism
    reward_model = load_reward_model(run, RESULT["reward"], tokenizer, conservatism)
    models = Models(policy, policy.frozen_copy(), reward_model, tokenizer)
    feedback = Split(*split_feedback(run, task))
    log, checkpoints = run.log("finetune"), run.checkpoints("finetune")
    collected = finetune(models, task, run.config, feedback, log, checkpoints)
    run.finish_stage(
        "finetune",
        _seconds(run, "finetune", started),
        {REWARD_FINAL: reward_model, RESULT["finetune"]: policy},
        collected=len(collected),
    )


def evaluate_stage(run: Run, task: Task) -> dict:
    """Judge before and after; write samples.jsonl, summary.json and report.html.

    Returns the summary.
    """
    started = time.perf_counter()
    splits, rows = judge_samples(run, task)
    logged = [row for row in run.read("samples.jsonl") if row["when"].startswith("step")]
    run.rewrite("samples.jsonl", logged + rows)
    run.finish_stage("evaluate", time.perf_counter() - started, {})
    summary = summary_of(run, task, splits)
    text = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
    atomic_write(run.path / "summary.json", text)
    write_report(run.path)
    return summary


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
            "raters": task.feedback[0].provenance,
            "authors": len(task.authors_feedback),
            "collected": progress.get("collected_first", 0) + progress.get("collected", 0),
        },
        "reward_model": progress["reward_model"],
        **splits,
        "reward_hacking": is_reward_hacking(*splits.values()),
        "notes": list(task.notes),
        "config": to_json(config),
    }


def _seconds(run: Run, stage: str, started: float) -> float:
    """Wall seconds of a stage. Its last row of metrics includes those before an interruption."""
    logged = [row["seconds"] for row in run.read("metrics.jsonl") if row["stage"] == stage]
    return max([time.perf_counter() - started, *logged[-1:]])


def model_for_sampling(run: Run, tokenizer: Tokenizer, tuned: bool) -> Policy:
    """The policy after (or, with tuned=False, before) fine-tuning, in evaluation mode."""
    return load_policy(run, RESULT["finetune" if tuned else "pretrain"], tokenizer).eval()


STAGE_FUNCTIONS = {
    "pretrain": pretrain_stage,
    "reward": reward_stage,
    "finetune": finetune_stage,
    "evaluate": evaluate_stage,
}
