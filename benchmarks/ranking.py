"""Scores or comparisons: from which does a reward model learn more, judgment for judgment?

    python -m minirlhf pretrain --run base --start base --steps 0     (the shipped base)
    python -m benchmarks.ranking --run base --sizes 250 2500 --steps 60 --json FILE

A judgment is one rater's score of one text, or one rater's answer to "which of these two is
better". On `openings` the (simulated) rater who compares is one whose scores of both texts are
known; equal scores are ties. On `reviews` no two scores are known to be one person's, so a judgment
is a text's mean score, or a pair of one film with means at least --min-gap apart. Tested on
held-out texts that are the same for all: Pearson and Spearman r with the mean score, and pairs put
in the right order.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import torch

from minirlhf.evaluation.report_card import measures
from minirlhf.feedback.records import Comparison, Triple
from minirlhf.feedback.splits import triples_of_comparisons
from minirlhf.runs import run_feedback, run_models, run_task
from minirlhf.runs.folder import Run, run_path
from minirlhf.tasks.task import Task
from minirlhf.training.batches import Split
from minirlhf.training.log import TrainLog
from minirlhf.training.ranking import pairs_from_scores
from minirlhf.training.train_reward_model import ScoredTexts, predict, train_reward_model


def scored(task: Task, train: list[Triple], count: int, generator: random.Random) -> list[Triple]:
    """`count` texts, each with one rater's score (`openings`) or its mean."""
    drawn = generator.sample(train, min(count, len(train)))
    if task.raters is None:
        return drawn
    low, high = task.rating_range
    return [
        dataclasses.replace(triple, score=(generator.choice(triple.ratings) - low) / (high - low))
        for triple in drawn
    ]


def compared(
    task: Task, train: list[Triple], count: int, min_gap: float, generator: random.Random
) -> list[Comparison]:
    """`count` comparisons of texts on one topic."""
    if task.raters is None:
        pairs = pairs_from_scores(train, min_gap)
        chosen = generator.sample(range(len(pairs)), min(count, len(pairs)))
        return [
            Comparison(
                train[pairs.better[i]].topic,
                train[pairs.better[i]].text,
                train[pairs.worse[i]].text,
            )
            for i in chosen
        ]
    by_topic: dict[str, list[Triple]] = {}
    for triple in train:
        by_topic.setdefault(triple.topic, []).append(triple)
    found = []
    for _ in range(count):
        first, second = generator.sample(by_topic[generator.choice(train).topic], 2)
        rater = generator.randrange(len(first.ratings))
        a, b = first.ratings[rater], second.ratings[rater]
        better, worse = (first, second) if a >= b else (second, first)
        found.append(Comparison(first.topic, better.text, worse.text, tie=a == b))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="base", help="a pretrained run")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[250, 500, 1000, 2000, 3600], help="judgments"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--min-gap", type=float, default=0.125)
    parser.add_argument("--steps", type=int, help="training steps (default: the run's)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    run = Run.open(run_path(options.runs, options.run))
    task = run_task.task_of(run)
    tokenizer, context = run_models.tokenizer_of(run, task), run.config.model.context
    train, heldout = run_feedback.split_feedback(run, task)
    # Texts that several raters scored on their own; of `reviews`, films only.
    prompts = set(task.train_prompts)
    train = [triple for triple in train if len(triple.ratings) > 1 and triple.topic in prompts]
    test, pairs = (
        ScoredTexts(tokenizer, heldout, context),
        pairs_from_scores(heldout, options.min_gap),
    )
    scores, results = test.scores.double().numpy(), []
    for size in options.sizes:
        for loss in ("mse", "ranking"):
            for seed in range(options.seeds):
                generator = random.Random(f"{size}/{seed}")
                if loss == "mse":
                    part, comparisons = scored(task, train, size, generator), []
                else:
                    comparisons = compared(task, train, size, options.min_gap, generator)
                    part = triples_of_comparisons(comparisons)
                config = dataclasses.replace(
                    run.config.reward,
                    loss=loss,
                    min_gap=options.min_gap,
                    steps=options.steps or run.config.reward.steps,
                )
                torch.manual_seed(seed)
                texts = ScoredTexts(tokenizer, part, context, comparisons)
                model = train_reward_model(
                    run_models.new_reward_model(run, tokenizer, task),
                    Split(texts, test),
                    config,
                    run.config.seed,
                    TrainLog(f"{loss} {size} judgments, seed {seed}", leave_bar=False),
                )
                found = measures(predict(model, test).double().numpy(), scores, pairs)
                results.append({"judgments": size, "loss": loss, "seed": seed, **found})
            rows = [row for row in results if row["judgments"] == size and row["loss"] == loss]
            print(
                f"{size:6,} judgments  {loss:8s}"
                + "".join(
                    f"  {key} {np.mean([row[key] for row in rows]):.3f} "
                    f"+- {np.std([row[key] for row in rows], ddof=1):.3f}"
                    for key in ("pearson", "spearman", "pairwise")
                    if len(rows) > 1
                ),
                flush=True,
            )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
