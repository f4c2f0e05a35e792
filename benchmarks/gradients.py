"""What is one batch of samples worth? How far its policy gradient lifts the judge, to first order.

    python -m minirlhf demo --task assistant --run talk
    python -m benchmarks.gradients --run runs/talk

From the policy before fine-tuning, batches of 256 answers (four to each prompt) are sampled once.
Each way of weighing their tokens (WAYS) gives one gradient per batch. The mean gradient of 1, 4 and
10 batches, in Adam's metric, is scaled to a step that costs .05 nats of KL per text. Printed is how
much the judge's mean score would rise along that step: its product with the gradient of the judge's
score (RLOO) over the batches that took no part; mean and standard error. "cosine" is that between
the gradients of two batches.

judge             the judge is the reward, RLOO: what a perfect reward model would give
rloo              the reward model's score, compared with the prompt's other answers
prefix score      PPO's value function is r_(t-1)
corrected         PPO's value function as it is: r_(t-1) without its mean error at t
lambda .95        the same with GAE's lambda .95 instead of 1
likelihood        the reward is the policy's own mean log-probability: nothing learned from feedback
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from pathlib import Path

import torch
from torch import Tensor

from minirlhf import equations
from minirlhf.models.policy import Policy
from minirlhf.runs import products, run_models, run_task
from minirlhf.runs.folder import Run
from minirlhf.system.seeds import step_generator
from minirlhf.tasks.task import Task
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.algorithms.advantages import (
    corrected_scores_before,
    group_advantages,
    scores_before,
)
from minirlhf.training.algorithms.policy_gradient import policy_gradient_loss
from minirlhf.training.prompts import draw_topics
from minirlhf.training.rollout import Models, Rollout, collect

PROMPTS, SAMPLES = 64, 4  # of a batch
NEW_TOKENS = 48  # of an answer at most
BATCHES, MEANS_OF = 14, (1, 4, 10)
STEP_NATS = 0.05
LIKELIHOOD_WEIGHT = 4.0  # logits per nat per token, as the reward model's


def in_groups(rollout: Rollout) -> Tensor:
    """RLOO's weight of each token (batch, time), without the cost of the KL."""
    return group_advantages(rollout, equations.leave_one_out_advantage, SAMPLES, 0.0)


def with_value(rollout: Rollout, values: Tensor, gae_lambda: float = 1.0) -> Tensor:
    """PPO's whitened advantages (batch, time), without the cost of the KL (0 at the reference)."""
    mask = rollout.mask
    rewards = equations.kl_penalized_rewards(rollout.reward, torch.zeros_like(values), mask, 0.0)
    advantages = equations.generalized_advantage(rewards, values, mask, 1.0, gae_lambda)
    return equations.whiten(advantages, mask)


def scored_by_likelihood(rollout: Rollout) -> Rollout:
    """The same texts with the policy's own mean log-probability as reward, between 0 and 1."""
    count = torch.arange(1, rollout.mask.shape[1] + 1)
    prefix = torch.sigmoid(LIKELIHOOD_WEIGHT * (rollout.log_probs.cumsum(1) / count + 0.5))
    last = rollout.mask.sum(1, keepdim=True) - 1
    reward = prefix.gather(1, last).squeeze(1) * rollout.ended
    initial = torch.full_like(reward, 0.5)
    return dataclasses.replace(
        rollout, prefix_rewards=prefix, initial_reward=initial, reward=reward
    )


def weights_of(rollout: Rollout, judged: Tensor) -> dict[str, Tensor]:
    """The weight of each token (batch, time), by way. `judged` (batch,): the judge's scores."""
    corrected, likely = corrected_scores_before(rollout), scored_by_likelihood(rollout)
    return {
        "judge": in_groups(dataclasses.replace(rollout, reward=judged)),
        "rloo": in_groups(rollout),
        "prefix score": with_value(rollout, scores_before(rollout)),
        "corrected": with_value(rollout, corrected),
        "lambda .95": with_value(rollout, corrected, gae_lambda=0.95),
        "likelihood": with_value(likely, corrected_scores_before(likely)),
    }


