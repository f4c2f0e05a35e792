"""Ratings given on the page: the same files, records and checks as those of `minirlhf rate`."""

from __future__ import annotations

from pathlib import Path

from minirlhf.feedback.answers import AnswerFile
from minirlhf.feedback.checks import COMPARISONS, SCORES
from minirlhf.feedback.conversation import Prompt
from minirlhf.feedback.session import Item, RatingSession
from minirlhf.runs.products import ANSWERS

# Who wrote a text that was changed by hand, and one that was saved during fine-tuning.
EDITED, SAVED = "edited", "sample"


class Ratings:
    """Adds answers to ratings.jsonl or comparisons.jsonl of a run folder."""

    def __init__(self, folder: Path, rater: str):
        self.folder, self.rater = folder, rater

    def add(self, prompt: Prompt, texts: list[str], writers: list[str], key: str) -> dict:
        """Write one answer: "1" to "5" of one text; "1", "2" or "0" (a tie) of two.

        Returns the file's name and the number of its answers. Raises ValueError, and writes
        nothing, if the file holds anything but answers of this kind, if the reader of feedback
        would refuse this one, or if this rater has given it already.
        """
        pair = len(texts) == 2
        path = self.folder / ANSWERS[1 if pair else 0]
        item = Item(prompt, tuple(texts), tuple(writers))
        # Opened for each answer: the file may have changed while the page was open.
        session = RatingSession(
            [item], AnswerFile(path, COMPARISONS if pair else SCORES), self.rater
        )
        if session.total == 0:
            expected = "two different texts that are" if pair else "a text that is"
            raise ValueError(f"rating: expected {expected} not empty")
        if session.current is None:
            raise ValueError("rating: you have rated this already")
        session.answer(key)
        return {"file": path.name, "answers": len(session.file.records())}
