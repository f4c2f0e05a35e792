"""Detects instability during fine-tuning, finds its cause and names the setting to change.

The failures are those of section 3.3 of the article, and two that look like slow learning: samples
that are all cut off, and a reward that is the same for all of them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

from torch import nn

from minirlhf.config import FinetuneConfig
from minirlhf.settings import option
from minirlhf.system.weights import weights

LATEST = 3  # updates in a row that must show it before samples or rewards are said to be useless
FEW_ENDED = 0.05  # share of the samples
ROUNDING = 1e-6  # rewards closer than this share of their size are the same: float32 has 7 digits
# Numbers that are NaN where there is nothing to measure, which is no fault.
MAY_BE_UNDEFINED = ("explained_variance", "reward_std")


def diagnose(
    rows: list[dict], config: FinetuneConfig, modules: Mapping[str, nn.Module] | None = None
) -> dict[str, str]:
    """New warnings triggered by the latest row: kind to one line that names a setting.

    `rows` are the fine-tuning part of metrics.jsonl. Each kind is reported once: not again if it
    is among the "warnings" of an earlier row. `modules`: "policy", "reward model" and so on, whose
    weights are looked at if a number is NaN or infinite.
    """
    checks = {
        "entropy": low_entropy(rows[-1], config),
        "kl": high_kl(rows[-1], config),
        "cut off": all_cut_off(rows, config),
        "same reward": same_reward(rows, config),
        "hacking": hacking(rows, config),
    }
    found = {kind: message for kind, message in checks.items() if message}
    found |= not_finite(rows[-1], config, modules or {})
    reported = {kind for earlier in rows[:-1] for kind in earlier.get("warnings", {})}
    return {kind: message for kind, message in found.items() if kind not in reported}


# NaN and inf --------------------------------------------------------------------------------------


def not_finite(
    row: dict, config: FinetuneConfig, modules: Mapping[str, nn.Module]
) -> dict[str, str]:
    """What is behind numbers that are NaN or infinite: kind and message; empty if there are none.

    What comes first on the way from the weights to the step is the cause of all that follows it:
    weights, the reward and the judge, log-probabilities, the gradient.
    """
    broken = [
        name
        for name, value in row.items()
        if isinstance(value, float) and not math.isfinite(value) and name not in MAY_BE_UNDEFINED
    ]
    if not broken:
        return {}
    cause, words = cause_of(broken, config, broken_weight(modules))
    return {f"not finite{cause}": f"{', '.join(broken)}: NaN or inf; {words}"}


def cause_of(broken: list[str], config: FinetuneConfig, weight: str | None) -> tuple[str, str]:
    """What the kind of the warning ends in, and the cause and the advice in words."""
    smaller, again = f"lower {option(config.step_size)}", "and begin again with --overwrite"
    if weight is not None:
        module = weight.partition(":")[0]
        by_module = {
            "policy": f"{smaller} {again}",
            "reward model": "train it again with a lower --reward.learning-rate",
            "reference": "pretrain again with a lower --pretrain.learning-rate",
        }
        return f" weights of {module}", f"so is a weight of the {weight}; {by_module[module]}"
    if "reward" in broken:
        advice = "train it again with a lower --reward.learning-rate"
        return " reward", f"the reward model's scores are the cause; {advice}"
    if "judge" in broken:
        return " judge", "the task's judge is the cause; nothing is learned from its scores"
    if "kl_nats" in broken or "entropy_nats_per_token" in broken:
        cause = "log-probabilities of the samples are the cause, as the weights have become large"
        return " log-probabilities", f"{cause}; {smaller} {again}"
    if "gradient_norm" in broken:
        return "", f"the gradient is the cause, and its step is left out; {smaller}"
    return "", smaller


def broken_weight(modules: Mapping[str, nn.Module]) -> str | None:
    """The first weight that is NaN or infinite, with its module's name; None if all are finite."""
    for name, module in modules.items():
        for key, tensor in weights(module).items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                return f"{name}: {key}"
    return None


# What a row or a few of them show -----------------------------------------------------------------


def low_entropy(row: dict, config: FinetuneConfig) -> str | None:
    entropy, floor = row["entropy_nats_per_token"], config.warn.entropy_floor
    if not entropy < floor:
        return None
    own = config.of_algorithm
    bonus = f" or {option(own.place)}entropy-weight" if hasattr(own, "entropy_weight") else ""
    return (
        f"entropy {entropy:.2f} nats per token, below {floor:g}: all samples are becoming alike; "
        f"raise {option(config.kl_price)}{bonus}"
    )


def high_kl(row: dict, config: FinetuneConfig) -> str | None:
    kl, ceiling = row["kl_nats"], config.warn.kl_ceiling
    if not kl > ceiling:
        return None
    target = ", set --finetune.kl-target" if config.kl_price == "finetune.kl_weight" else ""
    return (
        f"KL {kl:.1f} nats per text, above {ceiling:g}: the policy has left its reference; raise "
        f"{option(config.kl_price)}{target} or lower {option(config.step_size)}"
    )


def all_cut_off(rows: list[dict], config: FinetuneConfig) -> str | None:
    """A sentence, if for some updates next to no sample has ended: each gets reward 0."""
    latest = latest_rows(rows, config)
    shares = [row["ended"] for row in latest if "ended" in row]
    if not latest or len(shares) < len(latest) or statistics.fmean(shares) > FEW_ENDED:
        return None
    return (
        f"ended {statistics.fmean(shares):.2f}: nearly all samples are cut off at "
        f"--finetune.max-new-tokens {config.max_new_tokens} and get reward 0, so nothing can be "
        "learned; raise it, or pretrain longer (--pretrain.steps) if texts should be shorter"
    )


def same_reward(rows: list[dict], config: FinetuneConfig) -> str | None:
    """A sentence, if for some updates all samples got one reward, though they were not cut off."""
    latest = latest_rows(rows, config)
    if not latest or all_cut_off(rows, config):
        return None
    if not all(row.get("reward_std", 1.0) <= ROUNDING * abs(row["reward"]) for row in latest):
        return None
    reward = latest[-1]["reward"]
    if "distinct" in latest[-1] and latest[-1]["distinct"] * config.batch_size < 2:
        cause = f"they are all the same text; raise {option(config.kl_price)} and begin again"
    else:
        cause = (
            "the reward model does not tell them apart; train it longer (--reward.steps) or on "
            "more feedback"
        )
    return f"reward {reward:.3f} for all samples, so nothing can be learned: {cause}"


def latest_rows(rows: list[dict], config: FinetuneConfig) -> list[dict]:
    """The last few rows; none if there are not as many yet."""
    count = min(LATEST, config.updates)
    return rows[-count:] if len(rows) >= count else []


# Reward hacking -----------------------------------------------------------------------------------


def hacking(rows: list[dict], config: FinetuneConfig) -> str | None:
    facts = reward_hacking(rows, config.warn.window)
    if facts is None:
        return None
    advice = (
        "--finetune.kl-weight, --finetune.rounds or --finetune.ratings-per-round, or stop earlier "
        "(--finetune.updates)"
    )
    if config.kl_price != "finetune.kl_weight":  # it learns without rounds
        advice = f"{option(config.kl_price)}, or lower {option(config.step_size)}"
    return f"{facts}: the policy is learning what the reward model overrates; raise {advice}"


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
