"""The stages of a run, each from run folder to run folder: pretrain, reward, finetune, evaluate. `demo` is the four in a row.

A stage whose result is already in the folder is not done again; one that was interrupted goes on at its checkpoint.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import platform
import shutil
import sys
import time
from pathlib import Path

import torch

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
from minirlhf.stats import correlation, ranks
from minirlhf.system.devices import precision_of
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
FIRST_RATINGS = "first_ratings.jsonl"
# What the authors wrote counts this often in training: there is little of it, and it is the only
# feedback in words that no program composed.
AUTHORS_COUNT = 2
FEEDBACK = "feedback.jsonl"  # a copy of --feedback


def task_of(run: Run) -> Task:
    """The run's task, or the user's own feedback made into one.

    That is read from a copy in the run folder: more answers may be added to the file, and then texts would change sides between
    the reward model and the judge.
    """
    config, kept = run.config, run.path / FEEDBACK
    if config.feedback is None:
        return task_from(config)
    if not kept.exists() and config.feedback.exists():
        with replacing(kept) as temporary:
            shutil.copyfile(config.feedback, temporary)
    return task_from(
        dataclasses.replace(config, feedback=kept if kept.exists() else config.feedback)
    )


def task_from(config: Config) -> Task:
    """The task that the settings name. Raises ValueError naming every fault of the user's own feedback."""
    if config.feedback is not None:
        return custom.load(config.feedback, config.score_range, config.seed)
    return load_task(config.task, config.seed, config.pretrain.corpus_texts)


def outdated_feedback(run: Run) -> list[str]:
    """Files that go when the reward model is fitted anew: the policy's texts are rated again, an encoder is pretrained under
    the present settings, and the file of --feedback is read as it is now (but it never goes itself)."""
    names, original = [FIRST_RATINGS, ENCODER, FEEDBACK], run.config.feedback
    if original is None:
        return names
    return [name for name in names if (run.path / name).resolve() != original.resolve()]


def with_raters(run: Run, task: Task, person: str | None) -> Task:
    """The task with a person at the terminal as its rater, or as it is where `person` is None.

    Raises ValueError if there is no one to ask.
    """
    if person is not None:
        config = run.config.finetune
        file, total = AnswerFile(run.path / ANSWERS[0]), config.rounds * config.ratings_per_round
        raters = PersonRaters(file, person, total)
        scale = float(SCORES[0]), float(SCORES[-1])
        task = dataclasses.replace(task, raters=raters, raters_are="people", rating_range=scale)
    if task.raters is None:
        raise ValueError(
            f"task {task.name}: no raters to ask between rounds; give the ratings yourself with --person NAME"
        )
    return task


def is_done(run: Run, stage: str) -> bool:
    return (run.path / RESULT[stage]).exists()


def tokenizer_of(run: Run, task: Task) -> Tokenizer:
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
    """The reward model before it has learned from feedback, on the run's device. An encoder is pretrained here if need be."""
    model = empty_reward_model(run, tokenizer)
    if run.config.reward.start == "pretrained":
        if run.config.reward.body == "encoder":
            body = masked_language_model(run, tokenizer, task).body
        else:
            body = load_policy(run, RESULT["pretrain"], tokenizer).body
        for member in model.members:
            member.body = copy.deepcopy(body)
    return model.to(run.device)


def masked_language_model(run: Run, tokenizer: Tokenizer, task: Task) -> MaskedLanguageModel:
    """The run's encoder, pretrained once on the task's corpus and kept in encoder.safetensors."""
    if not (run.path / ENCODER).exists():
        run.save_model(
            ENCODER,
            pretrain_mlm(
                tokenizer,
                corpus_of(task),
                run.config,
                run.log("masked-lm"),
                run.checkpoints("masked-lm"),
            ),
        )
    return run.load_model(
        ENCODER, build.new_masked_language_model(run.config.model, tokenizer.vocab_size)
    )


def split_feedback(run: Run, task: Task) -> tuple[list[Triple], list[Triple]]:
    """Training and held-out triples. A task with feedback of its own for that (held-out films) decides itself.

    What the authors scored and what the policy wrote is trained on too, but the held-out triples are all of the task's kind.
    """
    train, heldout = task.feedback, task.heldout_feedback
    if not heldout:
        train, heldout = split_triples(
            task.feedback, run.config.reward.heldout_share, run.config.seed
        )
    own_train, own_heldout = split_own_texts(run, task)
    train = train + AUTHORS_COUNT * task.authors_feedback + own_train
    return without(train, heldout + own_heldout), heldout


def split_own_texts(run: Run, task: Task) -> tuple[list[Triple], list[Triple]]:
    """The rated texts of the pretrained policy, for training and held out (none of a handful)."""
    first = first_ratings(run, task)
    return (
        split_triples(first, run.config.reward.heldout_share, run.config.seed)
        if len(first) > 20
        else (first, [])
    )


