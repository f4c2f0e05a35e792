"""The demo over several seeds: is the result luck? Prints a table and writes JSON.

    python -m benchmarks.seeds --seeds 5 --json benchmarks/results/seeds.json
    python -m benchmarks.seeds --workers 2                                      # two at a time, one thread each

Every seed is a whole demo of its own (tokenizer's corpus, pretraining, reward model, fine-tuning, judgement) in a fresh process.
The shipped feedback is the same for all.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

COLUMNS = (
    "seconds",
    "pearson",
    "handwritten",
    "train before",
    "train after",
    "heldout after",
    "KL",
    "distinct",
    "hacking",
)


def row_of(summary: dict) -> list:
    train, heldout, quality = summary["train"], summary["heldout"], summary["reward_model"]
    return [
        summary["seconds"]["total"],
        quality["pearson"],
        quality["handwritten_spearman"],
        train["judge_before"]["mean"],
        train["judge_after"]["mean"],
        heldout["judge_after"]["mean"],
        train["kl_after"],
        train["distinct_after"],
        summary["reward_hacking"],
    ]


def demo(seed: int, arguments: argparse.Namespace, extra: list[str]) -> dict:
    """The summary of one demo. Raises CalledProcessError if it failed."""
    command = [
        sys.executable,
        "-m",
        "minirlhf",
        "demo",
        "--seed",
        str(seed),
        "--run",
        f"seed{seed}",
        "--runs",
        str(arguments.runs),
        "--overwrite",
        *extra,
    ]
    environment = os.environ | ({"OMP_NUM_THREADS": "1"} if arguments.workers > 1 else {})
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    return json.loads((arguments.runs / f"seed{seed}" / "summary.json").read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="demos at a time; if more than one, with one thread each",
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--json", type=Path, help="write the summaries here")
    arguments, extra = parser.parse_known_args()  # what is left goes to the demo
    summaries = []
    print("seed  " + "  ".join(f"{name:>13s}" for name in COLUMNS))
    with ThreadPoolExecutor(arguments.workers) as pool:
        for seed, summary in enumerate(
            pool.map(lambda seed: demo(seed, arguments, extra), range(arguments.seeds))
        ):
            summaries.append(summary)
            print(
                f"{seed:4d}  "
                + "  ".join(
                    f"{value!s:>13.13s}" if isinstance(value, bool) else f"{value:13.3f}"
                    for value in row_of(summary)
                ),
                flush=True,
            )
    lowest = min(summary["train"]["judge_after"]["mean"] for summary in summaries)
    print(f"lowest judge after, training topics: {lowest:.3f}")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(summaries, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
