"""Before an update the policy is the one that sampled: ratio 1 and KL 0, in either precision."""

from __future__ import annotations

import pytest
import torch
from test_algorithms import Words, roll, world
from torch import Tensor

from minirlhf.config import Config, FinetuneConfig, PPOConfig
from minirlhf.models.policy import Policy
from minirlhf.models.sampling import sample
from minirlhf.system.devices import autocast, use_precision
from minirlhf.training import rollout as rollout_module
from minirlhf.training.algorithms.advantages import advantages
from minirlhf.training.algorithms.make import make_algorithm
from minirlhf.training.rollout import Models, Rollout
from minirlhf.training.rollout_log import summarise

CPU = torch.device("cpu")
# Ten minibatches that move nothing: each compares the policy with the one that sampled.
STILL = PPOConfig(learning_rate=0.0, minibatch_size=7, epochs=2)


class NoJudge:
    def judge(self, topic: str, text: str) -> float:
        return 0.5


def logged(name: str, rollout: Rollout, policy: Policy, reward_model) -> dict[str, float]:
    """The row of metrics of one update that changes nothing yet, or one that looks before it."""
    settings = FinetuneConfig(algorithm=name, batch_size=32, ppo=STILL)
    models = Models(policy, None, reward_model, Words())
    metrics = make_algorithm(models, Config(finetune=settings)).update(rollout, 0)
    return summarise(rollout, ["tea"] * len(rollout.texts), NoJudge(), metrics)


@pytest.mark.parametrize("name", ["reinforce", "ppo"])
def test_the_ratio_is_1_and_the_kl_0_before_the_first_update(name):
    use_precision("bfloat16", CPU)
    policy, reward_model = world()
    row = logged(name, roll(policy, reward_model, 0), policy, reward_model)
    assert row["kl_nats"] == 0 and row["ratio_max"] == pytest.approx(1, abs=1e-6)
    if name == "ppo":
        assert row["minibatches"] == 10 and row["clip_fraction"] == 0
        assert row["kl_step_nats"] == pytest.approx(0, abs=1e-6)


def test_trpo_pays_for_no_kl_before_the_first_update():
    """Its own old log-probabilities come from its own pass; the cost of the KL from the rollout."""
    use_precision("bfloat16", CPU)
    policy, reward_model = world()
    rollout = roll(policy, reward_model, 0)
    settings = FinetuneConfig(algorithm="trpo").trpo
    free, paid = (advantages(rollout, settings, weight) for weight in (0.0, 10.0))
    assert torch.equal(free, paid)
    row = logged("trpo", rollout, policy, reward_model)
    assert row["kl_nats"] == 0 and row["ratio_max"] >= 1


def test_another_reference_still_has_its_kl():
    use_precision("bfloat16", CPU)
    policy, reward_model = world()
    reference = world(seed=1)[0].requires_grad_(False)
    rollout = roll(policy, reward_model, 0, reference=reference)
    use_precision("float32", CPU)
    exact = roll(policy, reward_model, 0, reference=reference)
    assert torch.equal(rollout.tokens, exact.tokens)  # sampling is float32 in either case
    for name in ("log_probs", "reference_log_probs"):
        gap = (getattr(rollout, name) - getattr(exact, name)).abs().max()
        assert 0 < gap < 0.1
    assert not rollout.log_probs.requires_grad
    assert not any(parameter.requires_grad for parameter in reference.parameters())
    assert all(parameter.requires_grad for parameter in policy.parameters())


def test_float32_takes_the_log_probs_of_sampling_and_no_pass_more(monkeypatch):
    use_precision("float32", CPU)
    policy, reward_model = world()
    drawn, passes = [], []

    def keeping(*arguments):
        drawn.append(sample(*arguments))
        return drawn[-1]

    forward = Policy.text_log_probs

    def counting(self, *arguments) -> Tensor:
        passes.append(self)
        return forward(self, *arguments)

    monkeypatch.setattr(rollout_module, "sample", keeping)
    monkeypatch.setattr(Policy, "text_log_probs", counting)
    rollout = roll(policy, reward_model, 0)
    assert rollout.log_probs is drawn[0].log_probs
    assert len(passes) == 1 and passes[0] is not policy  # that of the reference
    with autocast(CPU):
        found = forward(
            passes[0], rollout.rows, rollout.prompt_lengths, rollout.tokens, rollout.mask
        )
    assert torch.equal(found.detach(), rollout.reference_log_probs)
