"""The hand-written knowledge of each topic (data/topics.json), read and checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[2]
# The data folder lies inside the package once installed (see setup.py), beside it in a checkout.
DATA = (_PACKAGE if (_PACKAGE / "data" / "topics.json").is_file() else _PACKAGE.parent) / "data"

# The parts of a topic, and how many phrases each must have.
PARTS = {"subjects": 5, "effects": 7, "examples": 6, "reasons": 4, "contrasts": 3, "vague": 3}


@dataclass(frozen=True)
class Topic:
    """The knowledge of one topic; each part is a tuple of phrases that patterns can join."""

    topic: str
    split: str
    name: str
    subjects: tuple[str, ...]
    effects: tuple[str, ...]
    examples: tuple[str, ...]
    reasons: tuple[str, ...]
    contrasts: tuple[str, ...]
    vague: tuple[str, ...]


@lru_cache(maxsize=1)
def knowledge() -> tuple[Topic, ...]:
    """The topics of data/topics.json, in its order. Raises ValueError naming file, topic, field."""
    path = DATA / "topics.json"
    if not path.is_file():
        raise ValueError(f"{path}: expected the project's data folder, found no such file")
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON ({error})") from error
    if isinstance(records, dict):
        records = records["topics"]
    return tuple(_checked_topic(record, path) for record in records)


def _checked_topic(record: dict, path: Path) -> Topic:
    where = f"{path}: topic {record.get('topic')!r}"
    for field in ("topic", "split", "name", *PARTS):
        if not record.get(field):
            raise ValueError(f"{where}: {field}: expected a value, found none")
    split = record["split"]
    if split not in ("train", "heldout"):
        raise ValueError(f'{where}: split: expected "train" or "heldout", found {split!r}')
    for field, count in PARTS.items():
        found = len(record[field])
        if found < count:
            raise ValueError(f"{where}: {field}: expected at least {count}, found {found}")
    parts = {field: tuple(record[field]) for field in PARTS}
    return Topic(topic=record["topic"], split=split, name=record["name"], **parts)
