"""Where does the judge turn? Reward models of four data sizes, climbed by best-of-n and by RL.

After Gao et al. (2022).

    python -m minirlhf pretrain --run base --start base --steps 0     (the shipped base)
    python -m benchmarks.overoptimization --run base --seeds 3 --workers 2 \\
        --json FILE --plot FILE.png

For each size and seed: fit a reward model on that many triples; best-of-n on texts of the
pretrained policy; then fine-tuning without KL penalty, so that it goes too far. Proxy (the reward
model) and gold (the judge) against the square root of the KL, with the forms of
minirlhf/overoptimization.py fitted to the points up to FIT_UP_TO. Texts that were cut off count 0
for the proxy, and in best-of-n for the judge too; in RL the judge takes them as they stand, which
costs a text most of its score.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import shutil
import statistics
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from benchmarks.forms import best_of_n_scores, fit_form
from minirlhf.equations import best_of_n_kl_bound
from minirlhf.runs import run_feedback, run_models, run_task
from minirlhf.runs.folder import Run, run_path
from minirlhf.runs.products import is_run
from minirlhf.stats import correlation
from minirlhf.system.seeds import step_generator
from minirlhf.tasks.task import Task
from minirlhf.training.batches import Split
from minirlhf.training.finetune import finetune
from minirlhf.training.log import TrainLog
from minirlhf.training.rollout import Models, collect
from minirlhf.training.train_reward_model import ScoredTexts, predict, train_reward_model
from minirlhf.training.truncation import prompt_tokens

# Square root of nats: farther out the judge has nothing left to lose, and these forms cannot level
# off.
FIT_UP_TO = 8.0
COLOURS = ("#c55f0b", "#2b8065", "#1d5fbe", "#6b4fa0")


def best_of_n(run: Run, task: Task, models: Models, prompts: int, texts: int) -> list[dict]:
    """Points {"n", "kl", "proxy", "gold"} for n = 1, 2, 4, .. `texts`."""
    proxy, gold = np.zeros((prompts, texts)), np.zeros((prompts, texts))
    for row in range(prompts):
        topic = task.train_prompts[row % len(task.train_prompts)]
        prompt = prompt_tokens(models.tokenizer, topic, run.config.model.context)
        rollout = collect(
            models,
            [prompt] * texts,
            run.config.finetune.max_new_tokens,
            step_generator(run.config.seed, "best of n", row, run.device),
        )
        proxy[row] = rollout.reward.cpu()
        gold[row] = [
            task.judge(topic, text) if ended else 0.0
            for text, ended in zip(rollout.texts, rollout.ended.tolist(), strict=True)
        ]
    points = []
    for n in (2**power for power in range(int(np.log2(texts)) + 1)):
        points.append(
            dict(zip(("proxy", "gold"), best_of_n_scores(proxy, gold, n), strict=True))
            | {"n": n, "kl": best_of_n_kl_bound(n)}
        )
    return points


def one(job: tuple[int, int], options: argparse.Namespace) -> dict:
    """One reward model, climbed in both ways.

    `job`: how many triples, and the seed that draws them and all else.
    """
    size, seed = job
    base = Run.open(run_path(options.runs, options.run))
    task = run_task.task_of(base)
    train, heldout = run_feedback.split_feedback(base, task)
    order = torch.randperm(len(train), generator=step_generator(seed, "size", size)).tolist()
    triples = [train[index] for index in order[:size]]
    path = base.path.parent / f"{base.path.name}-overoptimization-{len(triples)}-{seed}"
    settings = dataclasses.replace(
        base.config.finetune,
        rounds=1,
        kl_weight=options.kl_weight,
        kl_target=None,
        updates=options.updates,
        batch_size=options.batch_size,
    )
    if is_run(path):  # of an earlier call
        shutil.rmtree(path)
    run = Run.create(path, dataclasses.replace(base.config, seed=seed, finetune=settings))
    for name in ("tokenizer.json", "pretrained.safetensors"):
        shutil.copy(base.path / name, path / name)
    tokenizer = run_models.tokenizer_of(run, task)
    texts, test = (
        ScoredTexts(tokenizer, part, run.config.model.context) for part in (triples, heldout)
    )
    torch.manual_seed(seed)
    reward_model = train_reward_model(
        run_models.new_reward_model(run, tokenizer, task),
        Split(texts, test),
        run.config.reward,
        seed,
        TrainLog("reward fit", leave_bar=False),
    )
    pearson = correlation(predict(reward_model, test), test.scores)
    policy = run_models.load_policy(run, "pretrained.safetensors", tokenizer)
    points = best_of_n(
        run,
        task,
        Models(policy, policy, reward_model, tokenizer),
        options.prompts,
        options.texts,
    )
    finetune(
        Models(policy, policy.frozen_copy(), reward_model, tokenizer),
        dataclasses.replace(task, raters=None),
        run.config,
        Split(triples, heldout),
        run.log("finetune"),
    )
    rows = [row for row in run.read("metrics.jsonl") if row["stage"] == "finetune"]
    climbed = [
        {"kl": max(0.0, row["kl_nats"]), "proxy": row["reward"], "gold": row["judge"]}
        for row in rows
    ]
    return {
        "triples": len(triples),
        "seed": seed,
        "pearson": pearson,
        "best_of_n": points,
        "rl": climbed,
    }


def fits(results: list[dict], size: int) -> dict:
    """The forms fitted to all seeds of one size: {"best-of-n": {"gold": .., "proxy": ..},
    "rl": ..}.
    """
    found: dict[str, dict] = {}
    for kind, key in (("best-of-n", "best_of_n"), ("rl", "rl")):
        found[kind] = {}
        for which in ("gold", "proxy"):
            points = [
                (point["kl"] ** 0.5, point[which] - result[key][0][which])
                for result in results
                if result["triples"] == size
                for point in result[key]
            ]
            d, score = np.array([point for point in points if point[0] <= FIT_UP_TO]).T
            found[kind][which] = fit_form(d, score, kind)
    return found


def ends(climb: list[dict]) -> tuple[float, float, float]:
    """Of one RL run, in means over five updates: the judge's highest, the judge's and the reward
    model's last.
    """
    judge = [
        statistics.fmean(row["gold"] for row in climb[start : start + 5])
        for start in range(max(1, len(climb) - 4))
    ]
    return max(judge), judge[-1], statistics.fmean(row["proxy"] for row in climb[-5:])


def plot(results: list[dict], fitted: dict[int, dict], path: Path) -> None:
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axis, (kind, key) in zip(
        figure.subplots(1, 2, sharey=True), (("best-of-n", "best_of_n"), ("rl", "rl")), strict=True
    ):
        for colour, size in zip(COLOURS, fitted, strict=False):
            points = [
                (
                    point["kl"] ** 0.5,
                    point["gold"] - result[key][0]["gold"],
                    point["proxy"] - result[key][0]["proxy"],
                )
                for result in results
                if result["triples"] == size
                for point in result[key]
            ]
            d, gold, proxy = (np.array(values) for values in zip(*points, strict=True))
            axis.plot(d, gold, "o", color=colour, markersize=3, alpha=0.5)
            axis.plot(d, proxy, "x", color=colour, markersize=3, alpha=0.3)
            form, fine = fitted[size][kind]["gold"], np.linspace(1e-3, min(d.max(), FIT_UP_TO), 200)
            bend = fine if kind == "best-of-n" else np.log(fine)
            axis.plot(
                fine,
                fine * (form["alpha"] - form["beta"] * bend),
                color=colour,
                label=f"judge, {size:,} triples",
            )
        axis.set(
            xlabel="square root of KL (nats a text)",
            title={"rl": "RL", "best-of-n": "best of n"}[kind],
        )
        axis.grid(alpha=0.4)
        axis.legend(fontsize=8, frameon=False)
    figure.axes[0].set_ylabel(
        "score less the score at the start\n(dots: judge, crosses: reward model)"
    )
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--run",
        default="base",
        help="a pretrained run; runs with its name and a suffix are made beside it",
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[225, 675, 1800, 3600],
        help="triples of the reward models",
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="reward models at a time; if more than one, with one thread each",
    )
    parser.add_argument("--updates", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--kl-weight", type=float, default=0.0)
    parser.add_argument("--prompts", type=int, default=32, help="prompts of best-of-n")
    parser.add_argument("--texts", type=int, default=128, help="texts for each of them")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    if options.workers > 1:
        os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    base = Run.open(run_path(options.runs, options.run))
    most = len(
        run_feedback.split_feedback(base, run_task.task_of(base))[0]
    )  # rates first texts before the workers would
    sizes = sorted({min(size, most) for size in options.sizes})
    jobs = [(size, seed) for seed in range(options.seeds) for size in sizes]
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool:
        results = list(
            tqdm(
                pool.map(partial(one, options=options), jobs),
                total=len(jobs),
                unit="reward model",
                disable=False,
            )
        )
    fitted = {size: fits(results, size) for size in sizes}
    for size, forms in fitted.items():
        found = [result for result in results if result["triples"] == size]
        best, judge, reward = np.mean([ends(result["rl"]) for result in found], axis=0)
        picked = statistics.fmean(result["best_of_n"][-1]["gold"] for result in found)
        pearson = statistics.fmean(result["pearson"] for result in found)
        print(
            f"{size:6,} triples, {len(found)} seeds, r {pearson:.2f}; "
            f"RL: judge at best {best:.2f}, at the end {judge:.2f}, reward model {reward:.2f}; "
            f"best of {options.texts}: judge {picked:.2f}"
        )
        for kind, form in forms.items():
            gold = form["gold"]
            turn = (
                "never turns"
                if gold["turn"] is None
                else f"turns at d = {gold['turn']:.2f} (KL {gold['turn'] ** 2:.1f} nats)"
            )
            print(
                f"        {kind:9s}  judge: alpha {gold['alpha']:.4f}, beta {gold['beta']:.4f}, "
                f"R^2 {gold['r_squared']:.2f}, {turn}; "
                f"reward model: alpha {form['proxy']['alpha']:.4f}, "
                f"beta {form['proxy']['beta']:.4f}"
            )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(
            json.dumps({"results": results, "fits": fitted}, indent=1) + "\n", encoding="utf-8"
        )
    if options.plot:
        plot(results, fitted, options.plot)


if __name__ == "__main__":
    main()
