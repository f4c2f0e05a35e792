"""The report card of a run's reward model: measured, then written into the run folder."""

from __future__ import annotations

import json

import torch

from minirlhf.evaluation.report_card import report_card
from minirlhf.reports.report_card_page import write_page
from minirlhf.runs import products, run_feedback, run_models
from minirlhf.runs.folder import Run
from minirlhf.system.files import atomic_write
from minirlhf.tasks.task import Task
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.batches import Split
from minirlhf.training.log import TrainLog
from minirlhf.training.train_reward_model import AnyReward, ScoredTexts, train_reward_model


def write_report_card(run: Run, task: Task, curve: bool = True) -> dict:
    """Measure the run's reward model; write reward_card.json and reward_card.html; return the card.

    `curve` also draws the learning curve, which trains three more reward models. Raises ValueError
    for a task without scores.
    """
    with_scores(task)
    tokenizer = Tokenizer.load(run.path / "tokenizer.json")
    feedback = Split(*run_feedback.split_feedback(run, task))
    name = products.RESULT["reward"]
    model = run_models.load_reward_model(run, name, tokenizer).eval()

    def fit(texts: ScoredTexts, test: ScoredTexts) -> AnyReward:
        torch.manual_seed(run.config.seed)
        new = run_models.new_reward_model(run, tokenizer, task)
        log = TrainLog(f"curve: {len(texts)} triples", leave_bar=False)
        return train_reward_model(new, Split(texts, test), run.config.reward, run.config.seed, log)

    card = report_card(model, tokenizer, task, feedback, run.config, fit=fit if curve else None)
    text = json.dumps(card, indent=1, ensure_ascii=False) + "\n"
    atomic_write(run.path / "reward_card.json", text)
    write_page(run.path / "reward_card.html", card)
    return card


def with_scores(task: Task) -> Task:
    """The task. Raises ValueError if its reward model learns from rankings."""
    if task.ranker is not None:
        raise ValueError(
            f"--report: expected a task with scores to measure against, found {task.name}, whose "
            "answers are ranked; the run's report.html has the share of pairs in the right order"
        )
    return task
