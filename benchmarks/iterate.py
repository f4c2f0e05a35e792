"""Many rounds of feedback against one, with the same number of ratings in all, over several seeds.

    python -m benchmarks.iterate --seeds 5 --rounds 1 3 --ratings 1200 --json FILE

Each seed is pretrained once; each number of rounds starts from there. Other arguments go to `iterate`.
"""
from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from minirlhf.report import rounds_of
from minirlhf.run import Run


def minirlhf(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "minirlhf", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--ratings", type=int, default=1200, help="in all")
    parser.add_argument("--pretrain-steps", type=int, help="(default: that of pretrain)")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--json", type=Path)
    options, extra = parser.parse_known_args()
    results = []
    for seed in range(options.seeds):
        base = options.runs / f"iterate-base{seed}"
        steps = ["--steps", options.pretrain_steps] if options.pretrain_steps else []
        minirlhf("pretrain", "--run", base.name, "--runs", options.runs, "--seed", seed, "--overwrite", *steps)
        for rounds in options.rounds:
            path = options.runs / f"iterate{rounds}-{seed}"
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(base, path)
            minirlhf("iterate", "--run", path.name, "--runs", options.runs, "--rounds", rounds, "--ratings-per-round",
                     options.ratings // rounds, *extra)
            summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
            row = {"seed": seed, "rounds": rounds, "by_round": rounds_of(Run.open(path).read("metrics.jsonl")),
                   "ratings": summary["ratings"]["collected"],
                   **{f"{split}_{key}": summary[split][f"{key}_after"]["mean"] for split in ("train", "heldout")
                      for key in ("judge", "reward")}}
            results.append(row)
            last = row["by_round"][-1]
            print(f"seed {seed}, {rounds} rounds, {row['ratings']} ratings: judge {row['train_judge']:.3f} (held-out topics "
                  f"{row['heldout_judge']:.3f}), reward {row['train_reward']:.3f}; at the end the reward model's MSE on the "
                  f"policy's own texts {last['reward_judge_mse']:.4f}", flush=True)
    for rounds in options.rounds:
        judged = [row["train_judge"] for row in results if row["rounds"] == rounds]
        spread = statistics.stdev(judged) if len(judged) > 1 else float("nan")
        print(f"{rounds} rounds: judge {statistics.fmean(judged):.3f} +- {spread:.3f} over {len(judged)} seeds")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
