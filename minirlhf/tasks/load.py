"""A task by its name."""

from __future__ import annotations

from minirlhf.tasks.task import Task


def load_task(name: str, seed: int, corpus_texts: int = 20_000) -> Task:
    """The task of that name; `openings` composes `corpus_texts` texts to pretrain on.

    Raises ValueError for an unknown name, or for data that is missing or broken.
    """
    if name == "openings":
        from minirlhf.tasks.openings import task as openings

        return openings.load(seed, corpus_texts)
    if name == "reviews":
        from minirlhf.tasks.reviews import task as reviews

        return reviews.load(seed)
    raise ValueError(f'task: expected "openings" or "reviews", found {name!r}')
