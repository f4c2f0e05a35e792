"""Direct preference optimisation: better answers gain on worse ones, the reference stays as it is,
and an interruption changes nothing.
"""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from minirlhf.config import Config, DPOConfig, FinetuneConfig, ModelConfig
from minirlhf.feedback.records import Comparison, Triple
from minirlhf.models.policy import Policy
from minirlhf.models.reward_model import RewardModel
from minirlhf.models.transformer import TransformerConfig
from minirlhf.runs.checkpoints import Checkpoints
from minirlhf.settings import SettingError
from minirlhf.system import distributed
from minirlhf.tasks.task import Task
from minirlhf.tokenizer import Tokenizer
from minirlhf.training import dpo
from minirlhf.training.algorithms.make import make_algorithm
from minirlhf.training.batches import Split
from minirlhf.training.dpo import (
    comparisons_of_step,
    comparisons_to_use,
    draw_order,
    heldout_numbers,
    preference_loss,
    text_log_probs,
    train_on_comparisons,
)
from minirlhf.training.log import TrainLog
from minirlhf.training.ranking import Pairs
from minirlhf.training.reward_objectives import ScoredTexts
from minirlhf.training.rollout import Models

TOKENIZER = Tokenizer([bytes([value]) for value in range(256)])
CONTEXT = 32
TOPICS = ["tea", "rain", "a cup"]
SETTINGS = FinetuneConfig(
    algorithm="dpo",
    batch_size=4,
    max_new_tokens=8,
    dpo=DPOConfig(beta=0.5, steps=9, batch_size=3, learning_rate=1e-2),
)
CONFIG = Config(
    model=ModelConfig(vocab_size=256, context=CONTEXT, width=16, layers=1, heads=2),
    finetune=SETTINGS,
)
TASK = Task(
    name="openings",
    train_prompts=TOPICS,
    heldout_prompts=TOPICS,
    judge=lambda topic, text: 0.25,
    judge_name="nobody",
)


def scored(*more: Triple, topics: list[str] = TOPICS) -> ScoredTexts:
    """On each topic a good, a bad and a middling text."""
    texts = [("yes, so it is", 1.0), ("no", 0.0), ("well", 0.5)]
    triples = [Triple(topic, text, score) for topic in topics for text, score in texts]
    return ScoredTexts(TOKENIZER, [*triples, *more], CONTEXT)


TEXTS = Split(scored(), scored(topics=["a shoe"]))


def new_models() -> Models:
    torch.manual_seed(0)
    policy = Policy(TransformerConfig(TOKENIZER.vocab_size, CONTEXT, width=16, layers=1, heads=2))
    nn.init.normal_(policy.head.weight, std=0.3)  # an untrained head has no opinion
    reward_model = RewardModel.from_policy(policy)
    return Models(policy, policy.frozen_copy(), reward_model, TOKENIZER)


def summed_log_prob(policy: Policy, topic: str, text: str) -> Tensor:
    """log p(y | x), spelled out without the code under test."""
    prompt, answer = [*topic.encode(), TOKENIZER.separator_id], TOKENIZER.encode_text(text)
    row = torch.tensor([[*prompt, *answer]])
    log_probs = policy(row).log_softmax(-1)[0]
    places = range(len(prompt), row.shape[1])
    return torch.stack([log_probs[t - 1, row[0, t]] for t in places]).sum()


def all_pairs(texts: ScoredTexts) -> Pairs:
    return texts.pairs(0.125)


def weights_of(module: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in module.state_dict().values()]


# The loss -----------------------------------------------------------------------------------------


def test_before_the_first_step_nothing_is_known():
    """Every implicit reward is 0: the loss is log 2 and no margin leads."""
    models, pairs = new_models(), all_pairs(TEXTS.train)
    reference = text_log_probs(models.reference, TEXTS.train, pairs)
    loss, margins = preference_loss(models.policy, TEXTS.train, pairs, reference, 0.5)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-5)
    assert margins.abs().max() < 1e-4 and len(margins) == len(pairs) == 9


