"""REINFORCE, RLOO, GRPO, PPO, TRPO and best-of-n side by side on `openings`.

The judge against texts, against KL, against step size.

    python -m benchmarks.optimizers --seeds 5 --workers 2      (from the project's folder)

For each seed one run starts from the shipped base (with --pretrain-steps: from scratch) and gets a
reward model; every algorithm starts from a copy of it and samples the same number of texts under
its default settings (minirlhf/config.py). A second sweep repeats the first seeds with four step
sizes, a factor of 30 apart in all (the learning rate; for TRPO delta, whose root is the length of a
step). Every run is a run folder under --runs; what is finished there is not done again, what was
interrupted goes on at its checkpoint. Writes optimizers.json, .png and .md to --output.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch
from matplotlib.figure import Figure
from scipy.stats import t as student
from tqdm import tqdm

from minirlhf import equations
from minirlhf.config import (
    Config,
    EvaluateConfig,
    FinetuneConfig,
    PPOConfig,
    PretrainConfig,
    RewardConfig,
    TRPOConfig,
)
from minirlhf.evaluation.judge import best_of_n, sample_and_judge
from minirlhf.runs import pipeline, products, run_models, run_task
from minirlhf.runs.folder import Run
from minirlhf.runs.hardware import hardware
from minirlhf.system.files import atomic_write
from minirlhf.training.rollout import Models, in_turn

ALGORITHMS = {
    "reinforce": "REINFORCE",
    "rloo": "RLOO",
    "grpo": "GRPO",
    "ppo": "PPO",
    "trpo": "TRPO",
}
COLOURS = {
    "reinforce": "#1d5fbe",
    "rloo": "#2b8065",
    "grpo": "#8a5fbf",
    "ppo": "#c55f0b",
    "trpo": "#b8304f",
    "best of n": "#667080",
}
FACTORS = [30 ** (power / 3) for power in (-1, 0, 1, 2)]
BEST_OF = (1, 4, 16, 64)
CURVE = (
    "samples",
    "judge",
    "reward",
    "kl_nats",
    "entropy_nats_per_token",
    "length_tokens",
    "gradient_norm",
    "kl_step_nats",
    "ratio_max",
    "clip_fraction",
    "explained_variance",
    "accepted_step",
)
SHARED_FILES = (
    "tokenizer.json",
    products.RESULT["pretrain"],
    products.RESULT["reward"],
    products.FIRST_RATINGS,
    "progress.json",
)
SWEPT = (
    ("judge, training topics", "train", "judge"),
    ("judge, held-out topics", "heldout", "judge"),
    ("distinct texts, training topics", "train", "distinct"),
)
SMOOTH = 5  # updates that a point of a curve is the mean of


# Runs ---------------------------------------------------------------------------------------------


def scaled(finetune: FinetuneConfig, algorithm: str, factor: float) -> FinetuneConfig:
    """The settings of an algorithm with its steps made longer by `factor`."""
    ppo = dataclasses.replace(finetune.ppo, learning_rate=finetune.ppo.learning_rate * factor)
    trpo = dataclasses.replace(finetune.trpo, delta=finetune.trpo.delta * factor**2)
    return dataclasses.replace(
        finetune,
        algorithm=algorithm,
        learning_rate=finetune.learning_rate * factor,
        ppo=ppo,
        trpo=trpo,
    )


def step_size(finetune: FinetuneConfig) -> float:
    """What `scaled` changes: the learning rate, or TRPO's delta."""
    return {"ppo": finetune.ppo.learning_rate, "trpo": finetune.trpo.delta}.get(
        finetune.algorithm, finetune.learning_rate
    )


def relevant(config: Config, shared: bool) -> Config:
    """The config with all that the shared stages (or else the run's algorithm) do not look at set
    to the default.
    """
    finetune = config.finetune
    if shared:
        return dataclasses.replace(config, finetune=FinetuneConfig(), evaluate=EvaluateConfig())
    others = {"ppo": PPOConfig(), "trpo": TRPOConfig()}
    others.pop(finetune.algorithm, None)
    return dataclasses.replace(config, finetune=dataclasses.replace(finetune, **others))


