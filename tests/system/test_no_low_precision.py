"""A CPU without bfloat16 instructions takes a hundred times as long for a product of such numbers:
there must be none.
"""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch
from conftest import TINY
from torch.utils._python_dispatch import TorchDispatchMode

from minirlhf.config import Config, EncoderPretrainConfig, PPOConfig
from minirlhf.runs import pipeline, products
from minirlhf.runs.folder import Run
from minirlhf.system import devices
from minirlhf.tasks.task import Task

# In inference mode the last three come whole, not as the products that they are made of.
PRODUCTS = {
    *("mm", "addmm", "bmm", "baddbmm", "_scaled_dot_product_flash_attention_for_cpu"),
    *("linear", "matmul", "scaled_dot_product_attention"),
}
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


@pytest.fixture(autouse=True)
def no_bfloat16(monkeypatch):
    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda device: False)


def test_no_stage_multiplies_in_low_precision(tmp_path, small_task):
    run = Run.create(tmp_path / "reinforce", config_of())
    counted(run, small_task, "pretrain", "reward")
    ppo = PPOConfig(epochs=1, minibatch_size=8)
    others = [
        copy_of(run, "ppo", config_of(algorithm="ppo", pretraining_weight=0.1, ppo=ppo)),
        copy_of(run, "trpo", config_of(algorithm="trpo")),
    ]
    encoder = dataclasses.replace(run.config.reward, body="encoder", target="final")
    with_encoder = copy_of(run, "encoder", dataclasses.replace(run.config, reward=encoder))
    (with_encoder.path / products.RESULT["reward"]).unlink()

    counted(run, small_task, "finetune", "evaluate")
    for other in others:
        counted(other, small_task, "finetune")
    counted(with_encoder, small_task, "reward", "finetune", "evaluate")


def counted(run: Run, task: Task, *stages: str) -> None:
    """Run the stages where a product in low precision raises, and check that it saw products."""
    for stage in stages:
        with NoLowPrecisionProducts() as mode:
            pipeline.STAGE_FUNCTIONS[stage](run, task)
        assert mode.count > 50, stage


def copy_of(run: Run, name: str, config: Config) -> Run:
    """A copy of its folder with other settings."""
    return Run(shutil.copytree(run.path, run.path.with_name(name)), config)


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
