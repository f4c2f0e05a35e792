"""Settings of a run compared with those on the command line, and made independent of its folder."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from minirlhf.config import Config


def with_absolute_paths(config: Config) -> Config:
    """The settings with absolute paths: nobody records the folder that others are relative to."""
    feedback, base = config.feedback, config.pretrain.base
    demonstrations = config.sft.demonstrations
    if feedback is not None:
        config = dataclasses.replace(config, feedback=Path(os.path.abspath(feedback)))
    if base is not None:
        pretrain = dataclasses.replace(config.pretrain, base=Path(os.path.abspath(base)))
        config = dataclasses.replace(config, pretrain=pretrain)
    if demonstrations is not None:
        sft = dataclasses.replace(config.sft, demonstrations=Path(os.path.abspath(demonstrations)))
        config = dataclasses.replace(config, sft=sft)
    return config


def differing(given: Any, stored: Any, prefix: str = "") -> list[str]:
    """The dotted names of the settings in which two settings objects of one type differ."""
    names = []
    for field in dataclasses.fields(given):
        one, other = getattr(given, field.name), getattr(stored, field.name)
        if dataclasses.is_dataclass(one):
            names += differing(one, other, f"{prefix}{field.name}.")
        elif one != other:
            names.append(prefix + field.name)
    return names