def open_run(path: Path, config: Config, origin: Path | None = None) -> Run:
    """The run in this folder, made (from `origin`'s first stages) if it is not there.

    Raises ValueError if it was made under other settings: mixing them would spoil the comparison.
    """
    if not (path / "config.json").exists():
        path.mkdir(parents=True, exist_ok=True)
        for name in SHARED_FILES if origin else ():
            shutil.copy(origin / name, path / name)
        run = Run(path, config)
        run.replace_config(config)  # last: a folder with a config.json is complete
    run = Run.open(path)
    if relevant(run.config, origin is None) != relevant(config, origin is None):
        raise ValueError(
            f"{path}: made under other settings; give another --runs folder, or delete it"
        )
    return run


def finish(run: Run, names: tuple[str, ...]) -> None:
    task = run_task.task_of(run)
    for name in names:
        if not run.is_done(name):
            pipeline.STAGE_FUNCTIONS[name](run, task)


def prepare(path: Path, config: Config) -> None:
    """The stages that all algorithms of a seed share, and best-of-n, which needs no other."""
    run = open_run(path, config)
    finish(run, ("pretrain", "reward"))
    if not (path / "best_of_n.json").exists():
        task, tokenizer = run_task.task_of(run), run_models.tokenizer_of(run, run_task.task_of(run))
        policy = run_models.load_policy(run, products.RESULT["pretrain"], tokenizer).eval()
        reward_model = run_models.load_reward_model(run, products.RESULT["reward"], tokenizer)
        most, groups = max(BEST_OF), math.ceil(config.evaluate.samples / 4)
        topics = [
            topic for topic in task.train_prompts for _ in range(most)
        ]  # those of one topic in a row
        rows = sample_and_judge(
            Models(policy, policy, reward_model, tokenizer),
            task,
            in_turn(topics, most * groups),
            config.finetune.max_new_tokens,
            config.seed,
            "best of n",
        )
        found = []
        for n in BEST_OF:
            best = best_of_n(rows, n)
            found.append(
                {
                    "n": n,
                    "texts": len(best),
                    "kl_bound_nats": equations.best_of_n_kl_bound(n),
                    "judge": statistics.fmean(row["judge"] for row in best),
                    "reward": statistics.fmean(row["reward"] for row in best),
                }
            )
        atomic_write(path / "best_of_n.json", json.dumps(found, indent=1) + "\n")


def compare(path: Path, config: Config, origin: Path) -> None:
    """One algorithm from the shared start to the judge."""
    finish(open_run(path, config, origin), ("finetune", "evaluate"))


def quiet_worker() -> None:
    torch.set_num_threads(1)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (open as long as the worker lives)


def run_all(jobs: list[tuple], workers: int, label: str) -> None:
    """Each job is (function, *arguments).

    The first failure is raised when those at work have ended.
    """
    with ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=quiet_worker
    ) as pool:
        waiting = [pool.submit(*job) for job in jobs]
        try:
            for future in tqdm(as_completed(waiting), total=len(waiting), desc=label, unit="run"):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


# Results ------------------------------------------------------------------------------------------


def result_of(path: Path, seed: int, factor: float) -> dict:
    """What is kept of a finished run."""
    summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    run = Run.open(path)
    rows = [row for row in run.read("metrics.jsonl") if row["stage"] == "finetune"]
    finetune = run.config.finetune
    result = {
        "algorithm": finetune.algorithm,
        "seed": seed,
        "factor": factor,
        "step_size": step_size(finetune),
        "seconds": summary["seconds"]["finetune"],
        "reward_hacking": summary["reward_hacking"],
        "warnings": {kind: row["step"] for row in rows for kind in row.get("warnings", {})},
    }
    for split in ("train", "heldout"):
        part = summary[split]
        result[split] = {
            "judge_before": part["judge_before"]["mean"],
            "judge": part["judge_after"]["mean"],
            "reward": part["reward_after"]["mean"],
            "kl_nats": part["kl_after"],
            "distinct": part["distinct_after"],
        }
    result["curve"] = {
        name: [round(row[name], 4) for row in rows] for name in CURVE if name in rows[-1]
    }
    return result