def test_the_loss_by_hand():
    """-log sigmoid of beta times (how much the better answer gained - how much the worse one)."""
    models, beta = new_models(), 0.7
    with torch.no_grad():
        models.policy.head.weight.mul_(1.3)
    pairs = all_pairs(TEXTS.train)
    reference = text_log_probs(models.reference, TEXTS.train, pairs)
    loss, margins = preference_loss(models.policy, TEXTS.train, pairs, reference, beta)
    triples = TEXTS.train.triples
    expected = []
    for better, worse in zip(pairs.better.tolist(), pairs.worse.tolist(), strict=True):
        assert triples[better].score > triples[worse].score
        gains = [
            summed_log_prob(models.policy, triples[row].topic, triples[row].text)
            - summed_log_prob(models.reference, triples[row].topic, triples[row].text)
            for row in (better, worse)
        ]
        expected.append(beta * (gains[0] - gains[1]))
    by_hand = torch.stack(expected)
    torch.testing.assert_close(margins, by_hand.detach(), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(loss, -by_hand.sigmoid().log().mean(), atol=1e-3, rtol=1e-4)
    # The same on held-out comparisons, where the policy learns nothing.
    numbers = heldout_numbers(models.policy, TEXTS.train, pairs, reference, beta)
    assert numbers["heldout_loss_nats_per_comparison"] == pytest.approx(loss.item(), rel=1e-4)
    share = (margins > 0).float().mean().item()
    assert numbers["heldout_pair_accuracy"] == pytest.approx(share) and 0 < share < 1


def test_only_texts_that_are_compared_are_read():
    models, pairs = new_models(), Pairs(*(torch.tensor([value]) for value in (3, 4, 0)))
    found = text_log_probs(models.reference, TEXTS.train, pairs)
    assert found.nonzero().flatten().tolist() == [3, 4]
    triple = TEXTS.train.triples[3]
    expected = summed_log_prob(models.reference, triple.topic, triple.text)
    torch.testing.assert_close(found[3], expected.detach(), atol=1e-4, rtol=1e-5)


# The loop -----------------------------------------------------------------------------------------


def test_better_answers_gain_on_worse_ones_and_the_reference_stays():
    models, log = new_models(), TrainLog("finetune")
    frozen = [*weights_of(models.reference), *weights_of(models.reward_model)]
    train_on_comparisons(models, TASK, CONFIG, TEXTS, log)
    after = [*weights_of(models.reference), *weights_of(models.reward_model)]
    assert all(torch.equal(one, other) for one, other in zip(frozen, after, strict=True))

    pairs = all_pairs(TEXTS.train)
    reference = text_log_probs(models.reference, TEXTS.train, pairs)
    loss, margins = preference_loss(models.policy, TEXTS.train, pairs, reference, 0.5)
    assert loss < 0.5 and margins.min() > 0 and margins.mean() > 0.5
    # On a topic that was never compared, too: the answers are the same.
    assert log.rows[-1]["heldout_pair_accuracy"] == 1.0
    assert log.rows[-1]["pair_accuracy"] == 1.0 and log.rows[-1]["margin"] > 0.5
    assert log.rows[0]["loss_nats_per_comparison"] == pytest.approx(math.log(2), abs=1e-5)


def test_what_is_logged_and_how_often_the_judge_is_asked(monkeypatch):
    """A row per step; of 16 steps, every second one and the last sample texts for the judge."""
    settings = dataclasses.replace(SETTINGS.dpo, steps=16, learning_rate=0.0)
    config = dataclasses.replace(CONFIG, finetune=dataclasses.replace(SETTINGS, dpo=settings))
    log, seen, plain = TrainLog("finetune"), [], dpo.preference_loss

    def watched(policy, texts, pairs, *rest):
        seen.append((pairs.better.tolist(), pairs.worse.tolist()))
        return plain(policy, texts, pairs, *rest)

    monkeypatch.setattr(dpo, "preference_loss", watched)
    train_on_comparisons(new_models(), TASK, config, TEXTS, log)
    train, _ = comparisons_to_use(TEXTS, config)
    parts = [comparisons_of_step(train, 3, step) for step in range(16)]
    assert seen == [(part.better.tolist(), part.worse.tolist()) for part in parts]
    assert [row["step"] for row in log.rows] == list(range(1, 17))
    always = {"loss_nats_per_comparison", "pair_accuracy", "margin", "gradient_norm", "seconds"}
    assert all(always <= row.keys() and row["stage"] == "finetune" for row in log.rows)
    judged = [row for row in log.rows if "judge" in row]
    assert [row["step"] for row in judged] == [1, 3, 5, 7, 9, 11, 13, 15, 16]
    drawn = {"reward", "kl_nats", "length_tokens", "distinct", "entropy_nats_per_token", "round"}
    heldout = {"heldout_loss_nats_per_comparison", "heldout_pair_accuracy"}
    for row in judged:
        assert drawn | heldout <= row.keys() and row["judge"] == 0.25
        assert row["kl_nats"] == pytest.approx(0, abs=1e-4)  # nothing was learned at rate 0
        assert row["entropy_nats_per_token"] > 0
        assert row["samples"] == 2 * 3 * row["step"]  # answers learned from so far
    assert len(log.tables.read("samples.jsonl")) == 8


def test_pretraining_goes_on_beside_it(monkeypatch):
    """As many unscored texts as there are answers in a step; their loss is not DPO's own."""
    models, asked = new_models(), []
    before = models.policy.head.weight.mean().item()

    def loss(batch_size: int, step: int) -> Tensor:
        asked.append((batch_size, step))
        return 1e6 * models.policy.head.weight.sum()  # only this is followed

    monkeypatch.setattr(dpo, "make_mix", lambda *_: SimpleNamespace(loss=loss))
    log = TrainLog("finetune")
    train_on_comparisons(models, TASK, CONFIG, TEXTS, log)
    assert asked == [(6, step) for step in range(9)]
    assert models.policy.head.weight.mean().item() < before - 0.01
    assert max(row["loss_nats_per_comparison"] for row in log.rows) < 1e3


def test_an_interruption_changes_nothing(tmp_path, monkeypatch):
    whole, log = new_models(), TrainLog("finetune")
    train_on_comparisons(whole, TASK, CONFIG, TEXTS, log)
    monkeypatch.setattr(Checkpoints, "every_seconds", 0.0)
    calls, plain = [], dpo.preference_loss

    def stopping(*arguments):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(dpo, "preference_loss", stopping)
    again, cut = new_models(), TrainLog("finetune")

    def go_on(models: Models) -> None:
        log = TrainLog("finetune", cut.tables)
        checkpoints = Checkpoints(tmp_path / "checkpoint.safetensors", "finetune")
        train_on_comparisons(models, TASK, CONFIG, TEXTS, log, checkpoints)

    with pytest.raises(KeyboardInterrupt):
        go_on(again)
    resumed = new_models()
    nn.init.zeros_(resumed.policy.head.weight)  # the checkpoint holds the weights
    go_on(resumed)
    assert len(calls) == 6 + 4
    pairs = zip(weights_of(whole.policy), weights_of(resumed.policy), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    ours, theirs = (
        [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
        for rows in (cut.tables.read("metrics.jsonl"), log.rows)
    )
    assert ours == theirs


# Which comparisons --------------------------------------------------------------------------------


def test_each_comparison_comes_as_often_as_any_other():
    train, _ = comparisons_to_use(TEXTS, CONFIG)  # 9 comparisons, 9 steps of 3
    assert len(train) == 27
    drawn = [comparisons_of_step(train, 3, step) for step in range(9)]
    seen = [pair for part in drawn for pair in zip(part.better.tolist(), part.worse.tolist())]
    assert len(set(seen)) == 9 and all(seen.count(pair) == 3 for pair in seen)
    assert sorted(seen[:9]) == sorted(seen[9:18]) and seen[:9] != seen[9:18]
    same = draw_order(9, 27, CONFIG.seed, "train")
    assert torch.equal(same, draw_order(9, 27, CONFIG.seed, "train"))
    assert not torch.equal(same, draw_order(9, 27, CONFIG.seed + 1, "train"))
    assert len(draw_order(9, 13, 0, "train")) == 13


def test_ties_teach_nothing_and_nothing_may_be_held_out():
    twice = [Triple("tea", "one", 0.5), Triple("tea", "two", 0.5), Triple("tea", "three", 0.0)]
    compared = [
        Comparison("tea", "one", "three"),
        Comparison("tea", "one", "two", tie=True),
        Comparison("tea", "two", "three"),
    ]
    texts = ScoredTexts(TOKENIZER, twice, CONTEXT, compared)
    alone = ScoredTexts(TOKENIZER, twice[:1], CONTEXT)
    train, heldout = comparisons_to_use(Split(texts, alone), CONFIG)
    assert not train.tie.any() and set(train.better.tolist()) == {0, 1}
    assert set(train.worse.tolist()) == {2} and len(heldout) == 0
    models = new_models()
    reference = text_log_probs(models.reference, alone, heldout)
    assert heldout_numbers(models.policy, alone, heldout, reference, 0.5) == {}
    only_ties = ScoredTexts(TOKENIZER, twice[:2], CONTEXT, compared[1:2])
    with pytest.raises(ValueError, match="expected comparisons with a better text"):
        comparisons_to_use(Split(only_ties, alone), CONFIG)
    with pytest.raises(ValueError, match="expected two texts on one topic"):
        comparisons_to_use(Split(alone, alone), CONFIG)


# What cannot work ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda: DPOConfig(beta=0.0), "dpo.beta: expected a number above 0, found 0.0"),
        (lambda: DPOConfig(beta=math.inf), "dpo.beta: expected a number above 0, found inf"),
        (lambda: DPOConfig(steps=0), "dpo.steps: expected an integer of at least 1, found 0"),
        (lambda: DPOConfig(batch_size=0), "dpo.batch-size: expected an integer of at least 1"),
        (lambda: DPOConfig(learning_rate=-1.0), "dpo.learning-rate: expected a number of at least"),
        (
            lambda: FinetuneConfig(algorithm="dpo", kl_target=3.0),
            "kl-target: expected None with dpo, whose --finetune.dpo.beta is fixed, found 3.0",
        ),
    ],
)
def test_bad_settings_are_named(make, told):
    with pytest.raises(SettingError, match=f"^--finetune.{told}"):
        make()


def test_the_settings_that_it_reads_are_its_own():
    assert SETTINGS.of_algorithm is SETTINGS.dpo
    assert SETTINGS.step_size == "finetune.dpo.learning_rate"
    assert SETTINGS.kl_price == "finetune.dpo.beta"
    for name in ("reinforce", "rloo", "grpo", "ppo", "trpo"):
        assert FinetuneConfig(algorithm=name).kl_price == "finetune.kl_weight"


def test_it_learns_neither_from_rollouts_nor_in_several_processes(monkeypatch):
    with pytest.raises(ValueError, match="expected one of reinforce, .* found dpo"):
        make_algorithm(new_models(), CONFIG)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(ValueError, match="expected one of reinforce, .* with more than one"):
        train_on_comparisons(new_models(), TASK, CONFIG, TEXTS)