def gradient(policy: Policy, rollout: Rollout, weights: Tensor) -> Tensor:
    """The gradient of E5 by all parameters, one vector: uphill."""
    policy.zero_grad()
    loss, _ = policy_gradient_loss(policy, rollout, weights)
    loss.backward()
    return -torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])


@torch.no_grad()
def kl_of(step: Tensor, policy: Policy, rollout: Rollout) -> float:
    """KL(old || new), nats per text, that this step of all parameters costs. Takes no step."""
    before = torch.nn.utils.parameters_to_vector(policy.parameters())
    torch.nn.utils.vector_to_parameters(before + step, policy.parameters())
    log_probs = policy.text_log_probs(
        rollout.rows, rollout.prompt_lengths, rollout.tokens, rollout.mask
    )
    torch.nn.utils.vector_to_parameters(before, policy.parameters())
    return float(equations.kl_k3(rollout.log_probs, log_probs, rollout.mask).sum(1).mean())


def gains(
    gradients: Tensor, of_judge: Tensor, size: int, policy: Policy, rollouts: list[Rollout]
) -> list[float]:
    """Rise of the judge's mean score along the mean gradient of `size` batches, for several sets.

    Both gradients are (batches, parameters).
    """
    rms = gradients.square().mean(0).sqrt() + 1e-12
    found = []
    for first in range(0, BATCHES, 2):
        chosen = [(first + i) % BATCHES for i in range(size)]
        others = [i for i in range(BATCHES) if i not in chosen]
        step = gradients[chosen].mean(0) / rms
        step = step * 0.05 / step.norm()  # short: there the KL is a square
        nats = kl_of(step, policy, rollouts[others[0]])
        step = step * (STEP_NATS / nats) ** 0.5
        found.append(float(step @ of_judge[others].mean(0)))
    return found


def mean_cosine(gradients: Tensor) -> float:
    """Between the gradients (batches, parameters) of two batches."""
    units = gradients / gradients.norm(dim=1, keepdim=True)
    count = len(units)
    return float((units.sum(0).square().sum() - count) / (count * (count - 1)))


def load(path: Path) -> tuple[Models, Task]:
    """The models of a run before fine-tuning, and its task."""
    run = Run.open(path, "cpu")
    tokenizer = Tokenizer.load(run.path / "tokenizer.json")
    start = products.RESULT["sft" if run.is_done("sft") else "pretrain"]
    policy = run_models.load_policy(run, start, tokenizer).eval()
    reward_model = run_models.load_reward_model(run, products.RESULT["reward"], tokenizer).eval()
    models = Models(policy, policy.frozen_copy(), reward_model, tokenizer)
    return models, run_task.task_from(run.config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    models, task = load(arguments.run)
    rollouts: list[Rollout] = []
    gradients: dict[str, list[Tensor]] = {}
    for number in range(BATCHES):
        drawn = draw_topics(
            task.train_prompts, PROMPTS, step_generator(arguments.seed, "prompts", number)
        )
        prompts = [prompt for prompt in drawn for _ in range(SAMPLES)]
        tokens = [models.prompt(prompt) for prompt in prompts]
        generator = step_generator(arguments.seed, "rollout", number)
        rollout = collect(models, tokens, NEW_TOKENS, generator)
        judged = torch.tensor(list(map(task.judge, prompts, rollout.texts)))
        for way, weights in weights_of(rollout, judged).items():
            found = gradient(models.policy, rollout, weights)
            gradients.setdefault(way, []).append(found)
        rollouts.append(rollout)
    of_judge = torch.stack(gradients["judge"])
    print(f"{'':14s}{'cosine':>8s}" + "".join(f"{f'mean of {size}':>18s}" for size in MEANS_OF))
    for way, each in gradients.items():
        of_way = torch.stack(each)
        row = f"{way:14s}{mean_cosine(of_way):8.3f}"
        for size in MEANS_OF:
            rises = gains(of_way, of_judge, size, models.policy, rollouts)
            error = statistics.stdev(rises) / len(rises) ** 0.5
            row += f"{f'{statistics.fmean(rises):.4f} ± {error:.4f}':>18s}"
        print(row, flush=True)


if __name__ == "__main__":
    main()
