"""A task bundles what a run needs: prompts, texts for pretraining, scored texts and a judge. One file a task."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from minirlhf.feedback.records import Comparison, Triple


@dataclass(frozen=True)
class Task:
    """Everything that a run needs. A prompt is a topic; a corpus is a list of (topic, text).

    `judge(topic, text)` is in [0, 1] and is never shown to the reward model. `raters(topic, text, seed)` gives new
    ratings of 1 to 5 by simulated raters (or by a person: iterate.py), or is None where no one can be asked.
    """

    name: str
    train_prompts: list[str]
    heldout_prompts: list[str]
    corpus: list[tuple[str, str]]
    corpus_heldout: list[tuple[str, str]]
    feedback: list[Triple]
    handwritten: list[Triple]
    judge: Callable[[str, str], float]
    judge_name: str
    fluency: Callable[[str], float] | None = (
        None  # a second judge, of the language alone; nats a word, higher is likelier
    )
    raters: Callable[[str, str, int], tuple[float, ...]] | None = None
    raters_are: str = "simulated"  # provenance of what `raters` say
    rating_range: tuple[float, float] = (1.0, 5.0)
    match_topics: bool = (
        False  # whether a text of the corpus tells its topic (see training/pretrain.py)
    )
    # Further steps that a run starting from the shipped base trains on `corpus` (0: the base knows this language already).
    # None: a run does not start from the shipped base.
    base_steps: int | None = None
    authors_feedback: list[Triple] = field(
        default_factory=list
    )  # trained on beside `feedback`, never held out
    heldout_feedback: list[Triple] = field(
        default_factory=list
    )  # empty: a share of `feedback` is held out instead
    comparisons: list[Comparison] = field(
        default_factory=list
    )  # between texts of `feedback`, where people compared
    heldout_comparisons: list[Comparison] = field(
        default_factory=list
    )  # between texts of `heldout_feedback`
    notes: tuple[
        str, ...
    ] = ()  # what a reader of the results must know, such as that the raters are simulated


def rated(task: Task, topic: str, text: str, seed: int) -> Triple:
    """The text with what the task's raters say of it."""
    ratings, (low, high) = task.raters(topic, text, seed), task.rating_range
    return Triple(
        topic,
        text,
        (statistics.fmean(ratings) - low) / (high - low),
        tuple(ratings),
        task.raters_are,
    )
