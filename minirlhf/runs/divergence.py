"""A stage whose weights are no longer numbers: it is not stored, and the cause is named."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from minirlhf.config import Config, preset
from minirlhf.system.weights import weights

# The settings that make a step larger, by stage, as one types them.
STEP_SIZES = {
    "pretrain": (
        "pretrain.learning_rate",
        "pretrain.muon_learning_rate",
        "pretrain.weight_decay",
        "pretrain.match_weight",
    ),
    "masked-lm": ("reward.mlm_learning_rate", "reward.mlm_muon_learning_rate"),
    "sft": ("sft.learning_rate", "sft.muon_learning_rate", "sft.weight_decay"),
    "reward": ("reward.learning_rate", "reward.muon_learning_rate", "reward.weight_decay"),
    "finetune": ("reward.learning_rate", "reward.muon_learning_rate"),
}


def check_finite(modules: Mapping[str, nn.Module], stage: str, config: Config) -> None:
    """Raise ValueError, one line, if a weight is NaN or infinite.

    It names the settings that may be the cause: those that make a step larger than the preset's.
    """
    for module in modules.values():
        for name, tensor in weights(module).items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise ValueError(
                    f"{stage}: expected finite weights, found NaN or inf in {name}; "
                    f"{advice(stage, config)}, and begin again with --overwrite"
                )


def check_loss(rows: list[dict], stage: str, config: Config) -> None:
    """Raise ValueError, one line, if a loss in the stage's last row of metrics is NaN or infinite.

    Steps with such gradients are skipped, so the weights themselves may still be finite.
    """
    own = [row for row in rows if row.get("stage") == stage]
    for name, value in own[-1].items() if own else ():
        if "loss" in name and not math.isfinite(value):
            raise ValueError(
                f"{stage}: expected a finite loss after step {own[-1]['step']}, found {name} "
                f"{value}; {advice(stage, config)}, and begin again with --overwrite"
            )


def advice(stage: str, config: Config) -> str:
    """Which settings to lower. Only those above the preset are blamed, if there are any."""
    names, tune = STEP_SIZES.get(stage, ()), config.finetune
    if stage == "sft" and config.sft.tune == "soft-prompt":
        names = ("sft.soft_prompt.learning_rate",)
    if stage == "finetune":
        names = (tune.step_size, tune.kl_price, *(() if tune.algorithm == "dpo" else names))
    usual = preset(config.size, config.task)
    raised = [name for name in names if value_of(config, name) > value_of(usual, name)]
    if raised:
        return "lower " + " and ".join(_option(name, config) for name in raised)
    found = ", ".join(_option(name, config) for name in names)
    return f"no setting is above its usual value, so try lower ones ({found})"


def _option(name: str, config: Config) -> str:
    return f"--{name.replace('_', '-')} {value_of(config, name):g}"


def value_of(config: Config, name: str) -> float:
    """The setting with this dotted name."""
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value