def first_ratings(run: Run, task: Task) -> list[Triple]:
    """Ratings of the pretrained policy's own texts (step 1 of section 3.2), kept in first_ratings.jsonl.

    None if no one can be asked. Texts that were cut off are not rated, so there may be fewer than `reward.own_texts`.
    """
    path, count = run.path / FIRST_RATINGS, run.config.reward.own_texts
    if task.raters is None or count == 0:
        return []
    if not path.exists():
        tokenizer = tokenizer_of(run, task)
        drawn = sample_texts(
            {"before": model_for_sampling(run, tokenizer, tuned=False)},
            tokenizer,
            task.train_prompts,
            count + count // 8,
            run.config.finetune.max_new_tokens,
            run.config.seed,
        )
        texts = list(dict.fromkeys((topic, text) for topic, text, _ in drawn if text.strip()))[
            :count
        ]
        if texts:
            write_triples(
                path,
                [rated(task, topic, text, run.config.seed) for topic, text in texts],
                task.rating_range,
            )
        else:
            atomic_write(path, "")
    return read_triples(path, task.rating_range) if path.stat().st_size else []


def corpus_of(task: Task) -> Corpus:
    return Corpus(task.corpus, task.corpus_heldout, task.match_topics)


def pretrain_stage(run: Run, task: Task) -> None:
    """A pretrained policy: from the base, from random weights, or from the base and then trained on the task's corpus."""
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
        policy = pretrain(
            tokenizer,
            corpus_of(task),
            run.config,
            run.log("pretrain"),
            run.checkpoints("pretrain"),
            policy,
        )
    run.finish_stage("pretrain", _seconds(run, "pretrain", started), {RESULT["pretrain"]: policy})


def reward_stage(run: Run, task: Task) -> None:
    started = time.perf_counter()
    tokenizer = tokenizer_of(run, task)
    train_triples, heldout_triples = split_feedback(run, task)
    context = run.config.model.context
    train = ScoredTexts(tokenizer, train_triples, context, task.comparisons)
    heldout = ScoredTexts(tokenizer, heldout_triples, context, task.heldout_comparisons)
    if train.cut:
        print(
            f"warning: {train.cut:,} of {len(train):,} scored texts are longer than {context} tokens with their topic and lose "
            "their end; raise --model.context and --finetune.max-new-tokens",
            file=sys.stderr,
        )
    torch.manual_seed(
        run.config.seed
    )  # here: whether the policy's texts are rated already must not matter to the weights
    model = train_reward_model(
        new_reward_model(run, tokenizer, task),
        Split(train, heldout),
        run.config.reward,
        run.config.seed,
        run.log("reward"),
        run.checkpoints("reward"),
    )
    facts = quality(model, train, heldout)
    if own_heldout := split_own_texts(run, task)[1]:
        texts = ScoredTexts(tokenizer, own_heldout, context)
        facts["own_texts_pearson"], facts["own_texts_n"] = (
            correlation(predict(model, texts), texts.scores),
            len(texts),
        )
    facts["handwritten_spearman"] = None
    if task.handwritten:
        handwritten = ScoredTexts(tokenizer, task.handwritten, context)
        facts["handwritten_spearman"] = correlation(
            ranks(predict(model, handwritten)), ranks(handwritten.scores)
        )
        facts["handwritten_n"] = len(handwritten)
    run.finish_stage(
        "reward",
        _seconds(run, "reward", started),
        {RESULT["reward"]: model},
        reward_model=facts,
        collected_first=len(first_ratings(run, task)),
    )


def finetune_stage(run: Run, task: Task) -> None:
    started = time.perf_counter()
    tokenizer = tokenizer_of(run, task)
    policy = load_policy(run, RESULT["pretrain"], tokenizer)
    reward_model = load_reward_model(
        run, RESULT["reward"], tokenizer, run.config.finetune.conservatism
    )
    models = Models(policy, policy.frozen_copy(), reward_model, tokenizer)
    collected = finetune(
        models,
        task,
        run.config,
        Split(*split_feedback(run, task)),
        run.log("finetune"),
        run.checkpoints("finetune"),
    )
    run.finish_stage(
        "finetune",
        _seconds(run, "finetune", started),
        {"reward_final.safetensors": reward_model, RESULT["finetune"]: policy},
        collected=len(collected),
    )


def evaluate_stage(run: Run, task: Task) -> dict:
    """Judge before and after; write samples.jsonl, summary.json and report.html; return the summary."""
    started = time.perf_counter()
    config = run.config
    tokenizer = tokenizer_of(run, task)
    reference, policy = (
        load_policy(run, RESULT[stage], tokenizer).eval() for stage in ("pretrain", "finetune")
    )
    reward_model = load_reward_model(
        run, "reward_final.safetensors", tokenizer, config.finetune.conservatism
    )
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
    run.rewrite(
        "samples.jsonl",
        [row for row in run.read("samples.jsonl") if row["when"].startswith("step")] + rows,
    )
    run.finish_stage("evaluate", time.perf_counter() - started, {})
    progress = run.progress()
    summary = {
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
    atomic_write(
        run.path / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
    )
    write_report(run.path)
    return summary


def _seconds(run: Run, stage: str, started: float) -> float:
    """Wall seconds of a stage, those before an interruption included (they stand in its last line of metrics)."""
    logged = [row["seconds"] for row in run.read("metrics.jsonl") if row["stage"] == stage]
    return max([time.perf_counter() - started, *logged[-1:]])


def hardware(device: torch.device) -> dict[str, str]:
    """What this ran on, in words."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": name,
        "precision": f"{precision_of(device)} matrix products",
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


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


STAGE_FUNCTIONS = {
    "pretrain": pretrain_stage,
    "reward": reward_stage,
    "finetune": finetune_stage,
    "evaluate": evaluate_stage,
}
