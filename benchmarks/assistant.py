"""InstructGPT's three stages on the task `assistant`, over several seeds, and other ways beside it.

    python -m benchmarks.assistant --seeds 3 --json benchmarks/results/assistant.json

Each seed is one `demo --task assistant` in a fresh process. Its SFT model and reward model then
serve the other ways of fine-tuning (VARIANTS), each of which is judged alike. "hacked" trains its
own reward model, on four answers of the SFT model to each prompt and without their likelihood, and
shows what that leads to.
What the script does not know (--finetune.updates, ...) goes to the demo.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.demo import commit

MAIN = "ppo-ptx"  # the demo itself
SPLITS = ("train", "heldout", "phrasings")
# Other ways from the same SFT model: options of `finetune`, and before it of `reward` (None: the
# reward model of the demo serves).
VARIANTS: dict[str, tuple[list[str] | None, list[str]]] = {
    "ppo": (None, ["--pretraining-weight", "0"]),
    "rloo-ptx": (None, ["--algorithm", "rloo"]),
    "reinforce-ptx": (None, ["--algorithm", "reinforce"]),
    "dpo": (None, ["--algorithm", "dpo"]),
    "hacked": (
        ["--ranked-answers", "sft", "--no-likelihood", "--steps", "200"]
        + ["--learning-rate", "5e-3", "--muon-learning-rate", "0.02"],
        ["--pretraining-weight", "0", "--kl-weight", "0"],
    ),
}


def call(stage: str, run: Path, options: list[str]) -> None:
    """Run a command on a run folder, quietly. Raises CalledProcessError if it fails."""
    command = [sys.executable, "-m", "minirlhf", stage]
    command += ["--run", run.name, "--runs", str(run.parent), *options]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    done = subprocess.run(command, check=False, env=os.environ, **quiet)
    if done.returncode:
        sys.exit(f"{stage} {run.name}: {done.stderr.decode(errors='replace')[-400:]}")


def summary_of(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text(encoding="utf-8"))


def seed_of(seed: int, runs: Path, names: list[str], extra: list[str]) -> dict[str, dict]:
    """The summary of each way of one seed."""
    main = runs / f"assistant{seed}"
    call("demo", main, ["--task", "assistant", "--seed", str(seed), "--overwrite", *extra])
    found = {MAIN: summary_of(main)}
    for name in names:
        reward, finetune = VARIANTS[name]
        run = runs / f"assistant{seed}-{name}"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(main, run)
        if reward is not None:
            call("reward", run, [*reward, "--overwrite"])
        call("finetune", run, [*finetune, "--overwrite"])
        call("evaluate", run, ["--overwrite"])
        found[name] = summary_of(run)
    return found


def figures_of(summary: dict) -> dict[str, float]:
    """The figures of one way, by the table's column."""
    quality, row = summary["reward_model"], {}
    for split in SPLITS:
        part = summary[split]
        for when in ("base", "before", "after"):
            row[f"{split} {when}"] = part[f"judge_{when}"]["mean"]
        row[f"{split} wins"] = part["win_rate"]["mean"]
    row["pairs right"] = quality["pairs_right"]["mean"]
    row["pairs right, held-out topics"] = quality["pairs_right_heldout_topics"]["mean"]
    for when in ("base", "before", "after"):
        row[f"refused {when}"] = summary["refusals"][when]["refused"]["mean"]
        row[f"answered {when}"] = summary["refusals"][when]["answered"]["mean"]
    for name, loss in summary["corpus_loss"].items():
        row[f"corpus loss {name}"] = loss["mean"]
    row["KL"] = summary["train"]["kl_after"]
    row["distinct"] = summary["train"]["distinct_after"]
    row["MB"] = summary["peak_rss_mb"]
    for stage, seconds in summary["seconds"].items():
        row[f"seconds {stage}"] = seconds
    row["hacking"] = float(summary["reward_hacking"])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments, extra = parser.parse_known_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    rows: dict[str, list[dict]] = {}
    hardware = {}
    for seed in seeds:
        for name, summary in seed_of(seed, arguments.runs, arguments.variants, extra).items():
            rows.setdefault(name, []).append(figures_of(summary))
            hardware = summary["hardware"]
    means = {
        name: {key: statistics.fmean(row[key] for row in found) for key in found[0]}
        for name, found in rows.items()
    }
    print(f"{len(seeds)} seeds; means" + "".join(f"{name:>15s}" for name in means))
    for key in means[MAIN]:
        print(f"{key:30s}" + "".join(f"{mean[key]:>15.3f}" for mean in means.values()))
    if arguments.json:
        content = {
            "commit": commit(),
            "hardware": hardware,
            "options": extra,
            "variants": {name: VARIANTS[name] for name in arguments.variants},
            "mean": means,
            "seeds": rows,
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
