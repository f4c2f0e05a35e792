"""A CPU without bfloat16 instructions takes a hundred times as long for a product of such numbers:
there must be none.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from conftest import TINY, run_all
from torch.utils._python_dispatch import TorchDispatchMode

from minirlhf.config import EncoderPretrainConfig, PPOConfig
from minirlhf.system import devices

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "_scaled_dot_product_flash_attention_for_cpu"}
LOW = {torch.bfloat16, torch.float16}


class NoLowPrecisionProducts(TorchDispatchMode):
    """Raises at a product of bfloat16 or float16 numbers; counts the others."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in PRODUCTS:
            self.count += 1
            for value in args:
                if isinstance(value, torch.Tensor) and value.dtype in LOW:
                    raise AssertionError(f"{name}: a product in {value.dtype}")
        return function(*args, **(kwargs or {}))


def config_of(**finetune):
    finetune = dataclasses.replace(TINY.finetune, updates=2, rounds=2, **finetune)
    return dataclasses.replace(
        TINY,
        precision="auto",
        pretrain=dataclasses.replace(TINY.pretrain, steps=3),
        reward=dataclasses.replace(
            TINY.reward, steps=3, encoder=EncoderPretrainConfig(steps=2), evaluate_every=3
        ),
        finetune=finetune,
        evaluate=dataclasses.replace(TINY.evaluate, samples=8),
    )


CASES = {
    "reinforce": config_of(),
    "ppo": config_of(
        algorithm="ppo", pretraining_weight=0.1, ppo=PPOConfig(epochs=1, minibatch_size=8)
    ),
    "trpo": config_of(algorithm="trpo"),
}
CASES["encoder"] = dataclasses.replace(
    CASES["reinforce"],
    reward=dataclasses.replace(CASES["reinforce"].reward, body="encoder", target="final"),
)


@pytest.mark.parametrize("name", CASES)
def test_no_stage_multiplies_in_low_precision(name, tmp_path, small_task, monkeypatch):
    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda device: False)
    with NoLowPrecisionProducts() as mode:
        run_all(tmp_path / "run", small_task, CASES[name])
    assert mode.count > 500  # the mode saw the training


def test_the_mode_notices():
    a = torch.ones(2, 2, dtype=torch.bfloat16)
    with (
        NoLowPrecisionProducts(),
        pytest.raises(AssertionError, match="a product in torch.bfloat16"),
    ):
        a @ a


def test_mps_is_not_given_bfloat16_either():
    """No such device here; the choice is made by its name alone."""
    devices.use_precision("auto", torch.device("mps"))
    assert devices.precision_of(torch.device("mps")) == "float32"
