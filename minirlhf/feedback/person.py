"""Step 4 of section 3.2, feedback in every round (迭代优化): rate what the present policy writes, refit, fine-tune, and again.

    the pretrained policy's texts are rated, the reward model is fitted with them
    for each round: fine-tune; rate the present policy's texts; refit        (training/finetune.py)

So N rounds ask for ratings N times, --ratings-per-round each time: the first time here, the others between two rounds. With
--rounds 1 all ratings are of the pretrained policy's texts, which is what more rounds are to be compared with.
"""

from __future__ import annotations

from collections.abc import Callable

from minirlhf.feedback.answers import AnswerFile
from minirlhf.feedback.screens import QUIT, question, read_key
from minirlhf.feedback.session import Item, RatingSession


class PersonRaters:
    """A person at the terminal in the place of a task's raters. `total` is how many texts they will be asked about.

    Each answer is in the file before training goes on; a resumed run draws the same texts and asks about none of them twice.
    """

    def __init__(self, file: AnswerFile, rater: str, total: int, key: Callable[[], str] = read_key):
        self.key = key
        self.known = {}
        for number, record in enumerate(file.records(), start=1):
            if not {"topic", "text", "score"} <= record.keys():
                raise ValueError(
                    f"{file.path}: answer {number}: expected topic, text and score, found {', '.join(record)}"
                )
            if record.get("rater") == rater:  # others may have answered about the same texts
                self.known[record["topic"], record["text"]] = record["score"]
        self.session = RatingSession([], file, rater)
        self.session.total, self.session.before = total, len(self.known)

    def __call__(self, topic: str, text: str, seed: int) -> tuple[float, ...]:
        """One rating, 1 to 5. Raises KeyboardInterrupt if the person quits."""
        if (topic, text) not in self.known:
            self.session.queue.append(Item(topic, (text,), ("policy",)))
            print(
                question(self.session, keys=f"{QUIT} quit; --resume goes on here"),
                end="",
                flush=True,
            )
            while (pressed := self.key()) not in self.session.keys():
                if pressed in (QUIT, "\x04"):
                    raise KeyboardInterrupt
            print(pressed)
            self.session.answer(pressed)
            self.known[topic, text] = int(pressed)
        return (float(self.known[topic, text]),)