def band(values: list[float]) -> tuple[float, float, float]:
    """Mean and 95% interval over seeds (Student's t)."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, mean, mean
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def in_words(values: list[float], digits: int = 2) -> str:
    mean, low, high = band(values)
    return f"{mean:.{digits}f}" + (
        f" [{low:.{digits}f}, {high:.{digits}f}]" if len(values) > 1 else ""
    )


def smooth(values: list[float]) -> list[float]:
    return [
        statistics.fmean(values[start : start + SMOOTH])
        for start in range(0, len(values) - SMOOTH + 1, SMOOTH)
    ] or values


def markdown(results: dict) -> str:
    by_name, sweep = grouped(results)
    seeds, hardware = results["seeds"], results["hardware"]
    lines = [
        "# Optimizers side by side",
        "",
        "Task `openings` (simulated raters; the judge is a rubric), "
        f"{seeds} seed{'s' * (seeds > 1)}, {results['texts']:,} sampled texts per run, default "
        f"settings, start: {results['start']}. Mean over seeds with 95% interval (Student's t). "
        "Made by "
        f"`benchmarks/optimizers.py`, commit {results['commit']}, {hardware['device']} "
        f"({results['workers']} runs at a time, one thread each), "
        f"{hardware['precision']}, PyTorch {hardware['torch']}.",
        "",
        "| | judge, training topics | judge, held-out topics | reward model | KL (nats) "
        "| distinct | minutes (median) | warned of |",
        "|---|---|---|---|---|---|---|---|",
    ]
    before = [run["train"]["judge_before"] for runs in by_name.values() for run in runs]
    held = [run["heldout"]["judge_before"] for runs in by_name.values() for run in runs]
    lines.append(
        f"| before | {statistics.fmean(before):.2f} | {statistics.fmean(held):.2f} | | 0 | | | |"
    )
    for name, runs in by_name.items():
        train = {key: [run["train"][key] for run in runs] for key in runs[0]["train"]}
        warned = defaultdict(int)
        for run in runs:
            for kind in run["warnings"]:
                warned[kind] += 1
        warnings = [f"{kind} ({count} of {len(runs)})" for kind, count in warned.items()]
        held = in_words([run["heldout"]["judge"] for run in runs])
        lines.append(
            f"| {ALGORITHMS[name]} | {in_words(train['judge'])} | {held} "
            f"| {in_words(train['reward'])} | {in_words(train['kl_nats'], 1)} "
            f"| {statistics.fmean(train['distinct']):.0%} "
            f"| {statistics.median(run['seconds'] for run in runs) / 60:.1f} "
            f"| {', '.join(warnings) or '–'} |"
        )
    for n in BEST_OF[1:]:
        found = [row for rows in results["best_of_n"].values() for row in rows if row["n"] == n]
        judge, reward = (in_words([row[key] for row in found]) for key in ("judge", "reward"))
        bound = found[0]["kl_bound_nats"]
        lines.append(f"| best of {n} | {judge} | | {reward} | at most {bound:.1f} | | | |")
    if sweep:
        lines += [
            "",
            f"## Step size ({results['sweep_seeds']} seed{'s' * (results['sweep_seeds'] > 1)})",
            "",
            "Each seed's value after the run. Columns: the default step size times 30^(-1/3), 1, "
            "30^(1/3), 30^(2/3). In brackets the learning rate, for TRPO delta (times the "
            "factor's square).",
        ]
        for title, split, key in SWEPT:
            lines += [
                "",
                f"| {title} | " + " | ".join(f"x {factor:.2g}" for factor in FACTORS) + " |",
                "|---" * 5 + "|",
            ]
            for name in ALGORITHMS:
                cells = [
                    " / ".join(f"{run[split][key]:.2f}" for run in sweep[name, factor])
                    + f" ({sweep[name, factor][0]['step_size']:.2g})"
                    for factor in FACTORS
                ]
                lines.append(f"| {ALGORITHMS[name]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def grouped(results: dict) -> tuple[dict[str, list[dict]], dict[tuple[str, float], list[dict]]]:
    """Runs at the default step size by algorithm; runs of the sweep by algorithm and factor."""
    by_name = {
        name: [run for run in results["runs"] if run["algorithm"] == name and run["factor"] == 1]
        for name in ALGORITHMS
    }
    sweep = defaultdict(list)
    for run in results["runs"]:
        if run["seed"] < results["sweep_seeds"]:
            sweep[run["algorithm"], run["factor"]].append(run)
    return by_name, sweep if results["sweep_seeds"] else {}


def plot(results: dict, path: Path) -> None:
    by_name, sweep = grouped(results)
    figure = Figure(figsize=(11, 9 if sweep else 4.6), layout="constrained")
    over_texts, over_kl, *over_steps = axes = figure.subplots(2 if sweep else 1, 2).flatten()
    for name, runs in by_name.items():
        curves = {
            key: list(zip(*(smooth(run["curve"][key]) for run in runs), strict=True))
            for key in ("samples", "judge", "kl_nats")
        }
        judge, low, high = zip(*(band(list(values)) for values in curves["judge"]), strict=True)
        for axis, x in (
            (over_texts, [values[0] for values in curves["samples"]]),
            (over_kl, [statistics.fmean(values) for values in curves["kl_nats"]]),
        ):
            axis.plot(x, judge, color=COLOURS[name], label=ALGORITHMS[name])
            if axis is over_texts:
                axis.fill_between(x, low, high, color=COLOURS[name], alpha=0.15, linewidth=0)
            else:  # the KL may go back and forth, so its band is drawn point by point
                axis.vlines(x, low, high, color=COLOURS[name], alpha=0.25)
    # One entry for each n, over seeds.
    best = list(zip(*results["best_of_n"].values(), strict=True))
    judge, low, high = zip(*(band([row["judge"] for row in rows]) for rows in best), strict=True)
    bound = [rows[0]["kl_bound_nats"] for rows in best]
    over_kl.plot(
        bound, judge, "o--", color=COLOURS["best of n"], label="best of n (KL: upper bound)"
    )
    over_kl.vlines(bound, low, high, color=COLOURS["best of n"], alpha=0.5)
    for rows, x, y in zip(best, bound, judge, strict=True):
        over_kl.annotate(
            f"{rows[0]['n']}",
            (x, y),
            (4, -10),
            textcoords="offset points",
            fontsize=8,
            color=COLOURS["best of n"],
        )
    panels = (
        (SWEPT[:2], "Judge after the run (dashed: held-out topics)"),
        (SWEPT[2:], "Distinct texts after the run, training topics"),
    )
    for axis, (panel, title) in zip(over_steps, panels[: len(over_steps)], strict=True):
        for (_, split, key), line in zip(panel, ("-", "--")[: len(panel)], strict=True):
            for name in ALGORITHMS:
                each = [[run[split][key] for run in sweep[name, factor]] for factor in FACTORS]
                axis.plot(
                    FACTORS,
                    [statistics.fmean(values) for values in each],
                    line,
                    color=COLOURS[name],
                    label=ALGORITHMS[name] if line == "-" else None,
                )
                for factor, values in zip(FACTORS, each, strict=True) if line == "-" else ():
                    axis.plot([factor] * len(values), values, ".", color=COLOURS[name])
        axis.set(
            title=title,
            xlabel="step size, as a multiple of the default",
            xscale="log",
            xticks=FACTORS,
            xticklabels=[f"{factor:.2g}" for factor in FACTORS],
        )
        axis.minorticks_off()
    over_texts.set(
        title="Judge against sampled texts (95% bands over seeds)", xlabel="texts sampled"
    )
    over_kl.set(title="Judge against KL to the reference", xlabel="KL (nats per text)")
    for axis in axes:
        axis.set(
            ylim=(0, 1), ylabel="share of texts" if axis is axes[-1] and sweep else "judge (0 to 1)"
        )
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True
        ).stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "unknown") + (
        " with changes" if git("status", "--porcelain", "-uno") else ""
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--sweep-seeds", type=int, default=2, help="seeds of the second sweep; 0 leaves it out"
    )
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--runs", type=Path, default=Path("runs/optimizers"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--updates", type=int, default=FinetuneConfig.updates)
    parser.add_argument(
        "--samples",
        type=int,
        default=EvaluateConfig.samples,
        help="texts judged before and after, each split",
    )
    parser.add_argument(
        "--pretrain-steps", type=int, help="from scratch (default: start from the shipped base)"
    )
    parser.add_argument("--reward-steps", type=int, default=RewardConfig.steps)
    arguments = parser.parse_args()
    if (
        not 0 <= arguments.sweep_seeds <= arguments.seeds
        or arguments.seeds < 1
        or arguments.workers < 1
    ):
        parser.error(
            "expected --seeds and --workers of at least 1 and --sweep-seeds from 0 to --seeds"
        )
    os.environ |= {
        "TQDM_DISABLE": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }  # of the workers

    steps = arguments.pretrain_steps
    start = PretrainConfig(steps=steps) if steps else PretrainConfig(start="base", steps=0)

    def config(seed: int, algorithm: str, factor: float) -> Config:
        finetune = scaled(FinetuneConfig(updates=arguments.updates), algorithm, factor)
        return Config(
            seed=seed,
            device="cpu",
            pretrain=start,
            reward=RewardConfig(steps=arguments.reward_steps),
            finetune=finetune,
            evaluate=EvaluateConfig(samples=arguments.samples),
        )

    bases = {seed: arguments.runs / f"seed{seed}" for seed in range(arguments.seeds)}
    run_all(
        [(prepare, path, config(seed, "reinforce", 1)) for seed, path in bases.items()],
        arguments.workers,
        "shared stages",
    )
    runs = {
        (seed, name, factor): arguments.runs / f"seed{seed}-{name}-x{factor:.2f}"
        for seed in bases
        for name in ALGORITHMS
        for factor in (FACTORS if seed < arguments.sweep_seeds else [1.0])
    }
    first = sorted(runs, key=lambda key: key[2] != 1)  # the comparison before the sweep
    run_all(
        [(compare, runs[key], config(*key), bases[key[0]]) for key in first],
        arguments.workers,
        "algorithms",
    )

    found = [
        result_of(path, seed, factor) for (seed, _, factor), path in runs.items()
    ]  # opens runs, which sets the precision
    results = {
        "task": "openings",
        "seeds": arguments.seeds,
        "sweep_seeds": arguments.sweep_seeds,
        "workers": arguments.workers,
        "start": "shipped base" if start.start == "base" else f"scratch, {steps} steps",
        "texts": arguments.updates * FinetuneConfig.batch_size,
        "commit": commit(),
        "hardware": hardware(torch.device("cpu")) | {"threads": "1", "system": platform.system()},
        "best_of_n": {
            seed: json.loads((path / "best_of_n.json").read_text("utf-8"))
            for seed, path in bases.items()
        },
        "runs": found,
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    atomic_write(arguments.output / "optimizers.json", json.dumps(results) + "\n")
    atomic_write(arguments.output / "optimizers.md", markdown(results))
    plot(results, arguments.output / "optimizers.png")
    print(markdown(results))


if __name__ == "__main__":
    main()
