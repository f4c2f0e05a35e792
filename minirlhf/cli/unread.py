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
    "conservatism",
    "warn.",
)


def refuse_unread(command: object, default: object) -> None:
    """Raise SettingError if `finetune` or `demo` is to use DPO with an option that it ignores.

    `default`: the same command without options. A value that equals its default is not seen.
    """
    given, usual = finetune_settings(command), finetune_settings(default)
    if given is None or usual is None or given.algorithm != "dpo":
        return
    for name in differing(given, usual):
        if not name.startswith(READ_BY_DPO):
            expected = "no such option with dpo, which does not read it"
            raise SettingError(f"finetune.{name}", expected, attrgetter(name)(given))


def finetune_settings(command: object) -> FinetuneConfig | None:
    if isinstance(command, Demo):
        return command.config.finetune
    return command.finetune if isinstance(command, Finetune) else None
