"""Limits of settings: what a value may be stands in the type of its field and is checked once.

    dropout: Annotated[float, Range(at_least=0, below=1)] = 0.0

A dataclass that inherits from `Settings` checks all its fields when it is made, so an object with a
bad value cannot exist. What two settings demand of each other it checks with `require`.
"""

from __future__ import annotations

import dataclasses
import math
import reprlib
import sys
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

MANY = 10**9  # no count is larger: products of a few counts fit into 64 bits


class SettingError(Exception):
    """A setting that cannot work: one line that names it as one types it.

    Not a ValueError, as tyro catches those and draws a box around them.
    """

    def __init__(self, name: str, expected: str, found: object):
        shown = str(found) if isinstance(found, Path) else reprlib.repr(found)
        super().__init__(f"{option(name)}: expected {expected}, found {shown}")


def option(name: str) -> str:
    """The option of the command line for a setting, "finetune.kl_weight" for example."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class Range:
    """Limits of a number. `above` and `below` exclude the limit itself. NaN is in no range."""

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    infinite: bool = False  # inf is allowed: "no limit"

    def holds(self, value: float) -> bool:
        # Also false for NaN, and for integers that no float can hold.
        finite = abs(value) <= sys.float_info.max
        return (
            (finite or (self.infinite and value == math.inf))
            and (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def words(self, value: object) -> str:
        """ "of at least 1"; the limit MANY is mentioned only to a value above it."""
        at_most = self.at_most
        if at_most == MANY and not (isinstance(value, int) and value > MANY):
            at_most = None
        if self.at_least is not None and at_most is not None:
            return f"from {self.at_least} to {at_most}"
        limits = {"of at least": self.at_least, "above": self.above, "below": self.below}
        limits["at most"] = at_most
        return " and ".join(
            f"{name} {limit}" for name, limit in limits.items() if limit is not None
        )


# The usual kinds of numbers.
Finite = Annotated[float, Range()]
Count = Annotated[int, Range(at_least=1, at_most=MANY)]
CountOrZero = Annotated[int, Range(at_least=0, at_most=MANY)]
Positive = Annotated[float, Range(above=0)]
PositiveOrInf = Annotated[float, Range(above=0, infinite=True)]
NotNegative = Annotated[float, Range(at_least=0)]
Share = Annotated[float, Range(at_least=0, at_most=1)]
Seed = Annotated[int, Range(at_least=0, at_most=2**63 - 1)]  # every generator accepts that many


@dataclass(frozen=True)
class Settings:
    """Base of all dataclasses of settings: checks the limits of every field."""

    place: ClassVar[str] = (
        ""  # the names of its settings on the command line begin with this: "finetune.ppo."
    )

    def __post_init__(self) -> None:
        """Raises SettingError for a value outside its limits."""
        for name, hint in limits_of(type(self)).items():
            value = getattr(self, name)
            if not fits(hint, value):
                raise SettingError(self.place + name, words(hint, value), value)

    def require(self, good: bool, name: str, expected: str) -> None:
        """Raise SettingError for the setting `name` unless it is `good` beside the others."""
        if not good:
            raise SettingError(self.place + name, expected, attrgetter(name)(self))


def limits_of(kind: type) -> dict[str, Any]:
    """The annotated type of each field of a dataclass."""
    hints = _type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


@cache
def _type_hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def range_of(hint: Any) -> Range | None:
    """The Range in Annotated[int, Range(...)], or None."""
    return next((extra for extra in get_args(hint)[1:] if isinstance(extra, Range)), None)


def alternatives(hint: Any) -> tuple:
    """(A, B) for A | B, and (A,) for A. Annotated[A, ...] without a Range counts as A."""
    if get_origin(hint) is Annotated and range_of(hint) is None:
        hint = get_args(hint)[0]
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def fits(hint: Any, value: object) -> bool:
    """Whether a value is of the annotated type and inside its limits."""
    return any(_fits(part, value) for part in alternatives(hint))


def _fits(hint: Any, value: object) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        parts = get_args(hint)
        return (
            isinstance(value, tuple) and len(value) == len(parts) and all(map(fits, parts, value))
        )
    if (limits := range_of(hint)) is None:
        return isinstance(value, hint)
    # A whole number may stand for a float, but True for neither.
    kinds = (int,) if get_args(hint)[0] is int else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and limits.holds(value)


def words(hint: Any, value: object) -> str:
    """What is expected instead of `value`: "an integer of at least 1"."""
    return " or ".join(_words(part, value) for part in alternatives(hint))


def _words(hint: Any, value: object) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        return f"{len(get_args(hint))} numbers"
    if limits := range_of(hint):
        number = "an integer" if get_args(hint)[0] is int else "a number"
        return f"{number} {limits.words(value)}".strip()
    plain = {type(None): "None", bool: "true or false", str: "text", Path: "a path"}
    return plain.get(hint) or f"a {hint.__name__}"
