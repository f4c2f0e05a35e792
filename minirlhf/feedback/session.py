"""Collect language feedback from a person (人工标注): step 1 of section 3.2. The screens are in rate_screens.py.

A session is a queue of items, each one text to score or two to compare, in random order; the rater is not told which model wrote
what. Some items come back once, far from their first showing (two texts then change places), so that `feedback summary` can say
how well the rater agrees with themselves.

Each answer is on the disk before the next item is shown, one JSON object a line, as `--feedback` reads it. A session that
is begun again leaves out what its rater has answered already.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from minirlhf.feedback.answers import AnswerFile

SCORES = (1, 2, 3, 4, 5)
FIRST, SECOND, TIE = "1", "2", "0"  # answers to a comparison


@dataclass(frozen=True)
class Item:
    """What is shown at once: a topic, and one text to score or two to compare. `models` (who wrote them) is not shown."""

    topic: str
    texts: tuple[str, ...]
    models: tuple[str, ...]
    repeat: bool = False

    @property
    def key(self) -> tuple[str, ...]:
        """The same for the same question, whichever text stands first."""
        return (self.topic, *sorted(self.texts))


def make_queue(items: Sequence[Item], repeat_share: float, seed: int, rater: str) -> list[Item]:
    """The items in an order of this rater's own; a share of those in the first half comes back in the last quarter.

    Raises ValueError for a share outside [0, 0.5].
    """
    if not 0 <= repeat_share <= 0.5:
        raise ValueError(f"repeats: expected a share from 0 to 0.5, found {repeat_share}")
    generator = random.Random(f"{seed}/{rater}")
    order = []
    for item in generator.sample(list(items), len(items)):
        places = generator.sample(
            range(len(item.texts)), len(item.texts)
        )  # which text stands first
        order.append(_placed(item, places))
    again = generator.sample(
        order[: len(order) // 2], min(round(repeat_share * len(order)), len(order) // 2)
    )
    last = [replace(_placed(item, range(len(item.texts))[::-1]), repeat=True) for item in again]
    last += order[len(order) * 3 // 4 :]
    generator.shuffle(last)
    return order[: len(order) * 3 // 4] + last


def _placed(item: Item, places: Sequence[int]) -> Item:
    return replace(
        item,
        texts=tuple(item.texts[i] for i in places),
        models=tuple(item.models[i] for i in places),
    )


class RatingSession:
    """The queue, where one is in it, and the file. `current` is None at the end."""

    def __init__(self, queue: Sequence[Item], file: AnswerFile, rater: str):
        self.file, self.rater = file, rater
        answered = Counter(
            _key_of(record) for record in file.records() if record.get("rater", "") == rater
        )
        self.queue = []
        for item in queue:  # the first showing of an item is left out before its repeat
            if answered[item.key] > 0:
                answered[item.key] -= 1
            else:
                self.queue.append(item)
        self.total, self.before = len(queue), len(queue) - len(self.queue)
        self.place = 0
        self.answered: list[
            bool
        ] = []  # for each item passed in this session: answered (True) or skipped

    @property
    def current(self) -> Item | None:
        return self.queue[self.place] if self.place < len(self.queue) else None

    @property
    def done(self) -> int:
        """Items behind us, those of earlier sessions included."""
        return self.before + self.place

    def keys(self) -> tuple[str, ...]:
        """The answers that the current item takes."""
        return tuple(map(str, SCORES)) if len(self.current.texts) == 1 else (FIRST, SECOND, TIE)

    def answer(self, key: str) -> None:
        """Write the answer, then move on. Raises ValueError for a key that is none of `keys()`, or if the disk refuses."""
        item = self.current
        if key not in self.keys():
            raise ValueError(f"answer: expected one of {' '.join(self.keys())}, found {key!r}")
        common = {"provenance": "people", "rater": self.rater, "repeat": item.repeat}
        if len(item.texts) == 1:
            record = {
                "topic": item.topic,
                "text": item.texts[0],
                "score": int(key),
                "ratings": [int(key)],
                **common,
                "model": item.models[0],
            }
        else:
            better, worse = (0, 1) if key != SECOND else (1, 0)
            record = {
                "topic": item.topic,
                "better": item.texts[better],
                "worse": item.texts[worse],
                "tie": key == TIE,
                **common,
                "first": "worse" if better else "better",
                "models": [item.models[better], item.models[worse]],
            }
        self.file.append(record)
        self.answered.append(True)
        self.place += 1

    def skip(self) -> None:
        self.answered.append(False)
        self.place += 1

    def undo(self) -> bool:
        """Go back one item; an answer that was given to it leaves the file. False at the start of the session."""
        if not self.answered:
            return False
        if self.answered[-1]:
            self.file.undo()
        self.answered.pop()
        self.place -= 1
        return True


def _key_of(record: dict) -> tuple[str, ...]:
    texts = (
        [record["text"]]
        if "text" in record
        else [record.get("better", ""), record.get("worse", "")]
    )
    return (record.get("topic", ""), *sorted(map(str, texts)))


def make_items(
    texts: Sequence[tuple[str, str, str]], pairs: bool, count: int, seed: int
) -> list[Item]:
    """`count` items (or fewer, if there are not enough texts) from (topic, text, model); no text is used twice."""
    different = list(
        {
            (topic, text): (topic, text, model) for topic, text, model in texts if text.strip()
        }.values()
    )
    random.Random(seed).shuffle(different)
    if not pairs:
        return [Item(topic, (text,), (model,)) for topic, text, model in different[:count]]
    waiting: dict[str, tuple[str, str]] = {}
    items = []
    for topic, text, model in different:
        if topic in waiting:
            first, its_model = waiting.pop(topic)
            items.append(Item(topic, (first, text), (its_model, model)))
        else:
            waiting[topic] = text, model
    return items[:count]
