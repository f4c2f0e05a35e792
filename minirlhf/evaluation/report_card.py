"""The reward model's report card: is it good enough to train on? Numbers here, the page in report_card_page.py.

Everything is measured on held-out feedback (which also chose when training stopped, and nothing else), beside three baselines and
the noise ceiling: the best that raters who disagree leave possible.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import torch

from minirlhf.evaluation import baselines
from minirlhf.evaluation.perturbations import sensitivity
from minirlhf.feedback.agreement import by_rater, noise_ceiling
from minirlhf.feedback.records import Triple
from minirlhf.feedback.splits import merged
from minirlhf.runs import pipeline
from minirlhf.runs.folder import Run
from minirlhf.stats import calibration, correlation, expected_calibration_error, ranks
from minirlhf.system.files import atomic_write
from minirlhf.tasks.task import Task
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.batches import EncodedTexts, Split
from minirlhf.training.log import TrainLog
from minirlhf.training.ranking import Pairs, pairs_from_scores, pairwise_accuracy
from minirlhf.training.train_reward_model import ScoredTexts, predict, train_reward_model

MODEL = "reward model"
CURVE = (0.125, 0.25, 0.5)  # shares of the training triples; the whole of them is the model itself
WORST = 10
ENOUGH = 0.8  # of the spoiled texts whose judged score falls, the share in which the reward model's must fall too
NEAR_CEILING = 0.8  # of the r that raters' noise leaves possible


def report_card(run: Run, task: Task, curve: bool = True) -> dict:
    """Measure the run's reward model; write reward_card.json and reward_card.html; return what the first holds."""
    from minirlhf.reports.report_card_page import write_page

    tokenizer = Tokenizer.load(run.path / "tokenizer.json")
    train, heldout = pipeline.split_feedback(run, task)
    rated = [
        [rating for ratings in raters.values() for rating in ratings[:1]]
        for raters in by_rater(heldout, task.rating_range).values()
    ]
    heldout = merged(heldout)
    model = pipeline.load_reward_model(run, pipeline.RESULT["reward"], tokenizer).eval()
    context = run.config.model.context

    def scores_of(pairs: list[tuple[str, str]]) -> np.ndarray:
        return predict(model, EncodedTexts(tokenizer, pairs, context)).double().numpy()

    predictions = {
        "constant": baselines.constant(train)(heldout),
        "length only": baselines.length_only(train)(heldout),
        "tf-idf ridge": baselines.tfidf_ridge(train, run.config.seed)(heldout),
        MODEL: scores_of([(triple.topic, triple.text) for triple in heldout]),
    }
    scores = np.array([triple.score for triple in heldout])
    try:
        pairs = pairs_from_scores(heldout, run.config.reward.min_gap)
    except ValueError:
        pairs = None  # too few texts a topic to compare any
    card = {
        "task": run.config.task if run.config.feedback is None else run.config.feedback.name,
        "raters": train[0].provenance,
        "judge_name": task.judge_name,
        "n_train": len(train),
        "n_heldout": len(heldout),
        "n_pairs": len(pairs) if pairs else 0,
        "min_gap": run.config.reward.min_gap,
        "loss": run.config.reward.loss,
        "ceiling": noise_ceiling(rated),
        "predictors": {
            name: measures(predicted, scores, pairs) for name, predicted in predictions.items()
        },
        "gain": gain(
            predictions[MODEL], predictions["tf-idf ridge"], scores, heldout, run.config.seed
        ),
        "calibration": calibration(predictions[MODEL], scores),
        "worst": worst(predictions[MODEL], heldout),
        "sensitivity": sensitivity(
            scores_of, task.judge, heldout, task.train_prompts, run.config.seed
        ),
        "curve": learning_curve(run, tokenizer, task, train, heldout) if curve else [],
    }
    card["curve"].append(
        {
            "triples": len(train),
            **{key: card["predictors"][MODEL][key] for key in ("mse", "pearson")},
        }
    )
    card["checks"] = checks(card)
    atomic_write(
        run.path / "reward_card.json", json.dumps(card, indent=1, ensure_ascii=False) + "\n"
    )
    write_page(run.path / "reward_card.html", card)
    return card


