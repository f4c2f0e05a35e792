"""TODO"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True)
class Topic:
    """What we know of one topic; each part is a tuple of phrases that patterns can join."""

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
    """The topics of data/topics.json, in its order. Raises ValueError naming file, topic and field."""
    path = DATA / "topics.json"
    if not path.is_file():
        raise ValueError(f"{path}: expected the project's data folder, found no such file")
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON ({error})") from error
    topics = []
    for record in records["topics"] if isinstance(records, dict) else records:
        where = f"{path}: topic {record.get('topic')!r}"
        for field in ("topic", "split", "name", *PARTS):
            if not record.get(field):
                raise ValueError(f"{where}: {field}: expected a value, found none")
        if record["split"] not in ("train", "heldout"):
            raise ValueError(
                f'{where}: split: expected "train" or "heldout", found {record["split"]!r}'
            )
        for field, count in PARTS.items():
            if len(record[field]) < count:
                raise ValueError(
                    f"{where}: {field}: expected at least {count}, found {len(record[field])}"
                )
        topics.append(
            Topic(
                record["topic"],
                record["split"],
                record["name"],
                **{field: tuple(record[field]) for field in PARTS},
            )
        )
    return tuple(topics)


_PACKAGE = Path(__file__).resolve().parents[2]
# The data folder lies inside the package once installed (see setup.py), beside it in a checkout.
DATA = (_PACKAGE if (_PACKAGE / "data" / "topics.json").is_file() else _PACKAGE.parent) / "data"


PARTS = {"subjects": 5, "effects": 7, "examples": 6, "reasons": 4, "contrasts": 3, "vague": 3}
