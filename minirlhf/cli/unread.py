"""Options that are typed but that the chosen algorithm does not read are refused, not ignored."""

from __future__ import annotations

from operator import attrgetter

from minirlhf.cli.options import Demo, Finetune
from minirlhf.config import FinetuneConfig
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


def refuse_unread(command: object, default: object) -> None:
    """Raise SettingError if `finetune` or `demo` is given an option that its algorithm ignores.

    `default`: the same command without options. A value that equals its default is not seen.
    """
    given, usual = finetune_settings(command), finetune_settings(default)
    if given is None or usual is None:
        return
    for name in differing(given, usual):
        if is_unread(name, given.algorithm):
            expected = f"no such option with {given.algorithm}, which does not read it"
            raise SettingError(f"finetune.{name}", expected, attrgetter(name)(given))
        if name.startswith("soft_prompt.") and given.tune == "all":
            expected = "no such option with --finetune.tune all, which does not read it"
            raise SettingError(f"finetune.{name}", expected, attrgetter(name)(given))


def is_unread(name: str, algorithm: str) -> bool:
    if algorithm == "dpo":
        return not name.startswith(READ_BY_DPO)
    return algorithm == "trpo" and name == "pretraining_weight"


def finetune_settings(command: object) -> FinetuneConfig | None:
    if isinstance(command, Demo):
        return command.config.finetune
    return command.finetune if isinstance(command, Finetune) else None
