"""Detects instability during fine-tuning and names the setting to change.

The failures are those of section 3.3 of the article.
"""

from __future__ import annotations

import math
import statistics

from minirlhf.config import FinetuneConfig


def diagnose(rows: list[dict], config: FinetuneConfig) -> dict[str, str]:
    """New warnings triggered by the latest row: kind to one line that names a setting.

    `rows` are the fine-tuning part of metrics.jsonl. Each kind is reported once: not again if it
    is among the "warnings" of an earlier row.
    """
    row, limits = rows[-1], config.warn
    step_sizes = {"ppo": "--finetune.ppo.learning-rate", "trpo": "--finetune.trpo.delta"}
    slower = step_sizes.get(config.algorithm, "--finetune.learning-rate")
    found = {}
    numbers = {name: value for name, value in row.items() if isinstance(value, float)}
    broken = [name for name, value in numbers.items() if not math.isfinite(value)]
    if broken:
        found["not finite"] = f"{', '.join(broken)}: NaN or inf; lower {slower}"
    if row["entropy_nats_per_token"] < limits.entropy_floor:
        bonus = " or --finetune.ppo.entropy-weight" if config.algorithm == "ppo" else ""
        found["entropy"] = (
            f"entropy {row['entropy_nats_per_token']:.2f} nats per token, below "
            f"{limits.entropy_floor:g}: all samples are becoming alike; raise "
            f"--finetune.kl-weight{bonus}"
        )
    if row["kl_nats"] > limits.kl_ceiling:
        found["kl"] = (
            f"KL {row['kl_nats']:.1f} nats per text, above {limits.kl_ceiling:g}: the policy has "
            "left its reference; raise --finetune.kl-weight, set --finetune.kl-target or lower "
            f"{slower}"
        )
    if hacked := reward_hacking(rows, limits.window):
        found["hacking"] = (
            f"{hacked}: the policy is learning what the reward model overrates; raise "
            "--finetune.kl-weight, --finetune.rounds or --finetune.ratings-per-round, or stop "
            "earlier (--finetune.updates)"
        )
    reported = {kind for earlier in rows[:-1] for kind in earlier.get("warnings", {})}
    return {kind: message for kind, message in found.items() if kind not in reported}


def reward_hacking(rows: list[dict], window: int) -> str | None:
    """A sentence, if the reward rose and the judge fell, both by more than 3 standard errors.

    Whenever a window of updates is full, it is compared with the window that the judge scored
    highest. None if the window is not full or there is no reward hacking.
    """
    if len(rows) % window or len(rows) < 2 * window:
        return None
    windows = [rows[start : start + window] for start in range(0, len(rows), window)]
    best = max(windows[:-1], key=lambda part: statistics.fmean(row["judge"] for row in part))

    def change(key: str) -> tuple[float, float, float]:
        """Mean in the best window, mean now, and the standard error of their difference."""
        then, now = ([row[key] for row in part] for part in (best, windows[-1]))
        error = math.sqrt(
            (statistics.pvariance(then) + statistics.pvariance(now)) / max(1, window - 1)
        )
        return statistics.fmean(then), statistics.fmean(now), error

    reward_then, reward_now, reward_error = change("reward")
    judge_then, judge_now, judge_error = change("judge")
    if reward_now - reward_then > 3 * reward_error and judge_then - judge_now > 3 * judge_error:
        return (
            f"since update {best[-1]['step']} the reward rose from {reward_then:.2f} to "
            f"{reward_now:.2f} and the judge fell from {judge_then:.2f} to {judge_now:.2f}"
        )
    return None
