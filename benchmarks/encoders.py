"""A causal or a bidirectional reward model: held-out r at equal training time, and what scoring
every prefix costs.

    python -m minirlhf pretrain --run base --start base --steps 0     (the shipped base)
    python -m benchmarks.encoders --run base --pretrain-seconds 120 --seconds 15 45 --json FILE

The causal head starts from the run's policy; the encoder is pretrained by masked-LM for
--pretrain-seconds (a run that pretrained from scratch: for as many as that took). Both then learn
from the same feedback for the same seconds, whatever number of steps that makes. Measure on a
quiet machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from functools import partial
from pathlib import Path

import torch

from minirlhf.evaluation.report_card import measures
from minirlhf.models.encoder import EncoderReward
from minirlhf.runs import products, run_feedback, run_models, run_task
from minirlhf.runs.folder import Run, run_path
from minirlhf.training.batches import EncodedTexts, Split, corpus_of
from minirlhf.training.log import TrainLog
from minirlhf.training.pretrain_mlm import pretrain_mlm
from minirlhf.training.train_reward_model import ScoredTexts, predict, train_reward_model


def seconds_of(work, repeats: int = 5) -> float:
    """The quickest of some repeats: the rest is other people's work."""
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--run", default="base", help="a pretrained run; its encoder.safetensors is made anew"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[15, 30, 60], help="of learning from feedback"
    )
    parser.add_argument(
        "--pretrain-seconds",
        type=float,
        help="of masked-LM (default: what the run's pretraining took)",
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    run = Run.open(run_path(options.runs, options.run))
    task = run_task.task_of(run)
    tokenizer, context = run_models.tokenizer_of(run, task), run.config.model.context
    train, heldout = (
        ScoredTexts(tokenizer, part, context) for part in run_feedback.split_feedback(run, task)
    )
    encoder_settings = dataclasses.replace(run.config.reward, body="encoder")

    def with_mlm_steps(steps: int):
        encoder = dataclasses.replace(encoder_settings.encoder, steps=steps)
        return dataclasses.replace(encoder_settings, encoder=encoder)

    def masked(config):
        settings = dataclasses.replace(run.config, reward=config)
        return pretrain_mlm(tokenizer, corpus_of(task), settings, run.log("masked-lm"))

    available = options.pretrain_seconds or run.progress()["seconds"]["pretrain"]
    masked(with_mlm_steps(60))
    stamps = {
        row["step"]: row["seconds"]
        for row in run.read("metrics.jsonl")
        if row["stage"] == "masked-lm"
    }
    encoder_settings = with_mlm_steps(int(available / (stamps[50] - stamps[10]) * 40) + 1)
    print(
        f"masked-LM: {encoder_settings.encoder.steps} steps in about {available:.0f} s", flush=True
    )
    run.save_model(products.ENCODER, masked(encoder_settings))

    def fit(name, config):
        torch.manual_seed(run.config.seed)
        model = run_models.new_reward_model(run, tokenizer, task)
        log = TrainLog(f"{name} reward", leave_bar=False)
        return train_reward_model(model, Split(train, heldout), config, run.config.seed, log)

    results = []
    for name, config in (
        ("causal", dataclasses.replace(run.config.reward, body="causal")),
        ("encoder", encoder_settings),
    ):
        run.config = dataclasses.replace(run.config, reward=config)
        fit(name, dataclasses.replace(config, steps=2))  # the first steps are slower
        started = time.perf_counter()
        fit(name, dataclasses.replace(config, steps=30, evaluate_every=30))
        pace = (time.perf_counter() - started) / 30
        for seconds in options.seconds:
            steps = max(1, int(seconds / pace))
            never_stop = {"evaluate_every": max(1, steps // 10), "patience": 10**9}
            model = fit(name, dataclasses.replace(config, steps=steps, **never_stop))
            found = measures(
                predict(model, heldout).double().numpy(), heldout.scores.double().numpy(), None
            )
            results.append({"body": name, "seconds": seconds, "steps": steps, **found})
            print(
                f"{name:8s} {seconds:5.0f} s, {steps:5d} steps: held-out r {found['pearson']:.3f}, "
                f"MSE {found['mse']:.4f}",
                flush=True,
            )
        pairs = [(triple.topic, triple.text) for triple in train.triples[:64]]
        batch = EncodedTexts(tokenizer, pairs, context).batch(torch.arange(64), run.device)
        width = batch.tokens.shape[1]
        with torch.inference_mode():
            cost = seconds_of(partial(model.prefix_scores, batch.rows, batch.prompt_lengths, width))
            lengths = batch.prompt_lengths + batch.mask.sum(1)
            whole = seconds_of(partial(model.text_scores, batch.rows, lengths))
        passes = width + 1 if isinstance(model, EncoderReward) else 1
        results.append(
            {
                "body": name,
                "texts": 64,
                "tokens": width,
                "passes": passes,
                "prefix_seconds": cost,
                "whole_seconds": whole,
            }
        )
        print(
            f"{name:8s} 64 texts of up to {width} tokens: whole texts {1000 * whole:.0f} ms, "
            f"every prefix {1000 * cost:.0f} ms ({passes} passes)",
            flush=True,
        )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
