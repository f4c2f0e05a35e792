"""Conjugate gradient: solves a linear system given by its products, in numpy or torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from torch import Tensor

Vector = TypeVar("Vector", np.ndarray, Tensor)  # (n,)


def conjugate_gradient(
    product: Callable[[Vector], Vector], target: Vector, steps: int, tolerance: float = 1e-12
) -> Vector:
    """x with A x = target, approximately, for a positive definite A given as v -> A v.

    Stops after `steps` products, or when the squared residual is at most `tolerance` times the
    squared target. Source: Hestenes and Stiefel (1952).
    """
    x = 0 * target
    residual = search = target
    size = residual @ residual
    solved = tolerance * size
    for _ in range(steps):
        if size <= solved:  # one step more would divide 0 by 0
            break
        image = product(search)
        length = size / (search @ image)
        x = x + length * search
        residual = residual - length * image
        last, size = size, residual @ residual
        search = residual + size / last * search
    return x
