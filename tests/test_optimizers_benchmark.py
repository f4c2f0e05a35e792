"""The picture of benchmarks/optimizers.py, from its committed results."""

import json
from pathlib import Path

import matplotlib.image
import pytest

from benchmarks.optimizers import plot

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"


@pytest.mark.parametrize("rows_of_panels", [2, 1], ids=["sweep", "no sweep"])
def test_the_sweep_is_drawn_if_it_was_measured(tmp_path, rows_of_panels):
    results = json.loads((RESULTS / "optimizers.json").read_text(encoding="utf-8"))
    assert results["sweep_seeds"] > 0
    if rows_of_panels == 1:
        default = [run for run in results["runs"] if run["factor"] == 1]
        results |= {"sweep_seeds": 0, "runs": default}
    plot(results, tmp_path / "drawn.png")
    height, width = matplotlib.image.imread(tmp_path / "drawn.png").shape[:2]
    assert round(width / height * rows_of_panels) == 2  # two panels side by side
