"""What the page asks for, checked: each fault is a ValueError "field: expected ..., found ..."."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minirlhf.feedback.conversation import Prompt, exchanges, from_json
from minirlhf.system.files import shown

LONGEST_TEXT = 20_000  # characters
MOST_TURNS = 99
MOST_BEST_OF = 32
LARGEST_SEED = 2**63 - 1
HOTTEST = 100.0


@dataclass(frozen=True)
class Writing:
    """Texts to be written: by each of `stages` the best of `best_of` on the same prompt.

    `start`: ids of tokens with which each text begins ("what if"); usually none.
    """

    prompt: Prompt
    stages: tuple[str, ...]
    temperature: float
    top_p: float
    best_of: int
    seed: int
    start: tuple[int, ...]


def writing(body: dict, stages: Sequence[str]) -> Writing:
    """The request to write. `stages`: the models that the run has."""
    wanted = body.get("stages")
    if not isinstance(wanted, list) or not wanted or any(one not in stages for one in wanted):
        raise ValueError(f"stages: expected some of {', '.join(stages)}, found {shown(wanted)}")
    return Writing(
        prompt=prompt(body),
        stages=tuple(dict.fromkeys(wanted)),
        temperature=number(body, "temperature", 0.0, HOTTEST, 1.0),
        top_p=number(body, "top_p", 1e-6, 1.0, 1.0),
        best_of=whole(body, "best_of", 1, MOST_BEST_OF, 1),
        seed=whole(body, "seed", 0, LARGEST_SEED, 0),
        start=tuple(tokens(body, "start")),
    )


def prompt(body: dict) -> Prompt:
    """The topic, or the conversation as a list of turns; its last turn is the user's."""
    value = body.get("prompt")
    if isinstance(value, str):
        return _known_text("prompt", value)
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_TURNS:
        raise ValueError(
            f"prompt: expected a text or 1 to {MOST_TURNS} turns, found {shown(value)}"
        )
    turns = []
    for place, turn in enumerate(value):
        if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
            raise ValueError(f"prompt[{place}]: expected a turn with role and text")
        words = _known_text(f"prompt[{place}].text", turn.get("text"))
        turns.append({"role": turn["role"], "text": words})
    found = from_json(turns)
    exchanges(found)  # raises unless the two take turns
    return found


def text(body: dict, field: str = "text") -> str:
    """A text that may be empty, such as one that is being edited."""
    value = body.get(field)
    return _known_text(field, value, blank=True)


def tokens(body: dict, field: str) -> list[int]:
    """Ids of tokens; whether the vocabulary has them is checked by what takes them."""
    value = listed(body, field, 0, LONGEST_TEXT) if field in body else []
    if not all(type(token) is int and 0 <= token <= LARGEST_SEED for token in value):
        raise ValueError(f"{field}: expected a list of token ids, found {shown(value)}")
    return value


def listed(body: dict, field: str, fewest: int, most: int) -> list:
    value = body.get(field)
    if not isinstance(value, list) or not fewest <= len(value) <= most:
        raise ValueError(f"{field}: expected a list of {fewest} to {most}, found {shown(value)}")
    return value


def _known_text(field: str, value: Any, blank: bool = False) -> str:
    if not isinstance(value, str) or not (blank or value.strip()):
        kind = "a text" if blank else "a text that is not empty"
        raise ValueError(f"{field}: expected {kind}, found {shown(value)}")
    if len(value) > LONGEST_TEXT:
        raise ValueError(f"{field}: expected at most {LONGEST_TEXT} characters, found {len(value)}")
    # Half of a surrogate pair, which UTF-8 cannot hold, becomes U+FFFD; whole pairs are joined.
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def choice(body: dict, field: str, choices: Sequence[str], default: str | None = None) -> str:
    value = body.get(field, default)
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{field}: expected one of {', '.join(choices)}, found {shown(value)}")
    return value


def number(body: dict, field: str, low: float, high: float, default: float) -> float:
    value = body.get(field, default)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:
        raise ValueError(
            f"{field}: expected a number from {low:g} to {high:g}, found {shown(value)}"
        )
    return float(value)


def whole(body: dict, field: str, low: int, high: int, default: int) -> int:
    value = body.get(field, default)
    if type(value) is not int or not low <= value <= high:
        raise ValueError(
            f"{field}: expected a whole number from {low} to {high}, found {shown(value)}"
        )
    return value
