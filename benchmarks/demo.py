"""What `make demo` takes and what it reaches, over several seeds. Prints a table and writes JSON.

    python -m benchmarks.demo --seeds 5 --json benchmarks/results/demo.json
    python -m benchmarks.demo --avx2 --seeds 5       # a newer CPU held to AVX2 and float32
    python -m benchmarks.demo --seeds 1 --from-scratch
    python -m benchmarks.demo --seeds 1 --size gpu

Each seed is a whole demo in a fresh process. The shipped feedback and the shipped base are the same
for all. What the script does not know (--precision, --finetune.updates, ...) goes to the demo.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Instructions newer than AVX2 are left out by oneDNN, PyTorch and MKL in turn.
AVX2 = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
STAGES = ("pretrain", "reward", "finetune", "evaluate", "total")


def demo(seed: int, arguments: argparse.Namespace, extra: list[str]) -> dict:
    """The summary of one demo. Raises CalledProcessError if it failed."""
    command = [sys.executable, "-m", "minirlhf", "demo", "--overwrite"]
    command += ["--seed", str(seed), "--run", f"seed{seed}", "--runs", str(arguments.runs), *extra]
    environment = dict(os.environ)
    if arguments.avx2:
        environment |= AVX2
        command += ["--precision", "float32"]
    if arguments.workers > 1:
        environment["OMP_NUM_THREADS"] = "1"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command, check=True, env=environment, **quiet)
    return json.loads((arguments.runs / f"seed{seed}" / "summary.json").read_text(encoding="utf-8"))


def row_of(summary: dict) -> dict[str, float]:
    """The figures of one demo, by the table's column."""
    train, heldout, quality = summary["train"], summary["heldout"], summary["reward_model"]
    return {
        "judge before": train["judge_before"]["mean"],
        "judge": train["judge_after"]["mean"],
        "heldout before": heldout["judge_before"]["mean"],
        "heldout": heldout["judge_after"]["mean"],
        "r": quality["pearson"],
        "Spearman": quality["handwritten_spearman"],
        "KL": train["kl_after"],
        "distinct": train["distinct_after"],
        "MB": summary["peak_rss_mb"],
        **{stage: summary["seconds"][stage] for stage in STAGES},
    }


def line(name: str, row: dict[str, float]) -> str:
    return f"{name:6s}" + "".join(f"{value:>15.3f}" for value in row.values())


def commit() -> str:
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1, help="demos at a time, one thread each")
    parser.add_argument("--avx2", action="store_true", help="hold the CPU to AVX2 and float32")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments, extra = parser.parse_known_args()
    rows, summaries = [], []
    with ThreadPoolExecutor(arguments.workers) as pool:
        results = pool.map(lambda seed: demo(seed, arguments, extra), range(arguments.seeds))
        for seed, summary in enumerate(results):
            row = row_of(summary)
            if seed == 0:
                print("      " + "".join(f"{name:>15s}" for name in row))
            print(line(f"{seed}", row), flush=True)
            rows.append(row)
            summaries.append(summary)
    means = {name: statistics.fmean(row[name] for row in rows) for name in rows[0]}
    print(line("mean", means))
    print(f"lowest judge on training topics: {min(row['judge'] for row in rows):.3f}")
    hacked = sum(summary["reward_hacking"] for summary in summaries)
    print(f"reward hacking: {hacked} of {len(rows)}")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "commit": commit(),
            "hardware": summaries[0]["hardware"],
            "held_to_avx2": arguments.avx2,
            "workers": arguments.workers,
            "options": extra,
            "mean": means,
            "seeds": rows,
            "reward_hacking": hacked,
            "splits": [{part: s[part] for part in ("train", "heldout")} for s in summaries],
        }
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
