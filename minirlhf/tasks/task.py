"""A task bundles what a run needs: prompts, texts for pretraining, scored texts and a judge."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minirlhf.feedback.conversation import Prompt
from minirlhf.feedback.records import Comparison, Triple


@dataclass(frozen=True)
class Safety:
    """Requests to refuse, and harmless ones in the same wording that should be answered (安全).

    Both belong together: a model that refuses everything does well on the first alone.
    """

    harmful: Sequence[Prompt]
    harmless: Sequence[Prompt]
    refused: Callable[[str], bool]  # whether an answer declines to help, and does not help
    answered: Callable[[str], bool]  # whether it is an answer, and does not decline


@dataclass(frozen=True, kw_only=True)
class Task:
    """Everything that a run needs. A prompt is a topic or a conversation."""

    name: str
    train_prompts: Sequence[Prompt] = ()
    heldout_prompts: Sequence[Prompt] = ()

    # (prompt, text) without scores, for pretraining.
    corpus: Sequence[tuple[Prompt, str]] = ()
    corpus_heldout: Sequence[tuple[Prompt, str]] = ()

    # Scored texts that the reward model learns from, and texts written by hand to test it.
    feedback: list[Triple] = field(default_factory=list)
    handwritten: list[Triple] = field(default_factory=list)

    # (prompt, text) -> score in [0, 1]; its scores are never shown to the reward model. Any: of a
    # task whose prompts are all topics it takes a str.
    judge: Callable[[Any, str], float]
    judge_name: str
    # (prompt, text) -> the points of each rule of the judge; None if it has no rules.
    explain: Callable[[Any, str], dict[str, float]] | None = None
    # A second judge, of the language alone: nats per word, higher is more likely.
    fluency: Callable[[str], float] | None = None

    # The kind of instruction a prompt gives ("effect", "harmful", ...), for the judge's figures by
    # kind.
    kind_of: Callable[[Any], str] | None = None
    # Further prompts to judge, by the name of their split ("phrasings": phrasings kept from
    # tuning).
    more_prompts: Mapping[str, Sequence[Prompt]] = field(default_factory=dict)
    safety: Safety | None = None

    # (prompt, text, seed) -> new ratings by simulated raters or a person; None if no one can be
    # asked.
    raters: Callable[[Any, str, int], tuple[float, ...]] | None = None
    raters_are: str = "simulated"  # provenance of their ratings
    rating_range: tuple[float, float] = (1.0, 5.0)
    # (prompt, answers, seed) -> the rank of each answer, 1 the best, equal ranks are ties; None:
    # nobody ranks.
    ranker: Callable[[Any, list[str], int], list[int]] | None = None

    # Whether a text of the corpus reveals its topic (see training/pretrain.py).
    match_topics: bool = False
    # Whether pretraining learns to predict the prompts, too: each conversation of the corpus is
    # one text then, and all of its answers are learned in one pass.
    learn_prompts: bool = False
    # The shipped base in whose language it is written; None: that of `openings`.
    base: Path | None = None
    # Steps of further pretraining on `corpus` when a run starts from the shipped base (0: the base
    # knows this language already). None: a run does not start from the shipped base.
    base_steps: int | None = None
    # Whether it does so only if the base knows the language of the texts (runs/start.py).
    base_must_know_texts: bool = False

    # The context that its prompts and texts need, in tokens. None: the settings' own will do.
    context: int | None = None

    # (prompt, good answer), for supervised fine-tuning. Without any, a run has no such stage.
    demonstrations: Sequence[tuple[Prompt, str]] = ()

    # More feedback. The authors' is trained on beside `feedback`, and never held out. If
    # `heldout_feedback` is empty, a share of `feedback` is held out instead. Comparisons are
    # between the texts of `feedback` and of `heldout_feedback`, where people compared.
    authors_feedback: list[Triple] = field(default_factory=list)
    heldout_feedback: list[Triple] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    heldout_comparisons: list[Comparison] = field(default_factory=list)

    # What a reader of the results must know, such as that the raters are simulated.
    notes: tuple[str, ...] = ()
    # What is odd about the data, told before anything is trained.
    warnings: tuple[str, ...] = ()


def rated(task: Task, topic: Prompt, text: str, seed: int) -> Triple:
    """The text with the ratings of the task's raters, as a triple.

    Raises ValueError if the task has no raters.
    """
    if task.raters is None:
        raise ValueError(f"task {task.name}: expected raters to ask, found none")
    low, high = task.rating_range
    ratings = task.raters(topic, text, seed)
    return Triple(
        topic=topic,
        text=text,
        score=(statistics.fmean(ratings) - low) / (high - low),
        ratings=tuple(ratings),
        provenance=task.raters_are,
    )
