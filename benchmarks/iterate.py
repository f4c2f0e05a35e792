"""Many rounds of feedback against one, with the same number of ratings in all, over several seeds.

    python -m benchmarks.iterate --seeds 3 --rounds 1 4 --ratings 3000 --json FILE

Each seed starts from the shipped base (with --pretrain-steps: from scratch) in a run
RUNS/iterate-baseSEED, which is used again if its settings are the same; each number of rounds
starts from there. Other arguments go to `iterate`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from minirlhf.config import ModelConfig, PretrainConfig
from minirlhf.reports.run_report import rounds_of
from minirlhf.runs import products
from minirlhf.runs.folder import Run


def minirlhf(*arguments: object, one_thread: bool) -> None:
    """Runs the command line in a process of its own. Raises CalledProcessError if it failed."""
    environment = (
        os.environ | {"TQDM_DISABLE": "1"} | ({"OMP_NUM_THREADS": "1"} if one_thread else {})
    )
    subprocess.run(
        [sys.executable, "-m", "minirlhf", *map(str, arguments)],
        check=True,
        stdout=subprocess.DEVNULL,
        env=environment,
    )


def start_of(steps: int | None) -> PretrainConfig:
    """The shipped base, or `steps` of pretraining from random weights."""
    return PretrainConfig(steps=steps) if steps else PretrainConfig(start="base", steps=0)


def one_seed(seed: int, options: argparse.Namespace, extra: list[str]) -> list[dict]:
    """A row for each number of rounds, all from one pretrained policy."""
    base, rows, one_thread = options.runs / f"iterate-base{seed}", [], options.workers > 1
    wanted = start_of(options.pretrain_steps)
    if not (base / products.RESULT["pretrain"]).exists():
        minirlhf(
            "pretrain",
            "--run",
            base.name,
            "--runs",
            options.runs,
            "--seed",
            seed,
            "--overwrite",
            "--start",
            wanted.start,
            "--steps",
            wanted.steps,
            one_thread=one_thread,
        )
    found = Run.open(base).config
    if (found.seed, found.model, found.pretrain) != (seed, ModelConfig(), wanted):
        sys.exit(
            f"{base}: pretrained under other settings; give another --runs folder, or delete it"
        )
    for rounds in options.rounds:
        path = options.runs / f"iterate{rounds}-{seed}"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(base, path)
        minirlhf(
            "iterate",
            "--run",
            path.name,
            "--runs",
            options.runs,
            "--rounds",
            rounds,
            "--ratings-per-round",
            options.ratings // rounds,
            *extra,
            one_thread=one_thread,
        )
        summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
        rows.append(
            {
                "seed": seed,
                "rounds": rounds,
                "by_round": rounds_of(Run.open(path).read("metrics.jsonl")),
                "ratings": summary["ratings"]["collected"],
                "pearson": summary["reward_model"]["pearson"],
                **{
                    f"{split}_{key}": summary[split][f"{key}_after"]["mean"]
                    for split in ("train", "heldout")
                    for key in ("judge", "reward")
                },
                "train_kl": summary["train"]["kl_after"],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--ratings", type=int, default=3000, help="in all")
    parser.add_argument(
        "--pretrain-steps", type=int, help="from scratch (default: start from the shipped base)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="seeds at a time; if more than one, with one thread each",
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--json", type=Path)
    options, extra = parser.parse_known_args()
    results = []
    with ThreadPoolExecutor(options.workers) as pool:
        for rows in pool.map(lambda seed: one_seed(seed, options, extra), range(options.seeds)):
            results += rows
            for row in rows:
                print(
                    f"seed {row['seed']}, {row['rounds']} rounds, {row['ratings']} ratings: "
                    f"judge {row['train_judge']:.3f} (held-out topics {row['heldout_judge']:.3f}), "
                    f"reward {row['train_reward']:.3f}; at the end the reward model's MSE on the "
                    f"policy's own texts {row['by_round'][-1]['reward_judge_mse']:.4f}",
                    flush=True,
                )
    for rounds in options.rounds:
        judged = [row["train_judge"] for row in results if row["rounds"] == rounds]
        spread = statistics.stdev(judged) if len(judged) > 1 else float("nan")
        print(
            f"{rounds} rounds: judge {statistics.fmean(judged):.3f} +- {spread:.3f} "
            f"over {len(judged)} seeds"
        )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
