"""config.json: all settings of a run, written and read back, those of earlier versions too."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any, TypeVar

from minirlhf.config import Config
from minirlhf.settings import SettingError, Settings, alternatives, limits_of

RENAMED = {  # a setting of an earlier version: where its value stands now
    "finetune.credit": ("finetune.reinforce.credit",),
    "finetune.baseline": ("finetune.reinforce.baseline", "finetune.trpo.baseline"),
    "finetune.gae_lambda": ("finetune.reinforce.gae_lambda", "finetune.trpo.gae_lambda"),
    "finetune.ppo.pretraining_weight": ("finetune.pretraining_weight",),
    "finetune.group_size": ("finetune.group.size",),
    "reward.masking": ("reward.encoder.masking",),
    "reward.mlm_steps": ("reward.encoder.steps",),
    "reward.mlm_learning_rate": ("reward.encoder.learning_rate",),
    "reward.mlm_muon_learning_rate": ("reward.encoder.muon_learning_rate",),
}

AnySettings = TypeVar("AnySettings", bound=Settings)


def to_json(settings: Settings) -> dict:
    """A JSON object with every setting."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(part) for name, part in value.items()}
        return str(value) if isinstance(value, Path) else value

    return plain(dataclasses.asdict(settings))


def from_json(content: object, where: str) -> Config:
    """The inverse of `to_json`. Settings of earlier versions are understood (RENAMED).

    Raises ValueError naming `where` and the setting that is unknown or outside its limits.
    """
    if isinstance(content, dict):
        content = with_new_names(content)
    return read_settings(Config, content, where)


def with_new_names(content: dict) -> dict:
    """The JSON object of a config with the settings in RENAMED where they stand now."""
    content = copy.deepcopy(content)
    for old, new_names in RENAMED.items():
        *groups, name = old.split(".")
        part = inner(content, groups)
        if part is None or name not in part:
            continue
        value = part.pop(name)
        for new in new_names:
            *groups, name = new.split(".")
            part = inner(content, groups)
            if part is not None:
                part.setdefault(name, value)
    return content


def inner(content: dict, groups: list[str]) -> dict | None:
    """The object inside these objects, made if it is missing; None where something else stands."""
    for group in groups:
        part = content.setdefault(group, {})
        if not isinstance(part, dict):
            return None
        content = part
    return content


def read_settings(
    kind: type[AnySettings], content: object, where: str, inside: tuple[str, ...] = ()
) -> AnySettings:
    """A dataclass of type `kind` filled from a JSON object; missing fields get their defaults.

    `inside`: the names of the objects around it. Raises ValueError as `from_json`.
    """
    here = ": ".join([where, *inside])
    if not isinstance(content, dict):
        raise ValueError(f"{here}: expected a JSON object, found {type(content).__name__}")
    hints = limits_of(kind)
    values: dict[str, Any] = {}
    for name, value in content.items():
        if name not in hints:
            raise ValueError(f"{here}: unknown field {name!r}")
        if dataclasses.is_dataclass(hints[name]):
            values[name] = read_settings(hints[name], value, where, (*inside, name))
        elif isinstance(value, list):
            values[name] = tuple(value)
        elif isinstance(value, str) and Path in alternatives(hints[name]):
            values[name] = Path(value)
        else:
            values[name] = value
    try:
        return kind(**values)
    except SettingError as error:
        raise ValueError(f"{where}: {error}") from None
