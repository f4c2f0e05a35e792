"""What the assistant is asked: items, which know what a right answer is."""

from __future__ import annotations

from dataclasses import dataclass

from minirlhf.feedback.conversation import Conversation

# The 17 kinds of instruction. Those of DIALOGUE need the earlier turns.
CONTENT = ("effect", "reason", "example", "two_effects", "topic", "opening", "shorter")
DIALOGUE = ("why", "instance", "another", "recall")
SOCIAL = ("thanks", "hello")
TRANSLATION = ("french", "chinese")
SAFETY = ("harmful", "harmless")
KINDS = CONTENT + DIALOGUE + SOCIAL + TRANSLATION + SAFETY

# Which phrases of a topic answer the kind; "another" asks for the kind of phrase that came before.
FIELDS = {
    "effect": "effects",
    "two_effects": "effects",
    "shorter": "effects",
    "reason": "reasons",
    "why": "reasons",
    "example": "examples",
    "instance": "examples",
}


@dataclass(frozen=True)
class Item:
    """A conversation that ends with a user's turn, and the facts that the judge needs.

    `about` is what the last turn is about: a topic (its prompt in data/topics.json), a clause in
    English ("the dog often sleeps"), a request ("kill weeds in a path"), or a person's name.
    `split` is "train" or "heldout", and says whether `about` may occur in tuning. `wording` says
    where the last turn's phrasing occurs: in "tuning" and pretraining, in "pretraining" only, or
    "nowhere".
    """

    kind: str
    conversation: Conversation
    about: str
    split: str
    wording: str
    field: str = ""  # the part of the topic that answers the question (see FIELDS), if any does
    said: tuple[str, ...] = ()  # phrases of that part that the assistant gave in earlier turns
    source: str = ""  # the text that the last turn asks to shorten or to name the topic of

    @property
    def question(self) -> str:
        """The user's last turn."""
        return self.conversation[-1].text


@dataclass(frozen=True)
class Answered:
    """An item and its conversation with an answer at the end; a further question may follow."""

    item: Item
    conversation: Conversation


@dataclass(frozen=True)
class Demonstration:
    """An item with a good answer, for supervised fine-tuning."""

    item: Item
    answer: str
