"""Conjugate gradient on numpy arrays (on tensors: tests/training/test_algorithms.py)."""

from __future__ import annotations

import numpy as np

from minirlhf.linear_algebra import conjugate_gradient


def test_conjugate_gradient_solves():
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(30, 30))
    matrix = matrix @ matrix.T + np.eye(30)
    right = generator.normal(size=30)
    found = conjugate_gradient(lambda x: matrix @ x, right, steps=1000, tolerance=1e-16)
    np.testing.assert_allclose(found, np.linalg.solve(matrix, right), atol=1e-6)
    assert conjugate_gradient(lambda x: matrix @ x, np.zeros(30), steps=1000).tolist() == [0.0] * 30