def measures(predicted: np.ndarray, scores: np.ndarray, pairs: Pairs | None) -> dict:
    """MSE, Pearson, Spearman, pairwise accuracy within topics (equal predictions count half), ECE of predictions (n,)."""
    a, b = torch.from_numpy(predicted), torch.from_numpy(scores)
    return {
        "mse": float(np.mean((predicted - scores) ** 2)),
        "pearson": correlation(a, b),
        "spearman": correlation(ranks(a), ranks(b)),
        "pairwise": pairwise_accuracy(a, pairs) if pairs else None,
        "ece": expected_calibration_error(predicted, scores),
    }


def gain(
    predicted: np.ndarray,
    baseline: np.ndarray,
    scores: np.ndarray,
    triples: Sequence[Triple],
    seed: int,
    draws: int = 1000,
) -> dict:
    """How much lower the MSE is than the baseline's: mean and 95% interval from resampling whole topics (texts, if under 10)."""
    better = (baseline - scores) ** 2 - (predicted - scores) ** 2
    topics = sorted({triple.topic for triple in triples})
    if len(topics) >= 10:
        rows = [np.flatnonzero([triple.topic == topic for triple in triples]) for topic in topics]
    else:
        rows = list(np.arange(len(triples))[:, None])
    sums, counts = (
        np.array([better[row].sum() for row in rows]),
        np.array([len(row) for row in rows]),
    )
    drawn = np.random.default_rng(seed).integers(len(rows), size=(draws, len(rows)))
    low, high = np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), [2.5, 97.5])
    return {"mse": float(better.mean()), "low": float(low), "high": float(high)}


def worst(predicted: np.ndarray, triples: Sequence[Triple], count: int = WORST) -> list[dict]:
    """The held-out texts whose score is missed by most."""
    order = np.argsort(-np.abs(predicted - [triple.score for triple in triples]), kind="stable")[
        :count
    ]
    return [
        {
            "topic": triples[i].topic,
            "text": triples[i].text,
            "score": triples[i].score,
            "predicted": float(predicted[i]),
            "ratings": list(triples[i].ratings),
        }
        for i in order
    ]


def learning_curve(
    run: Run, tokenizer: Tokenizer, task: Task, train: list[Triple], heldout: list[Triple]
) -> list[dict]:
    """Held-out error of reward models that learned from a part of the triples only, all from the same start."""
    context, rows = run.config.model.context, []
    test = ScoredTexts(tokenizer, heldout, context, task.heldout_comparisons)
    order = torch.randperm(len(train), generator=run.generator("curve", 0)).tolist()
    for share in CURVE:
        part = [train[index] for index in sorted(order[: round(share * len(train))])]
        kept = {(triple.topic, triple.text) for triple in part}
        comparisons = [
            one
            for one in task.comparisons
            if {(one.topic, one.better), (one.topic, one.worse)} <= kept
        ]
        if len(part) < 2 or bool(comparisons) != bool(task.comparisons):
            continue
        torch.manual_seed(run.config.seed)
        texts = ScoredTexts(tokenizer, part, context, comparisons)
        model = train_reward_model(
            pipeline.new_reward_model(run, tokenizer, task),
            Split(texts, test),
            run.config.reward,
            run.config.seed,
            TrainLog(f"curve: {len(part)} triples", leave_bar=False),
        )
        predicted = predict(model, test)
        rows.append(
            {
                "triples": len(part),
                "mse": float((predicted - test.scores).square().mean()),
                "pearson": correlation(predicted, test.scores),
            }
        )
    return rows


def checks(card: dict) -> list[dict]:
    """What to look at before training on the model: {"question", "answer", "passed"}. The limits are rules of thumb."""
    model, ceiling, won = card["predictors"][MODEL], card["ceiling"], card["gain"]
    found = [
        {
            "question": "Is it better than tf-idf ridge?",
            "passed": won["low"] > 0,
            "answer": f"MSE lower by {won['mse']:.4f} [{won['low']:.4f}, {won['high']:.4f}]",
        }
    ]
    if ceiling:
        found.append(
            {
                "question": f"Does r reach {NEAR_CEILING:.0%} of what the raters' noise leaves possible?",
                "answer": f"{model['pearson']:.2f} of {ceiling['mean']:.2f}",
                "passed": model["pearson"] >= NEAR_CEILING * ceiling["mean"],
            }
        )
    for row in card["sensitivity"]:
        if row["falls_with_judge"] is not None:
            found.append(
                {
                    "question": f"Does the score fall with the judge's: {row['check']}?",
                    "answer": f"in {row['falls_with_judge']:.0%} [{row['low']:.0%}, {row['high']:.0%}] of {row['judge_n']}",
                    "passed": row["falls_with_judge"] >= ENOUGH,
                }
            )
    return found
