r"""Worlds small enough to enumerate (枚举): exact answers that the equations are tested against.

A world has a few prompts x with known probabilities, a vocabulary of at most 5 tokens of which the
last one ends the text, and texts of at most 5 tokens. So every expectation of sections 4.1 and 4.2
is a finite sum:

- a *row* is one pair (x, y), padded; a *state* is one pair (x, y_<t);
- a *table* is (states, vocab): one number per state and next token. The policy's logits are a
  table. So are the scores of a reward head, since (state, next token) names exactly one prefix
  y_1:t;
- probabilities here are plain products of softmax outputs, on purpose not made with `equations`.

`estimator_table` gives the exact mean and covariance of each policy-gradient estimator.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minirlhf import equations


@dataclass(frozen=True)
class World:
    """All rows and all states of a world. Float tensors are float64."""

    vocab: int
    max_length: int  # tokens, the end token counted
    prompt_probs: Tensor  # (prompts,)
    prompts: Tensor  # (rows,), which prompt
    tokens: Tensor  # (rows, time), 0 at padded positions
    mask: Tensor  # (rows, time), bool
    states: Tensor  # (rows, time), the state in which token t is chosen; 0 at padded positions
    state_prompts: Tensor  # (states,)
    state_tokens: Tensor  # (states, time), y_<t padded with 0 on the right
    state_lengths: Tensor  # (states,), number of tokens in y_<t

    @property
    def end(self) -> int:
        """Id of the end-of-text token."""
        return self.vocab - 1

    @property
    def lengths(self) -> Tensor:
        """(rows,), tokens in each text, the end token counted."""
        return self.mask.sum(dim=1)


def build_world(vocab: int, max_length: int, prompt_probs: Sequence[float] = (1.0,)) -> World:
    """Enumerate every text, until its end token (id vocab - 1) or cut after `max_length` tokens.

    vocab: 2 to 5. max_length: 1 to 5. prompt_probs: D(x), positive, sums to 1. Raises ValueError
    otherwise.
    """
    if not 2 <= vocab <= 5:
        raise ValueError(f"vocab: expected 2 to 5, got {vocab}")
    if not 1 <= max_length <= 5:
        raise ValueError(f"max_length: expected 1 to 5, got {max_length}")
    if min(prompt_probs, default=0) <= 0 or abs(sum(prompt_probs) - 1) > 1e-9:
        raise ValueError(
            f"prompt_probs: expected positive numbers that sum to 1, got {tuple(prompt_probs)}"
        )
    words, end = range(vocab - 1), vocab - 1
    prefixes: list[tuple[int, ...]] = []  # texts without their end, of 0 to max_length - 1 tokens
    for length in range(max_length):
        prefixes += itertools.product(words, repeat=length)
    texts = [prefix + (end,) for prefix in prefixes]
    texts += itertools.product(words, repeat=max_length)  # those that are cut
    rows = [(x, y) for x in range(len(prompt_probs)) for y in texts]
    states = [(x, p) for x in range(len(prompt_probs)) for p in prefixes]
    index = {state: i for i, state in enumerate(states)}

    def pad(sequence: Sequence[int]) -> list[int]:
        return list(sequence) + [0] * (max_length - len(sequence))

    return World(
        vocab=vocab,
        max_length=max_length,
        prompt_probs=torch.tensor(prompt_probs, dtype=torch.float64),
        prompts=torch.tensor([x for x, _ in rows]),
        tokens=torch.tensor([pad(y) for _, y in rows]),
        mask=torch.tensor([pad([1] * len(y)) for _, y in rows]).bool(),
        states=torch.tensor([pad([index[x, y[:t]] for t in range(len(y))]) for x, y in rows]),
        state_prompts=torch.tensor([x for x, _ in states]),
        state_tokens=torch.tensor([pad(p) for _, p in states]),
        state_lengths=torch.tensor([len(p) for _, p in states]),
    )


def random_table(world: World, seed: int, scale: float = 1.0) -> Tensor:
    """A random normal table, (states, vocab), float64: a tabular policy's logits, or any scores."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(world.state_prompts), world.vocab)
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def policy_logits(world: World, logits: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """The table of a real policy, (states, vocab), differentiable in its parameters.

    logits: called once with all states as (prompts (states,), tokens (states, time), lengths
    (states,)); it returns the logits of the next token, (states, vocab). Raises ValueError if it
    returns another shape.
    """
    table = logits(world.state_prompts, world.state_tokens, world.state_lengths)
    shape = (len(world.state_prompts), world.vocab)
    if table.shape != shape:
        raise ValueError(
            f"logits: expected shape (states, vocab) = {shape}, got {tuple(table.shape)}"
        )
    return table


# Exact sums ---------------------------------------------------------------------------------------


def at_rows(world: World, table: Tensor) -> Tensor:
    """A table at each row's tokens: (states, vocab) to (rows, time), 0 at padded positions."""
    return table[world.states, world.tokens].masked_fill(~world.mask, 0)


def text_probs(world: World, logits: Tensor) -> Tensor:
    """p(y | x) of every row, (rows,), as the product of its conditionals."""
    conditionals = logits.softmax(dim=-1)[world.states, world.tokens]  # (rows, time)
    return conditionals.masked_fill(~world.mask, 1).prod(dim=1)


def row_probs(world: World, logits: Tensor) -> Tensor:
    """D(x) p(y | x) of every row, (rows,); sums to 1."""
    return world.prompt_probs[world.prompts] * text_probs(world, logits)


def expectation(world: World, logits: Tensor, outcome: Tensor) -> Tensor:
    """E[outcome] over x ~ D and y ~ p: the exact sum. outcome: (rows,). Returns a scalar."""
    return (row_probs(world, logits) * outcome).sum()


def state_probs(world: World, logits: Tensor) -> Tensor:
    """Probability that a text passes through each state, (states,)."""
    through = row_probs(world, logits)[:, None].expand_as(world.states)[world.mask]
    return through.new_zeros(len(world.state_prompts)).index_add(
        0, world.states[world.mask], through
    )


def final_reward(world: World, rewards: Tensor) -> Tensor:
    """r(x, y), the head's score at the last token of every row: (states, vocab) to (rows,)."""
    return at_rows(world, rewards).gather(1, world.lengths[:, None] - 1).squeeze(1)


def action_values(world: World, logits: Tensor, outcome: Tensor) -> Tensor:
    """Q(s, a) = E[outcome | x, y_1:t], (states, vocab). outcome: (rows,)."""
    probs = row_probs(world, logits)
    # One key for each (state, token) on a row.
    keys = (world.states * world.vocab + world.tokens)[world.mask]

    def total(values: Tensor) -> Tensor:
        values = values[:, None].expand_as(world.states)[world.mask]
        return values.new_zeros(len(world.state_prompts) * world.vocab).index_add(0, keys, values)

    return (total(probs * outcome) / total(probs)).view(-1, world.vocab)


def state_values(world: World, logits: Tensor, outcome: Tensor) -> Tensor:
    """V(s) = E[outcome | x, y_<t], (states,). outcome: (rows,)."""
    return (logits.softmax(dim=-1) * action_values(world, logits, outcome)).sum(dim=-1)


def gradient(world: World, logits: Tensor, outcome: Tensor) -> Tensor:
    """The gradient of E[outcome] in the logits by autograd of the exact sum, (states * vocab,)."""
    logits = logits.detach().requires_grad_()
    return torch.autograd.grad(expectation(world, logits, outcome.detach()), logits)[0].flatten()


# Estimators ---------------------------------------------------------------------------------------


def per_text_gradients(
    world: World, logits: Tensor, loss: Callable[..., Tensor], *inputs: Tensor
) -> Tensor:
    """Minus the gradient of a loss, each text as a batch of one: (rows, states * vocab).

    loss: called with (token_log_probs (1, time), *inputs, mask (1, time)); each input is (rows,
    ...), cut to (1, ...).
    """

    def objective(
        table: Tensor, states: Tensor, tokens: Tensor, mask: Tensor, *row: Tensor
    ) -> Tensor:
        log_probs = equations.token_log_probs(table[states][None], tokens[None], mask[None])
        return -loss(log_probs, *(value[None] for value in row), mask[None])

    batched = torch.func.vmap(
        torch.func.grad(objective), in_dims=(None,) + (0,) * (3 + len(inputs))
    )
    return batched(logits.detach(), world.states, world.tokens, world.mask, *inputs).flatten(1)


@dataclass(frozen=True)
class Estimate:
    """Exact moments of one estimator, made from one text.

    For the mean of N texts divide the covariance by N.
    """

    name: str
    mean: Tensor  # (parameters,)
    covariance: Tensor  # (parameters, parameters)
    variance: float  # trace of the covariance
    bias_final: float  # Euclidean distance of the mean from the gradient of J = E[r(x, y)]
    bias_cumulative: float  # the same from the gradient of E[R], R = sum of r_t


def moments(probs: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
    """Exact mean (parameters,) and covariance (parameters, parameters).

    samples (rows, parameters) are drawn with probabilities probs (rows,).
    """
    mean = probs @ samples
    centred = samples - mean
    return mean, centred.T @ (probs[:, None] * centred)


def estimator_table(
    world: World, logits: Tensor, rewards: Tensor, jacobian: Tensor | None = None
) -> list[Estimate]:
    """Every policy-gradient estimator of the article and its relatives, with exact moments.

    logits: the policy's table. rewards: the reward head's table, r_t for every prefix; the final
    reward r(x, y) is its entry at the last token. jacobian: (states * vocab, parameters), the
    derivative of the logits in the parameters of a real policy; without it the logits are the
    parameters.
    """
    logits, rewards = logits.detach(), rewards.detach()
    probs, mask = row_probs(world, logits), world.mask
    per_token = at_rows(world, rewards)  # (rows, time)
    final = final_reward(world, rewards)  # (rows,)
    cumulative, lengths = per_token.sum(dim=1), world.lengths
    states_value = state_values(world, logits, final)[world.states]  # (rows, time): V(s_t)
    prompt_value = states_value[:, 0]  # (rows,): V(x)
    last = torch.arange(world.max_length) == lengths[:, None] - 1  # (rows, time)
    at_end = torch.where(last, final[:, None], 0.0)  # the whole reward arrives with the last token

    def whole(reward: Tensor) -> Tensor:
        return per_text_gradients(world, logits, equations.reinforce_loss, reward)

    def tokenwise(weights: Tensor) -> Tensor:
        return per_text_gradients(world, logits, equations.per_token_reinforce_loss, weights)

    def gae(gae_lambda: float) -> Tensor:
        return equations.generalized_advantage(at_end, states_value, mask, 1.0, gae_lambda)

    samples = {
        "E2: final reward": whole(final),
        "E2: final reward - V(x)": whole(final - prompt_value),
        "E2: cumulative reward R": whole(cumulative),
        "E5 as written: r_t": tokenwise(per_token),
        "E5: reward-to-go of r_t": tokenwise(equations.reward_to_go(per_token, mask)),
        "E5: r_t - r_(t-1)": tokenwise(equations.prefix_difference(per_token, mask)),
        "E5: r_t - r_(t-1), r_0 = V(x)": tokenwise(
            equations.prefix_difference(per_token, mask, prompt_value)
        ),
        "GAE, exact V, lambda 1": tokenwise(gae(1.0)),
        "GAE, exact V, lambda 0": tokenwise(gae(0.0)),
        "E2 averaged over own tokens": tokenwise((final / lengths)[:, None].expand_as(per_token)),
    }
    target_final = gradient(world, logits, final)
    target_cumulative = gradient(world, logits, cumulative)
    if jacobian is not None:
        samples = {name: sample @ jacobian for name, sample in samples.items()}
        target_final = target_final @ jacobian
        target_cumulative = target_cumulative @ jacobian
    table = []
    for name, sample in samples.items():
        mean, covariance = moments(probs, sample)
        table.append(
            Estimate(
                name=name,
                mean=mean,
                covariance=covariance,
                variance=covariance.trace().item(),
                bias_final=(mean - target_final).norm().item(),
                bias_cumulative=(mean - target_cumulative).norm().item(),
            )
        )
    return table
