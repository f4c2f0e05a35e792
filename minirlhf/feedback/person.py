"""A person at the terminal as the raters of a task, for iterated RLHF (迭代优化, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable

from minirlhf.feedback.answers import AnswerFile
from minirlhf.feedback.conversation import Prompt, from_json
from minirlhf.feedback.screens import END_OF_INPUT, QUIT, question, read_key
from minirlhf.feedback.session import SCORES, Item, RatingSession


class PersonRaters:
    """A person in place of a task's raters. `total` is how many texts they will be asked about.

    Each answer is in the file before training continues. A resumed run draws the same texts, and
    asks about none of them twice. Raises ValueError if the file holds something other than scores.
    """

    def __init__(self, file: AnswerFile, rater: str, total: int, key: Callable[[], str] = read_key):
        self.key = key
        self.known = _scores_by(rater, file)
        self.session = RatingSession([], file, rater, total=total, before=len(self.known))

    def __call__(self, topic: Prompt, text: str, seed: int) -> tuple[float, ...]:
        """One rating, 1 to 5. Raises KeyboardInterrupt if the person quits.

        An empty text has the lowest score without asking: there is nothing to show, and no file of
        feedback may hold it.
        """
        if not text.strip():
            return (float(SCORES[0]),)
        if (topic, text) not in self.known:
            self.session.add(Item(topic, (text,), ("policy",)))
            words = question(self.session, keys=f"{QUIT} quit; --resume continues here")
            print(words, end="", flush=True)
            while (pressed := self.key()) not in self.session.keys():
                if pressed in (QUIT, END_OF_INPUT):
                    raise KeyboardInterrupt
            print(pressed)
            self.session.answer(pressed)
            self.known[topic, text] = int(pressed)
        return (float(self.known[topic, text]),)


def _scores_by(rater: str, file: AnswerFile) -> dict[tuple[Prompt, str], float]:
    """(topic, text) -> score by this rater; others may have answered about the same texts."""
    scores = {}
    for number, record in enumerate(file.records(), start=1):
        if not {"topic", "text", "score"} <= record.keys():
            raise ValueError(
                f"{file.path}: answer {number}: expected topic, text and score, "
                f"found {', '.join(record)}"
            )
        if record.get("rater") == rater:
            scores[from_json(record["topic"]), record["text"]] = record["score"]
    return scores
