"""TODO"""

from __future__ import annotations

from minirlhf.tasks.task import Task


def load_task(name: str, seed: int) -> Task:
    """The task of that name. Raises ValueError for an unknown name or for data that is missing or broken."""
    if name == "openings":
        from minirlhf.tasks.openings import task as openings

        return openings.load(seed)
    elif name == "reviews":
        from minirlhf.tasks.reviews import task as reviews

        return reviews.load(seed)
    raise ValueError(f'task: expected "openings" or "reviews", found {name!r}')
