"""Options that are typed but that nothing reads, as other settings stand, are refused."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from minirlhf.cli.options import Iterate
from minirlhf.runs.settings import differing
from minirlhf.settings import SettingError

# What DPO reads of the settings of fine-tuning. The reward model still scores samples for the log,
# `batch_size` at a time.
READ_BY_DPO = (
    "algorithm",
    "dpo.",
    "batch_size",
    "max_new_tokens",
    "gradient_clip",
    "pretraining_weight",
    "conservatism",
    "warn.",
)

# What the frozen weights of a stage with a soft prompt would learn by. (PPO's own rate is read: its
# value function learns at it.)
OF_FROZEN_WEIGHTS = ("learning_rate", "muon_learning_rate", "weight_decay")


def refuse_unread(command: object, default: object) -> None:
    """Raise SettingError if a command is given an option that its algorithm or `tune` ignores.

    Or if iterate is given an algorithm that learns from no samples. `default`: the same command
    without options. A value that equals its default is not seen.
    """
    for stage in ("sft", "finetune"):
        refuse_soft_prompt(stage, settings_of(command, stage), settings_of(default, stage))
    given, usual = settings_of(command, "finetune"), settings_of(default, "finetune")
    if given is None or usual is None:
        return
    if isinstance(command, Iterate):
        samples = given.algorithm != "dpo"
        given.require(samples, "algorithm", "one that learns from the samples rated between rounds")
    for name in differing(given, usual):
        if is_unread(name, given.algorithm):
            expected = f"no such option with {given.algorithm}, which does not read it"
            raise SettingError(f"finetune.{name}", expected, attrgetter(name)(given))


def refuse_soft_prompt(stage: str, given: Any, usual: Any) -> None:
    """Raise SettingError if a stage is given an option of a soft prompt that it does not tune.

    Or if it tunes nothing but that, and is given an option of the weights that are frozen.
    """
    if given is None or usual is None:
        return
    if given.tune == "soft-prompt-and-body":
        return  # both are read
    unread: tuple[str, ...] = ("soft_prompt.",)
    instead = "which does not read it"
    if given.tune == "soft-prompt":
        unread = OF_FROZEN_WEIGHTS
        instead = f"whose vectors learn at --{stage}.soft-prompt.learning-rate, without decay"
    for name in differing(given, usual):
        if name.startswith(unread):
            expected = f"no such option with --{stage}.tune {given.tune}, {instead}"
            raise SettingError(f"{stage}.{name}", expected, attrgetter(name)(given))


def settings_of(command: object, stage: str) -> Any:
    """The settings of a stage in a command's options; None if it has none."""
    return getattr(getattr(command, "config", command), stage, None)


def is_unread(name: str, algorithm: str) -> bool:
    if algorithm == "dpo":
        return not name.startswith(READ_BY_DPO)
    return algorithm == "trpo" and name == "pretraining_weight"
