"""The rules of the training loops, each by hand: schedules, early stopping, what is refitted to,
which random numbers a step draws, what happens in which order.

Tiny models, or stand-ins that write down what they are asked: a rule whose sign is turned shows.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import random
from types import SimpleNamespace

import pytest
import torch
from test_training import toy_rollout
from torch import nn
from torch.nn import functional as F

from minirlhf.config import (
    Config,
    FinetuneConfig,
    GroupConfig,
    ModelConfig,
    PPOConfig,
    PretrainConfig,
    RewardConfig,
    TRPOConfig,
)
from minirlhf.feedback.records import Triple
from minirlhf.models.policy import Policy
from minirlhf.models.reward_model import RewardModel
from minirlhf.models.sampling import Samples
from minirlhf.models.transformer import TransformerConfig
from minirlhf.system.seeds import step_generator, step_seed
from minirlhf.tokenizer import Tokenizer, train_bpe
from minirlhf.training import finetune as finetune_module
from minirlhf.training import pretrain as pretrain_module
from minirlhf.training import ratings as ratings_module
from minirlhf.training import train_reward_model as fitting
from minirlhf.training.algorithms import trpo as trpo_module
from minirlhf.training.algorithms.kl_weight import KLWeight
from minirlhf.training.algorithms.make import make_algorithm
from minirlhf.training.algorithms.ppo import step_metrics
from minirlhf.training.batches import BUCKET, Corpus, EncodedTexts, Split
from minirlhf.training.finetune import finetune
from minirlhf.training.log import TrainLog
from minirlhf.training.optimizers import (
    adamw,
    backward,
    finetuning_rate,
    gradient_step,
    linear_schedule,
    scale_learning_rates,
    step_all,
)
from minirlhf.training.pretrain import TopicMatching, heldout_loss, topic_match_loss
from minirlhf.training.prompts import Prompts, draw_topics
from minirlhf.training.ratings import COLLECTED, RatingRounds, ask_raters, sample_to_rate
from minirlhf.training.rollout import Models, collect
from minirlhf.training.train_reward_model import BestModel, refit_config

CPU = torch.device("cpu")
CONTEXT = 48
WORDS = ["tea", "sleep", "sun", "rain", "moon"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_bpe([" ".join(WORDS)], 262))


@pytest.fixture
def policy(tokenizer) -> Policy:
    torch.manual_seed(0)
    return Policy(TransformerConfig(tokenizer.vocab_size, CONTEXT, width=8, layers=1, heads=1))


@pytest.fixture
def models(policy, tokenizer) -> Models:
    reward_model = RewardModel.from_policy(policy)
    nn.init.normal_(reward_model.score.weight)
    return Models(policy, policy.frozen_copy(), reward_model, tokenizer)


def triple(text: str, topic: str = "tea", score: float = 0.5) -> Triple:
    return Triple(topic, text, score, (3.0,), "simulated")


# Learning rates -----------------------------------------------------------------------------------


def test_the_schedule_of_a_fixed_data_set():
    """Up in 4 steps, then straight down; the step after the last one would be at 0."""
    shares = [linear_schedule(step, 10, 4) for step in range(11)]
    assert shares[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert shares[5:] == pytest.approx([5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0.0])
    assert linear_schedule(0, 10, 0) == 1.0  # without a warmup
    assert linear_schedule(2, 3, 3) == 1.0  # nothing but warmup
    assert linear_schedule(2, 3, 9) == pytest.approx(1 / 3)  # a warmup longer than the run


def test_the_schedule_of_fine_tuning():
    """min(1, (u + 1) / 5) times 1 - 0.9 u / updates."""
    rates = [finetuning_rate(3.0, update, 10) for update in range(10)]
    warmup = [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 1]
    decay = [1, 0.91, 0.82, 0.73, 0.64, 0.55, 0.46, 0.37, 0.28, 0.19]
    assert rates == pytest.approx([3 * up * down for up, down in zip(warmup, decay)])


def test_a_share_is_that_of_the_first_learning_rate():
    first, second = (torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=rate) for rate in (0.5, 2.0))
    for share in (0.5, 0.5, 0.25):  # the second time is no further halving
        scale_learning_rates([first, second], share)
    assert [one.param_groups[0]["lr"] for one in (first, second)] == [0.125, 0.5]


def weights_of_one(value: float) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, value)
    return layer


def test_each_module_is_clipped_on_its_own_and_the_first_norm_is_told():
    one, other = weights_of_one(0.0), weights_of_one(0.0)
    optimizer = torch.optim.SGD([one.weight, other.weight], lr=1.0)
    for _ in range(2):  # the gradients of the first step are cleared before the second
        loss = 3.0 * one.weight.sum() - 2.0 * other.weight.sum()
        assert gradient_step(loss, optimizer, [one, other], 1.0).item() == pytest.approx(3.0)
    assert one.weight.item() == pytest.approx(-2.0, rel=1e-5)  # clipped from 3 to 1
    assert other.weight.item() == pytest.approx(2.0, rel=1e-5)
    gradient_step(math.nan * one.weight.sum() + other.weight.sum(), optimizer, [one, other], 1.0)
    assert one.weight.item() == pytest.approx(-2.0, rel=1e-5)  # not followed
    assert other.weight.item() == pytest.approx(2.0, rel=1e-5)


def test_members_gather_gradients_until_all_step_at_once():
    layer = weights_of_one(0.0)
    optimizers = [torch.optim.SGD([layer.weight], lr=rate) for rate in (1.0, 0.5)]
    backward(3.0 * layer.weight.sum(), layer)
    assert layer.weight.grad.item() == pytest.approx(1.0, rel=1e-5)  # clipped from 3
    backward(-0.5 * layer.weight.sum(), layer)
    step_all(optimizers, layer)
    assert layer.weight.item() == pytest.approx(-0.75, rel=1e-5)
    step_all(optimizers, layer)  # nothing is left of the gradients
    assert layer.weight.item() == pytest.approx(-0.75, rel=1e-5)


def test_only_matrices_decay():
    layer = nn.Linear(2, 2)
    decays = {
        id(parameter): group["weight_decay"]
        for group in adamw(layer, 1e-3, 0.3).param_groups
        for parameter in group["params"]
    }
    assert decays == {id(layer.weight): 0.3, id(layer.bias): 0.0}


# The price of KL ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target, factor",
    [(0.25, 1.0), (0.2, 1.01), (0.5, 0.98), (0.001, 1.04), (1e9, 0.96)],
)
def test_the_price_of_kl_follows_its_target(target, factor):
    """The KL is 0.25 nats per text: the error (KL / target - 1) is cut to [-1, 1], times 4%."""
    price = KLWeight(2.0, target)
    price.adapt(toy_rollout())
    assert price.weight == pytest.approx(2.0 * factor, rel=1e-6)


def test_the_price_of_kl_falls_by_a_step_at_most():
    """k1 is an estimate, and negative on some samples: an error of -2 counts as -1."""
    rollout, price = toy_rollout(), KLWeight(2.0, 0.25)
    rollout.log_probs, rollout.reference_log_probs = rollout.reference_log_probs, rollout.log_probs
    price.adapt(rollout)
    assert price.weight == pytest.approx(2.0 * 0.96, rel=1e-6)


@pytest.mark.parametrize("name, groups", [("reinforce", 1), ("rloo", 2), ("ppo", 1), ("trpo", 1)])
def test_an_update_is_made_and_logged_with_the_price_before_it_is_adapted(models, name, groups):
    settings = FinetuneConfig(
        algorithm=name, kl_weight=0.5, kl_target=0.2, batch_size=2, group=GroupConfig(size=2)
    )
    algorithm = make_algorithm(models, Config(finetune=settings))
    assert algorithm.group_size == groups
    metrics = algorithm.update(toy_rollout(), 0)
    assert metrics["kl_weight"] == 0.5
    assert algorithm.kl_weight.weight == pytest.approx(0.5 * 1.01)  # the KL is 0.25
    assert algorithm.states["kl_weight"] is algorithm.kl_weight


# PPO and TRPO: how far one update goes ------------------------------------------------------------


def test_what_ppo_stops_on_by_hand():
    """k3 of old against new: (ratio - 1) - log ratio, summed over a text, mean over the texts."""
    rollout = toy_rollout()
    moved = torch.tensor([[0.1, -0.5, 0.0], [0.3, 9.0, 9.0]])  # 9: padding
    found = step_metrics(rollout.log_probs + moved * rollout.mask, rollout, 0.2)
    k3 = [math.exp(x) - 1 - x for x in (0.1, -0.5, 0.3)]
    assert float(found["kl_step_nats"]) == pytest.approx(sum(k3) / 2, rel=1e-5)
    assert float(found["clip_fraction"]) == pytest.approx(2 / 4)  # .9 < e^.1 < 1.2
    assert float(found["ratio_max"]) == pytest.approx(math.exp(0.3))


def test_the_clipped_share_of_ppo_by_hand():
    """Ratios 1.3, 0.85 and 1.1, 0.7 of real tokens; what stands at padding does not count."""
    rollout = dataclasses.replace(
        toy_rollout(), mask=torch.tensor([[True, True, True], [True, False, False]])
    )
    ratios = torch.tensor([[1.3, 0.85, 1.1], [0.7, 9.0, 9.0]])
    found = step_metrics(rollout.log_probs + ratios.log(), rollout, 0.2)
    assert found["clip_fraction"].item() == pytest.approx(2 / 4)
    # 1 / 0.82 is beyond 1.2, 0.82 is not: the ratio is new over old.
    found = step_metrics(rollout.log_probs + math.log(0.82), rollout, 0.2)
    assert found["clip_fraction"].item() == 0


def test_each_epoch_of_ppo_has_every_text_once_in_another_order(models):
    settings = FinetuneConfig(algorithm="ppo", ppo=PPOConfig(epochs=2, minibatch_size=4))
    ppo = make_algorithm(models, Config(seed=6, finetune=settings))
    parts = [part.tolist() for part in ppo.minibatches(10, step=3)]
    assert [len(part) for part in parts] == [4, 4, 2] * 2
    generator = step_generator(6, "ppo", 3)
    orders = [torch.randperm(10, generator=generator).tolist() for _ in range(2)]
    assert [sum(parts[:3], []), sum(parts[3:], [])] == orders and orders[0] != orders[1]


@pytest.mark.parametrize(
    "kls, accepted",
    [([0.5], 1.0), ([0.51, 0.5], 0.5), ([9.0, math.nan, 0.1], 0.25), ([9.0] * 4, 0.0)],
)
def test_trpo_halves_its_step_until_the_bound_holds(policy, monkeypatch, kls, accepted):
    """With F = 1 the whole step is sqrt(2 delta) along the gradient; the KLs are given."""
    monkeypatch.setattr(trpo_module, "fisher_product", lambda *_: lambda vector: vector)
    given = iter(kls)
    monkeypatch.setattr(trpo_module, "mean_kl", lambda *_: torch.tensor(next(given)))
    losses = iter([0.0, *[-1.0] * 4])  # every step gains
    monkeypatch.setattr(
        trpo_module.equations,
        "trpo_surrogate",
        lambda log_probs, *_: log_probs.sum() * 1e-9 + next(losses),
    )
    before = trpo_module.flat(policy.parameters()).detach().clone()
    metrics = trpo_module.trpo(
        policy, toy_rollout(), torch.ones(2, 3), TRPOConfig(delta=0.5, cg_steps=1, backtracks=4)
    )
    moved = (trpo_module.flat(policy.parameters()).detach() - before).norm()
    assert float(moved) == pytest.approx(accepted, rel=1e-3)  # sqrt(2 * 0.5) = 1
    assert float(metrics["accepted_step"]) == accepted
    assert float(metrics["kl_step_nats"]) == pytest.approx(kls[-1] if accepted else 0.0)
    assert float(metrics["surrogate_gain"]) == pytest.approx(1.0 if accepted else 0.0, abs=1e-5)
    assert not list(given)


def test_trpo_takes_no_step_that_gains_nothing(policy, monkeypatch):
    monkeypatch.setattr(trpo_module, "fisher_product", lambda *_: lambda vector: vector)
    monkeypatch.setattr(trpo_module, "conjugate_gradient", lambda product, target, _: -target)
    before = trpo_module.flat(policy.parameters()).detach().clone()
    weights = torch.tensor([[1.0, 1.0, 1.0], [-1.0, 0.0, 0.0]])
    settings = TRPOConfig(delta=1e-4, backtracks=3)
    metrics = trpo_module.trpo(policy, toy_rollout(), weights, settings)
    assert float(metrics["accepted_step"]) == 0.0 and float(metrics["gradient_norm"]) > 0
    assert torch.equal(trpo_module.flat(policy.parameters()), before)


# Rollouts -----------------------------------------------------------------------------------------


def test_a_text_that_was_cut_off_is_worth_nothing(models, monkeypatch):
    """Its last token alone is scored 0; what comes before it keeps its score."""
    end = models.tokenizer.end_id
    prompts = [models.prompt(topic) for topic in WORDS] * 8
    bonus = torch.zeros(models.policy.config.vocab_size)
    bonus[end] = 3.5  # about one token in ten ends its text
    original = models.policy.head.forward
    monkeypatch.setattr(models.policy.head, "forward", lambda hidden: original(hidden) + bonus)
    rollout = collect(models, prompts, 10, torch.Generator().manual_seed(0))
    assert 5 < int(rollout.ended.sum()) < 35
    for row, prompt in enumerate(prompts):
        length = int(rollout.mask[row].sum())
        text = rollout.tokens[row, :length].tolist()
        assert (text[-1] == end) == bool(rollout.ended[row])
        scores = models.reward_model(torch.tensor([prompt + text]))[0, len(prompt) - 1 :].detach()
        wanted = scores[1:].clone()
        if not rollout.ended[row]:
            wanted[-1] = 0.0
        torch.testing.assert_close(rollout.prefix_rewards[row, :length], wanted, atol=1e-5, rtol=0)
        assert rollout.reward[row] == rollout.prefix_rewards[row, length - 1]
        assert abs(float(rollout.initial_reward[row] - scores[0])) < 1e-5
        assert rollout.texts[row] == models.tokenizer.decode_text(text)
    assert not rollout.reference_log_probs[~rollout.mask].any()


def test_the_texts_of_a_rollout_are_a_function_of_its_generator(models):
    prompts = [models.prompt(topic) for topic in WORDS]
    one, same, other = (
        collect(models, prompts, 6, torch.Generator().manual_seed(seed)).texts for seed in (0, 0, 1)
    )
    assert one == same != other
    # A number per text and token: a text does not depend on the others in its batch.
    fewer = collect(models, prompts[:2], 6, torch.Generator().manual_seed(0))
    assert fewer.texts == one[:2]


def test_the_reference_gives_its_own_log_probs_to_the_policys_texts(models):
    with torch.no_grad():
        models.reference.body.token_embedding.weight.mul_(-20.0)
    prompts = [models.prompt(topic) for topic in WORDS]
    rollout = collect(models, prompts, 6, torch.Generator().manual_seed(0))
    for row, prompt in enumerate(prompts):
        text = rollout.tokens[row, rollout.mask[row]].tolist()
        for model, found in (
            (models.policy, rollout.log_probs),
            (models.reference, rollout.reference_log_probs),
        ):
            logits = model(torch.tensor([prompt + text]))[0, len(prompt) - 1 : -1]
            wanted = logits.log_softmax(-1)[range(len(text)), text]
            torch.testing.assert_close(found[row, : len(text)], wanted, atol=1e-4, rtol=1e-4)
    assert (rollout.log_probs - rollout.reference_log_probs).abs().max() > 1e-2


# Prompts ------------------------------------------------------------------------------------------


def test_each_topic_is_drawn_as_often_as_any_other():
    drawn = draw_topics(WORDS, 13, torch.Generator().manual_seed(0))
    assert len(drawn) == 13
    assert sorted(drawn[:5]) == sorted(drawn[5:10]) == sorted(WORDS)
    assert len(set(drawn[10:])) == 3 and drawn[:5] != drawn[5:10]


def test_prompts_are_a_function_of_seed_and_update_in_groups(models):
    settings = FinetuneConfig(batch_size=12, max_new_tokens=8)
    prompts = Prompts(models, WORDS, settings, 4, seed=7)
    topics, tokens = prompts.draw(3)
    wanted = draw_topics(WORDS, 3, step_generator(7, "topics", 3))
    assert topics == [topic for topic in wanted for _ in range(4)]
    assert tokens == [models.prompt(topic) for topic in topics]
    assert prompts.draw(4)[0] != topics == prompts.draw(3)[0]
    assert Prompts(models, WORDS, settings, 4, seed=8).draw(3)[0] != topics


def test_prompt_and_text_may_fill_the_context_and_no_more(models):
    longest = max(len(models.prompt(topic)) for topic in WORDS)
    fits = FinetuneConfig(batch_size=4, max_new_tokens=CONTEXT - longest)
    Prompts(models, WORDS, fits, 1, seed=0)
    with pytest.raises(ValueError, match=f"expected at most {CONTEXT - longest}, beside"):
        Prompts(
            models,
            WORDS,
            dataclasses.replace(fits, max_new_tokens=CONTEXT - longest + 1),
            1,
            seed=0,
        )


# Batches ------------------------------------------------------------------------------------------


def test_a_text_that_just_fills_the_context_is_not_cut(tokenizer):
    seen = set()
    for count in range(1, CONTEXT + 5):
        whole = tokenizer.encode_prompt("tea") + tokenizer.encode_text("q" * count)
        texts = EncodedTexts(tokenizer, [("tea", "q" * count)], CONTEXT)
        assert texts.cut == (len(whole) > CONTEXT) and texts.rows[0].tolist() == whole[:CONTEXT]
        seen.add(len(whole) - CONTEXT)
    assert {-1, 0, 1} <= seen


def test_batches_are_those_of_their_bucket(tokenizer):
    """BUCKET batches are drawn at once, sorted by length, and each is used in one step."""
    pairs = [("tea", "a" * (1 + index % 23)) for index in range(40)]
    texts = EncodedTexts(tokenizer, pairs, CONTEXT)
    order = torch.cat([batch.index for batch in texts.in_order(7, CPU)])
    assert order.tolist() == texts.lengths.argsort(stable=True).tolist()  # alike ones together
    for bucket in (0, 1):
        generator = step_generator(5, "fit batch", bucket)
        drawn = torch.randint(40, (BUCKET * 3,), generator=generator)
        by_length = drawn[texts.lengths[drawn].argsort(stable=True)].view(BUCKET, 3)
        order = torch.randperm(BUCKET, generator=generator)
        for place in range(BUCKET):
            batch = texts.random_batch(3, 5, "fit", bucket * BUCKET + place, CPU)
            assert batch.index.tolist() == by_length[order[place]].tolist()


# Pretraining --------------------------------------------------------------------------------------


def pretraining(seed: int, **settings) -> Config:
    return Config(
        seed=seed,
        device="cpu",
        model=ModelConfig(context=CONTEXT, width=8, heads=1),
        pretrain=PretrainConfig(**settings),
        finetune=FinetuneConfig(max_new_tokens=16),
    )


def matching_of(policy, tokenizer, match_topics=True, **settings) -> TopicMatching:
    corpus = Corpus([(topic, f"{topic} is good.") for topic in WORDS], [], match_topics)
    return TopicMatching(policy, tokenizer, corpus, pretraining(0, **settings))


def test_the_weight_of_topic_matching_falls_to_nothing(policy, tokenizer):
    """From match_weight straight down to 0 at match_share of the steps, and not further."""
    matching = matching_of(policy, tokenizer, steps=100, match_share=0.5, match_weight=2.0)
    assert [matching.weight(step) for step in (0, 25, 40)] == pytest.approx([2.0, 1.0, 0.4])
    assert all(matching.weight(step) <= 0 for step in (50, 51, 99))
    assert matching_of(policy, tokenizer, False, steps=9, match_weight=2.0).weight(0) == 0
    assert matching_of(policy, tokenizer, steps=9, match_weight=0.0).weight(0) == 0
    one_topic = Corpus([("tea", "Tea."), ("tea", "More tea.")], [], True)
    assert TopicMatching(policy, tokenizer, one_topic, Config()).weight(0) == 0


def test_topic_matching_by_hand(policy, tokenizer):
    """Half of it -log p("own") of each prefix, half -log p("another") under another topic."""
    matching = matching_of(policy, tokenizer, steps=9)
    own = EncodedTexts(tokenizer, [(topic, f"{topic} is good.") for topic in WORDS], CONTEXT)
    batch = own.batch(torch.tensor([3, 1, 4]), CPU)
    hidden = policy.body(batch.rows)

    def loss(texts: EncodedTexts, index: int, sign: int) -> tuple[float, int]:
        """Sum over the prefixes of 1 token to all of them, and how many there are."""
        start, end = int(texts.prompt_lengths[index]), int(texts.lengths[index])
        logits = matching.classifier(policy.body(texts.rows[index : index + 1]))[0, start:end, 0]
        return F.softplus(-sign * logits).sum().item(), end - start

    def mean(texts: EncodedTexts, indices: list[int], sign: int) -> float:
        sums, counts = zip(*(loss(texts, index, sign) for index in indices))
        return sum(sums) / sum(counts)

    wanted = (mean(own, [3, 1, 4], 1) + mean(matching.others, [3, 4], -1)) / 2
    assert matching.loss(batch, hidden).item() == pytest.approx(wanted, rel=1e-5)
    logits = torch.full(batch.rows.shape, 2.0)
    assert float(topic_match_loss(logits, batch, own=True)) < 0.2
    assert float(topic_match_loss(logits, batch, own=False)) > 2
    for (topic, text), (other, same) in zip(
        [(topic, f"{topic} is good.") for topic in WORDS],
        pretrain_module.with_other_topics(
            [(topic, f"{topic} is good.") for topic in WORDS], seed=0
        ),
    ):
        assert text == same and other != topic and other in WORDS


def test_held_out_loss_is_a_mean_over_tokens_of_all_texts(policy, tokenizer):
    pairs = [("tea", "a" * (1 + index % 30)) for index in range(70)]  # more than one batch of 64
    texts = EncodedTexts(tokenizer, pairs, CONTEXT)
    whole = texts.batch(torch.arange(70), CPU)
    wanted = float(pretrain_module.language_model_loss(policy, whole).detach())
    assert heldout_loss(policy, texts) == pytest.approx(wanted, rel=1e-5)


def test_the_steps_of_pretraining(policy, tokenizer, monkeypatch):
    """Loss of the next token plus the weight times that of the topics; batch and rate by step."""
    losses, rates, saved, asked = [], [], [], []
    monkeypatch.setattr(
        pretrain_module, "language_model_loss", lambda *_: torch.tensor(1.0, requires_grad=True)
    )
    monkeypatch.setattr(TopicMatching, "loss", lambda *_: torch.tensor(10.0, requires_grad=True))
    monkeypatch.setattr(pretrain_module, "heldout_loss", lambda *_: 0.5)
    monkeypatch.setattr(
        pretrain_module, "backward", lambda loss, module: losses.append(loss.item())
    )
    monkeypatch.setattr(
        pretrain_module,
        "step_all",
        lambda optimizers, _: rates.append(
            optimizers[1].param_groups[0]["lr"] / optimizers[1].defaults["lr"]
        ),
    )
    original = EncodedTexts.random_batch
    monkeypatch.setattr(
        EncodedTexts,
        "random_batch",
        lambda self, *rest: (asked.append(rest[:4]), original(self, *rest))[1],
    )
    corpus = Corpus([(topic, f"{topic} is good.") for topic in WORDS], [("tea", "Tea.")], True)
    config = pretraining(
        3,
        steps=13,
        batch_size=2,
        warmup=2,
        evaluate_every=20,
        match_share=4 / 13,
        match_weight=0.4,
    )
    log = TrainLog("pretrain")
    checkpoints = SimpleNamespace(
        resume=lambda *_: 0, maybe_save=lambda done: saved.append((done, len(log.rows)))
    )
    assert pretrain_module.pretrain(tokenizer, corpus, config, log, checkpoints, policy) is policy
    assert losses == pytest.approx([5.0, 4.0, 3.0, 2.0, *[1.0] * 9], rel=1e-5)
    assert rates == pytest.approx([linear_schedule(step, 13, 2) for step in range(13)])
    assert asked == [(2, 3, "pretrain", step) for step in range(13)]
    assert saved == [(10, 1), (13, 2)]  # a row is written before it is saved
    assert [("heldout_loss_nats_per_token" in row) for row in log.rows] == [False, True]


# The reward model ---------------------------------------------------------------------------------


def test_the_best_weights_are_kept_and_the_worse_ones_counted():
    model = nn.Linear(1, 1, bias=False)
    best = BestModel(model, patience=2)
    seen = []
    for number, loss in enumerate([3.0, 2.0, 2.0, 1.5, math.nan, 1.6]):
        with torch.no_grad():
            model.weight.fill_(number)
        best.offer(model, loss)
        seen.append((best.loss, float(best.model.weight), best.worse, best.out_of_patience))
    assert seen == [
        (3.0, 0.0, 0, False),
        (2.0, 1.0, 0, False),
        (2.0, 1.0, 1, False),  # as good is not better
        (1.5, 3.0, 0, False),
        (1.5, 3.0, 1, False),
        (1.5, 3.0, 2, True),
    ]
    again = BestModel(model, patience=2)
    again.load_state_dict(copy.deepcopy(best.state_dict()))
    assert (again.loss, again.out_of_patience) == (1.5, True)
    assert not best.model.weight.requires_grad


class Given:
    """Stands in for an objective: held-out losses are given, and what is asked is written down."""

    loss_name, stops_on = "loss", "heldout_mse"
    meaning = "held-out MSE {heldout_mse}"

    def __init__(self, heldout):
        self.losses, self.drawn, self.finished, self.rates = iter(heldout), [], [], []
        self.model, self.optimizers, self.weights = None, [], []

    def __call__(self, texts, settings):
        return self

    def draw(self, seed, name, step, device):
        self.drawn.append((seed, name, step))
        groups = self.optimizers[1].param_groups
        self.rates.append(groups[0]["lr"] / self.optimizers[1].defaults["lr"])
        return None, None

    def loss(self, member, batch, targets):
        return sum(parameter.square().sum() for parameter in member.parameters())

    def heldout(self, predicted):
        self.weights.append(float(self.model.score.weight.sum().detach()))
        return {"heldout_mse": next(self.losses), "heldout_pearson": 0.0}

    def finish(self, member):
        self.finished.append(float(member.score.weight.sum().detach()))


def fit(models, monkeypatch, heldout, **settings):
    """A fit with these held-out losses: the objective, the rows, and what was saved when."""
    given, saved, log = Given(heldout), [], TrainLog("fit")
    given.model = models.reward_model

    def resume(modules, optimizers, states):
        given.optimizers, given.best = optimizers, states["best"]
        return 0

    checkpoints = SimpleNamespace(
        resume=resume,
        maybe_save=lambda done: saved.append((done, given.best.loss, len(log.rows))),
    )
    monkeypatch.setitem(fitting.OBJECTIVES, "mse", given)
    monkeypatch.setattr(fitting, "predict", lambda *_: None)
    monkeypatch.setattr(fitting, "augmented", lambda batch, *_: batch)
    config = RewardConfig(batch_size=4, warmup=2, patience=2, **settings)
    fitting.train_reward_model(models.reward_model, Split(None, None), config, 9, log, checkpoints)
    return given, log.rows, saved


def test_a_fit_stops_when_nothing_gets_better_and_keeps_the_best(models, monkeypatch):
    given, rows, saved = fit(
        models, monkeypatch, [0.5, 0.4, 0.6, 0.4, 0.0], steps=20, evaluate_every=2
    )
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    assert given.drawn == [(9, "fit", step) for step in range(8)]
    assert given.rates == pytest.approx([linear_schedule(step, 20, 2) for step in range(8)])
    # The weights of step 4, and not of the last one; the objective finishes those.
    kept = float(models.reward_model.score.weight.sum().detach())
    assert kept == given.weights[1] and given.finished == [kept] and len(set(given.weights)) == 4
    # What is saved knows of the best weights and of the row.
    assert saved == [(2, 0.5, 1), (4, 0.4, 2), (6, 0.4, 3), (8, 0.4, 4)]


def test_the_last_step_is_always_looked_at(models, monkeypatch):
    _, rows, _ = fit(models, monkeypatch, [0.5, 0.4], steps=3, evaluate_every=2)
    assert [row["step"] for row in rows] == [2, 3]
    with pytest.raises(ValueError, match="the held-out loss was never a finite number"):
        fit(models, monkeypatch, [math.nan, math.inf], steps=3, evaluate_every=2)


def test_a_refit_is_short_and_gentle():
    config = RewardConfig(
        steps=200, batch_size=48, learning_rate=0.5, muon_learning_rate=0.25, warmup=30
    )
    refit = refit_config(config, 36)
    assert (refit.steps, refit.batch_size, refit.warmup, refit.evaluate_every) == (36, 24, 10, 36)
    assert (refit.learning_rate, refit.muon_learning_rate) == (0.25, 0.125)
    assert refit_config(dataclasses.replace(config, batch_size=3), 4).batch_size == 2
    assert refit_config(config, 4).warmup == 4


# Ratings between rounds ---------------------------------------------------------------------------


OLD = [triple(f"Old {number}.") for number in range(6)]
HELDOUT = [triple("Held out."), triple("Also held out.", "sun")]


def rounds(models, monkeypatch, collected: list[list[Triple]], updates=9, raters=lambda *_: (3.0,)):
    """Fine-tuning in three rounds; what is collected is given. Also the refits, with all that
    they are asked for.
    """
    given, refits, asked = iter(collected), [], []
    monkeypatch.setattr(
        ratings_module, "ask_raters", lambda *rest: (asked.append(rest[-1]), next(given))[1]
    )
    monkeypatch.setattr(
        ratings_module, "train_reward_model", lambda *arguments: refits.append(arguments)
    )
    task = SimpleNamespace(raters=raters, ranker=None, rating_range=(1.0, 5.0))
    config = Config(
        seed=4, finetune=FinetuneConfig(updates=updates, rounds=3, batch_size=4, refit_steps=6)
    )
    log = TrainLog("finetune")
    return RatingRounds(models, task, config, Split(OLD, HELDOUT), log), refits, asked, log


def test_a_refit_mixes_all_that_is_new_with_as_much_that_is_old(models, monkeypatch):
    first = [triple(f"New {number}.") for number in range(2)]
    second = [HELDOUT[0], triple("Also  held out.", "sun"), triple("New 2.")]
    ratings, refits, asked, log = rounds(models, monkeypatch, [first, second])
    due = [update for update in range(9) if ratings.rate_and_refit_if_due(update)]
    assert due == [3, 6] and asked == [1, 2] and ratings.collected == first + second
    new = [first, [*first, second[-1]]]  # never a held-out text, however it is spaced
    for number, (model, texts, settings, seed, refit_log) in enumerate(refits, start=1):
        triples = texts.train.triples
        old = triples[: -len(new[number - 1])]
        assert triples[len(old) :] == new[number - 1]
        count = [2, 5][number - 1]  # as many old ones as were collected, each at most once
        assert len(old) == len({one.text for one in old}) == count and set(old) <= set(OLD)
        assert old == random.Random(step_seed(4, "old feedback", number)).sample(OLD, count)
        assert texts.heldout.triples == HELDOUT and model is models.reward_model and seed == 4
        assert settings == refit_config(RewardConfig(), 6)
        assert refit_log.stage == f"refit {number}"
    assert [row["text"] for row in log.tables.read(COLLECTED)] == [
        one.text for one in first + second
    ]


def test_no_more_old_feedback_than_there_is_and_no_empty_text_in_the_file(models, monkeypatch):
    many = [triple(f"New {number}.") for number in range(9)] + [triple(" ")]
    ratings, refits, _, log = rounds(models, monkeypatch, [many])
    assert ratings.rate_and_refit_if_due(3)
    assert len(refits[0][1].train.triples) == len(OLD) + 10
    rows = log.tables.read(COLLECTED)
    assert [row["text"] for row in rows] == [one.text for one in many[:-1]]
    assert {row["score"] for row in rows} == {3.0}  # 0.5 on the raters' scale
    assert not ratings.rate_and_refit_if_due(3) and len(refits) == 1  # resumed right after it


def test_rounds_begin_at_even_distances(models, monkeypatch):
    ratings, *_ = rounds(models, monkeypatch, [[], []], updates=10)
    assert ratings.starts == [0, 3, 7]
    assert [ratings.round_of(update) for update in range(10)] == [1, 1, 1, 2, 2, 2, 2, 3, 3, 3]


def test_where_nobody_can_be_asked_there_is_one_round(models, monkeypatch):
    ratings, refits, asked, _ = rounds(models, monkeypatch, [], raters=None)
    assert ratings.starts == [0] and {ratings.round_of(update) for update in range(9)} == {1}
    assert not any(ratings.rate_and_refit_if_due(update) for update in range(9))
    assert not refits and not asked and ratings.collected == []


def fake_sample(calls: list, ended=lambda count: torch.ones(count, dtype=torch.bool)):
    def sample(policy, prompts, max_new_tokens, end_id, randomness):
        calls.append((len(prompts), prompts, max_new_tokens, randomness.initial_seed()))
        count = len(prompts)
        tokens = torch.full((count, 2), 97)
        return Samples(tokens, torch.ones(count, 2).bool(), torch.zeros(count, 2), ended(count))

    return sample


def test_raters_see_every_text_also_one_that_was_cut_off(models, monkeypatch):
    calls = []
    monkeypatch.setattr(
        ratings_module, "sample", fake_sample(calls, lambda count: torch.zeros(count).bool())
    )
    task = SimpleNamespace(
        train_prompts=WORDS,
        raters=lambda topic, text, seed: (2.0, 5.0) if seed == 4 else (1.0,),
        raters_are="simulated",
        rating_range=(1.0, 5.0),
    )
    settings = FinetuneConfig(batch_size=4, max_new_tokens=7, ratings_per_round=9)
    rated = ask_raters(models, task, Config(seed=4, finetune=settings), 2)
    topics = draw_topics(WORDS, 9, step_generator(4, "rated topics", 2))
    assert [one.topic for one in rated] == topics and {one.score for one in rated} == {0.625}
    assert [call[0] for call in calls] == [4, 4, 1] and {call[2] for call in calls} == {7}
    assert [prompt for call in calls for prompt in call[1]] == [
        models.prompt(topic) for topic in topics
    ]
    assert {call[3] for call in calls} == {step_seed(4, "rated texts", 2)}


def test_samples_to_rate_first_have_an_end(models, monkeypatch):
    calls = []
    monkeypatch.setattr(
        ratings_module, "sample", fake_sample(calls, lambda count: torch.arange(count) % 2 == 0)
    )
    drawn = sample_to_rate({"before": models.policy}, models.tokenizer, WORDS, 130, 7, seed=4)
    assert [call[0] for call in calls] == [128, 2]
    assert [call[3] for call in calls] == [step_seed(4, "rate before", at) for at in (0, 128)]
    assert len(drawn) == 65
    assert [topic for topic, _, _ in drawn] == [WORDS[index % 5] for index in range(0, 130, 2)]
    assert {name for _, _, name in drawn} == {"before"}


# The loop of fine-tuning --------------------------------------------------------------------------


def test_the_order_of_fine_tuning(models, monkeypatch):
    """Raters first, and what they said is saved at once; an update is logged before it is saved."""
    events = []

    class Algorithm:
        group_size, modules, optimizers, states = 2, {"value": "V"}, ["O"], {"kl_weight": "K"}

        def update(self, rollout, update):
            events.append(("update", rollout, update))
            return {"loss": 1.0}

    class Ratings:
        collected = "collected"

        def __init__(self, *arguments):
            assert arguments[3] == "feedback"

        def rate_and_refit_if_due(self, update):
            events.append(("rate", update))
            return update == 3

        def round_of(self, update):
            return 1 + update // 3

    class Rows:
        def __init__(self, *_):
            pass

        def write(self, update, topics, rollout, metrics):
            events.append(("write", update, rollout, metrics))

    def collect(models, batch, max_new_tokens, generator):
        assert len(batch) == 4 and max_new_tokens == 7
        events.append(("collect", generator.initial_seed()))
        return f"rollout {sum(event[0] == 'collect' for event in events)}"

    def resume(modules, optimizers, states):
        assert modules == {
            "policy": models.policy,
            "reward_model": models.reward_model,
            "value": "V",
        }
        assert optimizers == ["O"] and states.keys() == {"log", "ratings", "kl_weight"}
        return 2

    for name, fake in (
        ("make_algorithm", lambda *_: Algorithm()),
        ("RatingRounds", Ratings),
        ("RolloutLog", Rows),
        ("collect", collect),
    ):
        monkeypatch.setattr(finetune_module, name, fake)
    checkpoints = SimpleNamespace(
        resume=resume,
        save=lambda step: events.append(("save", step)),
        maybe_save=lambda step: events.append(("maybe save", step)),
    )
    task = SimpleNamespace(
        corpus=[], corpus_heldout=[], match_topics=False, learn_prompts=False, train_prompts=WORDS
    )
    config = Config(seed=5, finetune=FinetuneConfig(updates=4, batch_size=4, max_new_tokens=7))
    log = TrainLog("finetune")
    assert finetune(models, task, config, "feedback", log, checkpoints) == "collected"
    seeds = [step_seed(5, "rollout", update) for update in (2, 3)]
    assert events == [
        ("rate", 2),
        ("collect", seeds[0]),
        ("update", "rollout 1", 2),
        ("write", 2, "rollout 1", {"loss": 1.0, "round": 1}),
        ("maybe save", 3),
        ("rate", 3),
        ("save", 3),
        ("collect", seeds[1]),
        ("update", "rollout 2", 3),
        ("write", 3, "rollout 2", {"loss": 1.0, "round": 2}),
        ("maybe save", 4),
    ]
