"""Collect language feedback from a person (人工标注): step 1 of the article's section 3.2.

A session is a queue of items, each one text to score or two to compare, in random order; the rater
is not told which model wrote what. Some items come back once, long after they were first shown (two
texts then swap places), so that `feedback summary` can measure how well the rater agrees with
themselves.

Each answer is on the disk before the next item is shown, one JSON object per line, as `--feedback`
reads it. A new session skips what its rater has answered already. How items are shown is in
screens.py.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from minirlhf.feedback.answers import ANSWER_RANGE, AnswerFile
from minirlhf.feedback.checks import COMPARISONS as COMPARED
from minirlhf.feedback.checks import SCORES as SCORED
from minirlhf.feedback.checks import name_faults, record_faults
from minirlhf.feedback.conversation import AnyPrompt, Prompt, from_json, to_json
from minirlhf.feedback.duplicates import normal_key

SCORES = (1, 2, 3, 4, 5)
FIRST, SECOND, TIE = "1", "2", "0"  # answers to a comparison
MAX_REPEATS = 0.5  # share of the items; repeats are drawn from the first half of the queue


@dataclass(frozen=True)
class Item:
    """One question: a topic or conversation, with one text to score or two to compare.

    `models` names who wrote each text; the rater does not see it.
    """

    topic: Prompt
    texts: tuple[str, ...]
    models: tuple[str, ...]
    repeat: bool = False

    @property
    def key(self) -> tuple[Prompt, ...]:
        """The same for the same question, whichever text stands first."""
        return (self.topic, *sorted(self.texts))

    def reordered(self, order: Sequence[int]) -> Item:
        """The same item with its texts in another order."""
        texts = tuple(self.texts[place] for place in order)
        models = tuple(self.models[place] for place in order)
        return replace(self, texts=texts, models=models)


def make_items(
    texts: Sequence[tuple[AnyPrompt, str, str]], pairs: bool, count: int, seed: int
) -> list[Item]:
    """`count` items (fewer if there are not enough texts) from (topic, text, model).

    No text is used twice (nor two that look the same), and blank texts are not used. With `pairs`,
    two texts on one topic per item.
    """
    different = {}
    for topic, text, model in texts:
        if text.strip():
            different[normal_key((topic, text))] = (topic, text, model)
    order = list(different.values())
    random.Random(seed).shuffle(order)
    if not pairs:
        return [Item(topic, (text,), (model,)) for topic, text, model in order[:count]]
    waiting: dict[Prompt, tuple[str, str]] = {}  # topic -> a text without a partner, and its model
    items = []
    for topic, text, model in order:
        if topic in waiting:
            first_text, first_model = waiting.pop(topic)
            items.append(Item(topic, (first_text, text), (first_model, model)))
        else:
            waiting[topic] = text, model
    return items[:count]


def make_queue(items: Sequence[Item], repeat_share: float, seed: int, rater: str) -> list[Item]:
    """The items in a random order that differs between raters, some of them twice.

    A share of the items, drawn from the first half, comes back in the last quarter.
    Raises ValueError for a share outside [0, 0.5].
    """
    if not 0 <= repeat_share <= MAX_REPEATS:
        raise ValueError(f"repeats: expected a share from 0 to {MAX_REPEATS}, found {repeat_share}")
    generator = random.Random(f"{seed}/{rater}")
    order = []
    for item in generator.sample(list(items), len(items)):
        places = generator.sample(range(len(item.texts)), len(item.texts))
        order.append(item.reordered(places))  # either text may stand first
    first_half, three_quarters = order[: len(order) // 2], len(order) * 3 // 4
    repeat_count = min(round(repeat_share * len(order)), len(first_half))
    last = []
    for item in generator.sample(first_half, repeat_count):
        swapped = item.reordered(range(len(item.texts))[::-1])
        last.append(replace(swapped, repeat=True))
    last += order[three_quarters:]
    generator.shuffle(last)
    return order[:three_quarters] + last


class RatingSession:
    """A rating session: queue, position, answers file.

    Items whose answer could not be read back (an empty text, two equal ones) are left out. Raises
    ValueError for a rater's name that no file can hold.

    `total` items are announced to the rater, `before` of them answered in earlier sessions; both
    are counted from the queue unless given (for a queue that grows as texts are written).
    """

    def __init__(
        self,
        queue: Sequence[Item],
        file: AnswerFile,
        rater: str,
        total: int | None = None,
        before: int | None = None,
    ):
        if faults := name_faults({"rater": rater}):
            raise ValueError(f"--{faults[0]}")
        queue = [item for item in queue if can_be_answered(item)]
        self.file, self.rater = file, rater
        self.queue = _unanswered(queue, file, rater)
        self.total = len(queue) if total is None else total
        self.before = len(queue) - len(self.queue) if before is None else before
        self.position = 0
        # For each item passed in this session: answered (True) or skipped.
        self.answered: list[bool] = []

    @property
    def current(self) -> Item | None:
        """The item to show; None at the end of the queue."""
        return self.queue[self.position] if self.position < len(self.queue) else None

    @property
    def done(self) -> int:
        """Items passed, those of earlier sessions included."""
        return self.before + self.position

    def add(self, item: Item) -> None:
        """Put an item at the end of the queue."""
        self.queue.append(item)

    def keys(self) -> tuple[str, ...]:
        """The answers that the current item accepts; none at the end of the queue."""
        if self.current is None:
            return ()
        if len(self.current.texts) == 1:
            return tuple(str(score) for score in SCORES)
        return (FIRST, SECOND, TIE)

    def answer(self, key: str) -> None:
        """Write the answer, then move on.

        Raises ValueError at the end of the queue, for a key that is not one of `keys()`, or if the
        file cannot be written.
        """
        item = self.current
        if item is None:
            raise ValueError("answer: expected an item, found the end of the queue")
        if key not in self.keys():
            raise ValueError(f"answer: expected one of {' '.join(self.keys())}, found {key!r}")
        self.file.append(_record(item, key, self.rater))
        self.answered.append(True)
        self.position += 1

    def skip(self) -> None:
        """Move on without an answer."""
        self.answered.append(False)
        self.position += 1

    def undo(self) -> bool:
        """Go back one item and remove its answer, if any. False at the start of the session."""
        if not self.answered:
            return False
        if self.answered[-1]:
            self.file.undo()
        self.answered.pop()
        self.position -= 1
        return True


def can_be_answered(item: Item) -> bool:
    """Whether the reader of feedback would accept an answer about this item."""
    kind = SCORED if len(item.texts) == 1 else COMPARED
    return not record_faults(_record(item, FIRST, ""), kind, *ANSWER_RANGE, conversations=True)


def _unanswered(queue: Sequence[Item], file: AnswerFile, rater: str) -> list[Item]:
    """The queue without what the file holds answers to; an item is dropped before its repeat is."""
    keys = [_key_of(record) for record in file.records() if record.get("rater", "") == rater]
    answered = Counter(keys)
    left = []
    for item in queue:
        if answered[item.key] > 0:
            answered[item.key] -= 1
        else:
            left.append(item)
    return left


def _key_of(record: dict) -> tuple[Prompt, ...]:
    """`Item.key` of the question that a line of the file answers."""
    if "text" in record:
        texts = [record["text"]]
    else:
        texts = [record.get("better", ""), record.get("worse", "")]
    return (from_json(record["topic"]), *sorted(map(str, texts)))


def _record(item: Item, key: str, rater: str) -> dict:
    """An answer as a line of the file."""
    common = {"provenance": "people", "rater": rater, "repeat": item.repeat}
    if len(item.texts) == 1:
        return {
            "topic": to_json(item.topic),
            "text": item.texts[0],
            "score": int(key),
            "ratings": [int(key)],
            **common,
            "model": item.models[0],
        }
    better, worse = (1, 0) if key == SECOND else (0, 1)
    return {
        "topic": to_json(item.topic),
        "better": item.texts[better],
        "worse": item.texts[worse],
        "tie": key == TIE,
        **common,
        "first": "better" if better == 0 else "worse",  # which of the two was shown first
        "models": [item.models[better], item.models[worse]],
    }
