"""A task by its name."""

from __future__ import annotations

from minirlhf.tasks.task import Task


def load_task(name: str, seed: int, corpus_texts: int = 20_000) -> Task:
    """The task of that name; all but `reviews` compose `corpus_texts` texts to pretrain on.

    Raises ValueError for an unknown name, or for data that is missing or broken.
    """
    if name == "openings":
        from minirlhf.tasks.openings import task as openings

        return openings.load(seed, corpus_texts)
    if name == "reviews":
        from minirlhf.tasks.reviews import task as reviews

        return reviews.load(seed)
    if name == "assistant":
        from minirlhf.tasks.assistant import task as assistant

        return assistant.load(seed, corpus_texts)
    raise ValueError(f'task: expected "openings", "reviews" or "assistant", found {name!r}')
