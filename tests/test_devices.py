"""What a run computes on."""
from __future__ import annotations

import pytest

from minirlhf import devices


def test_a_device_of_no_known_name_is_refused_in_one_line():
    with pytest.raises(ValueError, match="--device abacus: not available"):
        devices.pick_device("abacus")
