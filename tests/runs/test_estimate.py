"""The estimate of a run's time: it follows the settings, and a bare product gives the machine's
speed.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from conftest import TINY

from minirlhf.config import SIZES
from minirlhf.runs import estimate
from minirlhf.runs.estimate import Workload
from minirlhf.runs.plan import judged_lists, workload
from minirlhf.tasks.task import Safety

RATED, UNRATED = Workload(raters=True), Workload(raters=False)
JUDGED_12 = Workload(raters=False, judged=12)


def test_twice_the_steps_take_twice_the_operations():
    small = SIZES["small"]
    reward = dataclasses.replace(small.reward, steps=2 * small.reward.steps, own_texts=0)
    twice = estimate.work(dataclasses.replace(small, reward=reward), RATED)
    once = estimate.work(
        dataclasses.replace(small, reward=dataclasses.replace(small.reward, own_texts=0)), RATED
    )
    assert twice["reward"].training == pytest.approx(2 * once["reward"].training)
    assert twice["finetune"] == once["finetune"]


def test_the_shipped_base_costs_no_training_and_a_larger_model_costs_more():
    assert estimate.work(SIZES["small"], RATED)["pretrain"].training == 0
    gpu, small = (estimate.work(SIZES[size], RATED) for size in ("gpu", "small"))
    assert gpu["pretrain"].training > 0
    assert all(gpu[stage].training > small[stage].training for stage in ("reward", "finetune"))


def test_without_raters_nothing_is_rated():
    with_raters, without = (estimate.work(TINY, load)["finetune"] for load in (RATED, UNRATED))
    assert without.sampling < with_raters.sampling


def test_a_product_is_one_multiplication_and_one_addition_each():
    """The model of one training step against PyTorch's own counter of operations, on a batch of the
    assumed lengths.
    """
    from torch.utils.flop_counter import FlopCounterMode

    from minirlhf.models.policy import Policy
    from minirlhf.models.transformer import TransformerConfig

    config = dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, width=64, layers=2))
    model = config.model
    policy = Policy(TransformerConfig(model.vocab_size, model.context, model.width, model.layers))
    rows = torch.zeros(8, estimate.ROW_TOKENS, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        hidden = policy.body(rows)
        policy.head(hidden[:, : estimate.TEXT_TOKENS]).sum().backward()
    counted = counter.get_total_flops()
    modelled = estimate.training(config, texts=8, steps=1, head=True).training
    assert modelled == pytest.approx(counted, rel=0.15)  # attention's products are left out


def test_seconds_and_words():
    seconds = estimate.seconds(TINY, torch.device("cpu"), RATED)
    assert list(seconds) == ["pretrain", "reward", "finetune", "evaluate"]
    assert all(0 < value < 3600 for value in seconds.values())
    assert [estimate.in_words(s) for s in (0.2, 59, 600, 9000)] == [
        "1 s",
        "59 s",
        "10 min",
        "2.5 h",
    ]


def test_what_is_judged_counts_each_split_and_model(small_task):
    listed = judged_lists(small_task)
    assert listed == 4  # before and after, training and held-out topics
    safety = Safety(["a"], ["b"], bool, bool)
    more = dataclasses.replace(
        small_task, demonstrations=[("a", "b")], more_prompts={"phrasings": ["c"]}, safety=safety
    )
    assert judged_lists(more) == 12  # the base, too; the requests of safety are two half lists
    assert workload(more) == Workload(
        raters=small_task.raters is not None, demonstrations=True, judged=12
    )
    once, thrice = (estimate.work(TINY, load)["evaluate"] for load in (UNRATED, JUDGED_12))
    assert thrice.sampling == 3 * once.sampling
    lines = estimate.plan_lines(TINY, JUDGED_12, {"evaluate": 1.0}, ["evaluate"])
    assert "12 x 32 samples for the judge" in lines[1]


def test_the_plan_says_where_the_model_comes_from():
    def first_line(config):
        expected = dict.fromkeys(("pretrain", "reward"), 60.0)
        return estimate.plan_lines(config, RATED, expected, list(expected))[1]

    assert "the pretrained base is loaded " in first_line(SIZES["small"])
    assert "from scratch, 3,000 steps" in first_line(SIZES["gpu"])
    further = dataclasses.replace(SIZES["small"].pretrain, steps=300)
    line = first_line(dataclasses.replace(SIZES["small"], pretrain=further))
    assert "loaded and trained 300 steps further" in line and line.endswith("60 s")
