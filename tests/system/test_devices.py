"""What a run computes on."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from minirlhf.system import devices


def test_a_device_of_no_known_name_is_refused_in_one_line():
    with pytest.raises(ValueError, match="--device abacus: not available"):
        devices.pick_device("abacus")


@pytest.mark.parametrize(
    "given, found",
    [({}, "5000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "None")],
)
def test_waiting_threads_sleep_soon_unless_told_otherwise(given, found):
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    } | given
    code = (
        "import sys, os, minirlhf; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert printed.split() == [
        found,
        "False",
    ]  # torch reads it when it is imported, so that must come later
