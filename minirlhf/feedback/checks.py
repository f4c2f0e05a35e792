"""Checks one line of a feedback file; each fault is a message "field: expected ..., found ..."."""

from __future__ import annotations

import json

MAX_SHOWN = 60  # characters shown of a wrong value
TEXT = "a text that is not empty"


class _DuplicateKey(ValueError):
    """A key that occurs twice in one JSON object."""


def parse_line(raw: bytes) -> tuple[dict, list[str]]:
    """One line of bytes to (its JSON object, faults); with a fault the object is empty."""
    try:
        line = raw.decode("utf-8").rstrip("\r\n")
        record = json.loads(line, object_pairs_hook=_without_duplicates)
    except _DuplicateKey as fault:
        return {}, [str(fault)]
    except UnicodeDecodeError as error:
        wrong = raw[error.start : error.start + 1].hex()
        return {}, [f"expected UTF-8, found byte 0x{wrong} at byte {error.start + 1}"]
    except (ValueError, RecursionError) as error:  # ValueError: also a number of too many digits
        reason = str(error)
        if isinstance(error, json.JSONDecodeError):
            reason = f"{error.msg} at column {error.colno}"
        found = shown(line.strip(), quote=False)
        return {}, [f"expected a JSON object, found {found} ({reason})"]
    if not isinstance(record, dict):
        return {}, [f"expected a JSON object, found {shown(record)}"]
    return record, []


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict:
    record: dict = {}
    for key, value in pairs:
        if key in record:
            name = shown(key, quote=False)
            raise _DuplicateKey(f"{name}: expected each key once, found it twice")
        record[key] = value
    return record


def triple_faults(record: dict, low: float, high: float) -> list[str]:
    """Every fault of a record that should be a scored text, its scores from `low` to `high`."""
    faults = _text_faults(record, ("topic", "text"))
    number = f"a number from {low:g} to {high:g}"
    if "score" not in record:
        faults.append(f"score: expected {number}, found no such field")
    elif not _is_number_in(record["score"], low, high):
        faults.append(f"score: expected {number}, found {shown(record['score'])}")
    if "ratings" in record:
        ratings = record["ratings"]
        if isinstance(ratings, list) and ratings:
            for place, rating in enumerate(ratings):
                if not _is_number_in(rating, low, high):
                    faults.append(f"ratings[{place}]: expected {number}, found {shown(rating)}")
        else:
            expected = "a list of numbers that is not empty"
            faults.append(f"ratings: expected {expected}, found {shown(ratings)}")
    return faults + _character_faults(record, ("topic", "text"))


def comparison_faults(record: dict) -> list[str]:
    """Every fault of a record that should be a comparison."""
    faults = _text_faults(record, ("topic", "better", "worse"))
    if not faults and record["better"] == record["worse"]:
        faults.append("worse: expected another text than better, found the same")
    if not isinstance(record.get("tie", False), bool):
        faults.append(f"tie: expected true or false, found {shown(record['tie'])}")
    return faults + _character_faults(record, ("topic", "better", "worse"))


def _text_faults(record: dict, fields: tuple[str, ...]) -> list[str]:
    """Required fields that are missing, not a string, or blank."""
    faults = []
    for field in fields:
        if field not in record:
            faults.append(f"{field}: expected {TEXT}, found no such field")
        elif not isinstance(record[field], str) or not record[field].strip():
            faults.append(f"{field}: expected {TEXT}, found {shown(record[field])}")
    return faults


def _character_faults(record: dict, fields: tuple[str, ...]) -> list[str]:
    """Optional names that are not strings, and strings that UTF-8 cannot encode."""
    names = ("provenance", "rater")
    faults = []
    for name in names:
        if not isinstance(record.get(name, ""), str):
            faults.append(f"{name}: expected a text, found {shown(record[name])}")
    for field in fields + names:
        value = record.get(field)
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            found = f"half a surrogate pair in {shown(value)}"
            faults.append(f"{field}: expected whole characters, found {found}")
    return faults


def _is_number_in(value: object, low: float, high: float) -> bool:
    """True for a number in the range; False for a bool (an int to Python), NaN and infinity."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def shown(value: object, quote: bool = True) -> str:
    """A value for an error message: short, on one line, without control characters."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    text = json.dumps(value, ensure_ascii=False) if quote else str(value)
    start = text[: MAX_SHOWN + 1]
    text = "".join(character if character.isprintable() else "?" for character in start)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."
