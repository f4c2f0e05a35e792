"""Mutation check, run by hand: python tests/mutants.py [--jobs N] [module or function ...]

Each mutant is one small slip in one function: a flipped sign, a dropped mask, t shifted by one,
better and worse swapped. The tests run against a copy of the package with that slip; a mutant is
killed if a test fails. Exits with 1 if fewer than 98% are killed. Every function of equations.py
has mutants (below); loop_mutants.py holds those of training, sampling and runs, with the tests
that must notice. About an hour on two cores.

tests/equations/test_mutant_patterns.py checks in every test run that each slip can still be
made.
"""

from __future__ import annotations

import argparse
import ast
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from loop_mutants import LOOPS

ROOT = Path(__file__).resolve().parent.parent
NEEDED = 0.98
SECONDS = 300  # a stage of tests that takes longer hangs: the mutant is killed
# What takes long to import: once, before the processes of the tests are forked.
PRELOADED = ["torch._dynamo", "matplotlib.figure", "safetensors.torch", "pytest", "hypothesis"]

Mutant = tuple[str, str, str]


@dataclass(frozen=True)
class Target:
    """One module with its mutants, and the tests that must notice them."""

    module: str  # in minirlhf/
    # Files of tests/, or single tests of theirs. Quick ones first; most mutants die in the first.
    stages: Sequence[Sequence[str]]
    mutants: Sequence[Mutant]
    options: tuple[str, ...] = ()  # of pytest


STAGES = [
    [
        "equations/test_equations.py",
        "equations/test_equations_properties.py",
        "equations/test_exact_reward_losses.py",
        "equations/test_equations_advantages.py",
        "equations/test_exact_preferences.py",
    ],
    [
        "equations/test_exact_policy_gradient.py",
        "equations/test_exact_kl.py",
        "equations/test_equations_ppo.py",
        "equations/test_exact.py",
    ],
]

# (function, what is there, what the slip makes of it). The text must occur once in the function's
# code.
MUTANTS = [
    # checks
    ("_check_dims", 'words.strip("(),").split(",")', 'words.strip("(),").split(" ")[:2]'),
    ("_check_dims", "if not (tensor.dtype in _INTEGERS if integer else tensor.is_floating_point()):", "if False:"),
    ("_check_dims", "else tensor.is_floating_point()", "else True"),
    ("_check_dims", "tensor.dtype in _INTEGERS if", "not tensor.is_floating_point() if"),
    ("_check_dims", "if not isinstance(tensor, Tensor):", "if False:"),
    ("_check_like", "if tensor.shape != shape:", "if False:"),
    ("_check_like", "tensor.shape != shape", "len(tensor) != len(tensor)"),
    ("_check_like", "words, integer)\n    if", "words, False)\n    if"),
    ("_padding", "if mask.shape != shape:", "if mask.dim() != len(shape):"),
    ("_padding", "if mask.shape != shape:", "if False:"),
    ("_padding", "if mask.dtype != torch.bool and not mask.is_floating_point():", "if False:"),
    ("_padding", "mask.dtype != torch.bool and not", "not"),
    ("_padding", "return mask == 0", "return mask != 0"),
    ("_padding", "return mask == 0", "return torch.zeros_like(mask, dtype=torch.bool)"),
    ("_padding", "if not isinstance(mask, Tensor):", "if False:"),
    ("_blank", "tensor.masked_fill(padding, 0)", "tensor * ~padding"),
    ("_blank", "tensor.masked_fill(padding, 0)", "tensor.masked_fill(padding, 1)"),
    ("_blank", "tensor.masked_fill(padding, 0)", "tensor"),
    ("_blank_logits", "logits.masked_fill(padding[..., None], 0)", "logits * ~padding[..., None]"),
    ("_blank_logits", "logits.masked_fill(padding[..., None], 0)", "logits"),
    ("_check_unit", "0 <= number <= 1", "0 <= number"),
    ("_check_unit", "0 <= number <= 1", "number <= 1"),
    ("_check_unit", "0 <= number <= 1", "0 < number <= 1"),
    ("_check_unit", "0 <= number <= 1", "0 <= number < 1"),
    ("_check_clip_range", "not clip_range > 0", "not clip_range >= 0"),
    ("_check_clip_range", "not clip_range > 0", "clip_range <= 0"),
    # E3
    ("token_log_probs", ".log_softmax(dim=-1)", ".softmax(dim=-1)"),
    ("token_log_probs", ".log_softmax(dim=-1)", ".log_softmax(dim=1)"),
    ("token_log_probs", ".log_softmax(dim=-1)", ""),
    ("token_log_probs", "_blank(tokens, padding).long()", "_blank(tokens, padding).long().roll(1, 1)"),
    ("token_log_probs", "_blank(tokens, padding)", "tokens"),
    ("token_log_probs", "_blank_logits(logits, padding)", "logits"),
    ("token_log_probs", ".long()", ""),
    ("token_log_probs", "return _blank(chosen, padding)", "return chosen"),
    ("token_log_probs", "return _blank(chosen, padding)", "return -_blank(chosen, padding)"),
    ("token_log_probs", "return _blank(chosen, padding)", "return _blank(chosen.detach(), padding)"),
    ("token_log_probs", "logits.shape[:-1], integer=True", "tokens.shape, integer=True"),
    ("sequence_log_prob", ".sum(dim=1)", ".mean(dim=1)"),
    ("sequence_log_prob", ".sum(dim=1)", ".sum(dim=0)"),
    ("sequence_log_prob", "_blank(token_log_probs, _padding(mask, token_log_probs.shape))", "token_log_probs"),
    ("sequence_log_prob", ".sum(dim=1)", ".sum(dim=1) / mask.sum(dim=1)"),
    # E1, E4
    ("expected_reward", "rewards.mean()", "rewards.sum()"),
    ("expected_reward", "rewards.mean()", "-rewards.mean()"),
    ("expected_reward", "rewards.mean()", "rewards.median()"),
    ("expected_reward", '_check_dims("rewards", rewards, "(batch,)")', "pass"),
    ("cumulative_reward", ".sum(dim=1)", ".mean(dim=1)"),
    ("cumulative_reward", ".sum(dim=1)", ".sum(dim=1) / mask.sum(dim=1)"),
    ("cumulative_reward", "_blank(rewards, _padding(mask, rewards.shape))", "rewards"),
    ("cumulative_reward", ".sum(dim=1)", "[:, :-1].sum(dim=1)"),
    ("reward_to_go", "ahead >= 0", "ahead > 0"),
    ("reward_to_go", "ahead >= 0", "ahead <= 0"),
    ("reward_to_go", "column[:, None] - column", "column - column[:, None]"),
    ("reward_to_go", "discount ** ahead.clamp(min=0)", "discount ** (ahead + 1).clamp(min=0)"),
    ("reward_to_go", "discount ** ahead.clamp(min=0)", "1.0"),
    ("reward_to_go", "ahead.clamp(min=0), 0)", "ahead.clamp(min=0), 1)"),
    ("reward_to_go", "_blank(rewards, padding) @ weights", "rewards @ weights"),
    ("reward_to_go", "enabled=False", "enabled=True"),
    ("reward_to_go", "torch.promote_types(rewards.dtype, torch.float32)", "torch.bfloat16"),
    ("reward_to_go", "_blank(_blank(rewards, padding) @ weights, padding)", "_blank(rewards, padding) @ weights"),
    ("reward_to_go", '_check_unit("discount", discount)', "pass"),
    ("reward_to_go", "discount: float = 1.0", "discount: float = 0.99"),
    ("prefix_difference", "rewards - previous", "previous - rewards"),
    ("prefix_difference", "rewards - previous", "rewards"),
    ("prefix_difference", "rewards - previous", "rewards + previous"),
    ("prefix_difference", "[:, :-1]", "[:, 1:]"),
    ("prefix_difference", "(rewards.shape[0], 1), initial)", "(rewards.shape[0], 1), 0.0)"),
    ("prefix_difference", "initial[:, None].to(rewards)", "initial[:, None].to(rewards) * 0"),
    ("prefix_difference", "return _blank(rewards - previous, padding)", "return rewards - previous"),
    ("prefix_difference", "rewards = _blank(rewards, padding)", "pass"),
    ("prefix_difference", "initial: float | Tensor = 0.0", "initial: float | Tensor = 0.5"),
    # E2, E5
    ("reinforce_loss", "return -(reward", "return (reward"),
    ("reinforce_loss", "reward.detach() * log_prob", "reward * log_prob"),
    ("reinforce_loss", "reward.detach() * log_prob", "reward.detach() * log_prob.exp()"),
    ("reinforce_loss", ".mean()", ".sum()"),
    ("reinforce_loss", ".mean()", ".sum() / mask.sum()"),
    ("reinforce_loss", "reward - baseline", "reward + baseline"),
    ("reinforce_loss", "reward = reward - baseline", "pass"),
    ("reinforce_loss", "baseline.dim() > 0", "False"),
    ("reinforce_loss", "sequence_log_prob(token_log_probs, mask)", "sequence_log_prob(token_log_probs, mask) / mask.sum(1)"),
    ("per_token_reinforce_loss", "return -terms", "return terms"),
    ("per_token_reinforce_loss", "weights.detach()", "weights"),
    ("per_token_reinforce_loss", ".sum(dim=1).mean()", ".mean()"),
    ("per_token_reinforce_loss", ".sum(dim=1).mean()", ".sum()"),
    ("per_token_reinforce_loss", "terms.sum(dim=1).mean()", "terms.sum() / mask.sum()"),
    ("per_token_reinforce_loss", "terms.sum(dim=1).mean()", "(terms.sum(dim=1) / mask.sum(dim=1)).mean()"),
    ("per_token_reinforce_loss", "_blank(weights.detach(), padding)", "weights.detach()"),
    ("per_token_reinforce_loss", "* _blank(token_log_probs, padding)", "* token_log_probs"),
    ("per_token_reinforce_loss", "* _blank(token_log_probs, padding)", "* _blank(token_log_probs, padding).roll(1, 1)"),
    ("per_token_reinforce_loss", "_blank(weights.detach(), padding)", "_blank(weights.detach(), padding).roll(-1, 1)"),
    # E7, E8
    ("mse_reward_loss", "(predicted - score.detach()).square().mean()", "(predicted - score.detach()).square().sum()"),
    ("mse_reward_loss", "(predicted - score.detach()).square()", "(predicted + score.detach()).square()"),
    ("mse_reward_loss", "(predicted - score.detach()).square()", "(predicted - score.detach()).abs()"),
    ("mse_reward_loss", "(predicted - score.detach()).square()", "(predicted - score).square()"),
    ("mse_reward_loss", "score.detach()[:, None]", "score[:, None]"),
    ("mse_reward_loss", "predicted - score.detach()[:, None]", "predicted + score.detach()[:, None]"),
    ("mse_reward_loss", "_blank(predicted - score.detach()[:, None], padding)", "(predicted - score.detach()[:, None])"),
    ("mse_reward_loss", "(~padding).sum().clamp(min=1)", "padding.numel()"),
    ("mse_reward_loss", "(~padding).sum().clamp(min=1)", "(~padding).sum()"),
    ("mse_reward_loss", "(~padding).sum().clamp(min=1)", "len(padding)"),
    (
        "mse_reward_loss",
        "errors.square().sum() / (~padding).sum().clamp(min=1)",
        "(errors.square().sum(1) / (~padding).sum(1).clamp(min=1)).mean()",
    ),
    ("ranking_loss", "better - worse", "worse - better"),
    ("ranking_loss", "better - worse", "better + worse"),
    ("ranking_loss", "better - worse", "2 * (better - worse)"),
    ("ranking_loss", "return -logsigmoid", "return logsigmoid"),
    ("ranking_loss", ".mean()", ".sum()"),
    ("ranking_loss", "logsigmoid(better - worse)", "(better - worse).sigmoid()"),
    ("ranking_loss", "logsigmoid(better - worse)", "(better - worse).sigmoid().log()"),
    # KL, entropy
    ("_log_ratio", "_blank(log_probs, padding) - _blank", "_blank(log_probs, padding) + _blank"),
    ("_log_ratio", "return _blank(log_probs, padding)", "return log_probs"),
    ("_log_ratio", "- _blank(reference_log_probs, padding)", "- reference_log_probs"),
    ("kl_k1", "return _log_ratio", "return -_log_ratio"),
    ("kl_k1", "return _log_ratio(log_probs, reference_log_probs, mask)", "return kl_k2(log_probs, reference_log_probs, mask)"),
    ("kl_k2", "0.5 * ", ""),
    ("kl_k2", ".square()", ".abs()"),
    ("kl_k3", "= -_log_ratio", "= _log_ratio"),
    ("kl_k3", "torch.expm1(log_ratio) - log_ratio", "torch.expm1(log_ratio) + log_ratio"),
    ("kl_k3", "torch.expm1(log_ratio) - log_ratio", "torch.expm1(log_ratio)"),
    ("kl_k3", "torch.expm1(log_ratio)", "log_ratio.exp()"),
    ("kl_k3", "torch.expm1(log_ratio)", "(log_ratio.exp() - 1)"),
    ("exact_token_kl", "(log_p - log_q)", "(log_q - log_p)"),
    ("exact_token_kl", "log_p.exp()", "log_q.exp()"),
    ("exact_token_kl", ".sum(dim=-1)", ".mean(dim=-1)"),
    ("exact_token_kl", ".sum(dim=-1)", ".sum(dim=1)"),
    ("exact_token_kl", ".masked_fill(log_p == -torch.inf, 0)", ""),
    ("exact_token_kl", "log_p == -torch.inf", "log_q == -torch.inf"),
    ("exact_token_kl", "_blank_logits(logits, padding)", "logits"),
    ("exact_token_kl", "_blank_logits(reference_logits, padding)", "reference_logits"),
    ("mean_sequence_kl", "exact_token_kl(logits, reference_logits, mask)", "exact_token_kl(reference_logits, logits, mask)"),
    ("mean_sequence_kl", "exact_token_kl(logits, reference_logits, mask)", "exact_token_kl(logits, reference_logits)"),
    ("mean_sequence_kl", ".sum(dim=1).mean()", ".mean()"),
    ("mean_sequence_kl", ".sum(dim=1).mean()", ".sum()"),
    ("mean_sequence_kl", ".sum(dim=1).mean()", ".sum() / mask.sum()"),
    ("entropy", "_blank(-(", "_blank(("),
    ("entropy", ".sum(dim=-1)", ".mean(dim=-1)"),
    ("entropy", "log_p.masked_fill(log_p == -torch.inf, 0)", "log_p"),
    ("entropy", "log_p.exp() * ", ""),
    ("entropy", ".sum(dim=-1), padding)", ".sum(dim=-1), None)"),
    ("entropy", "_blank_logits(logits, padding)", "logits"),
    # GAE
    ("generalized_advantage", "rewards + discount * next_values - values", "rewards + next_values - values"),
    ("generalized_advantage", "rewards + discount * next_values - values", "rewards + discount * values - next_values"),
    ("generalized_advantage", "rewards + discount * next_values - values", "rewards + discount * next_values + values"),
    ("generalized_advantage", "rewards + discount * next_values - values", "rewards - values"),
    ("generalized_advantage", "discount * gae_lambda", "gae_lambda"),
    ("generalized_advantage", "discount * gae_lambda", "discount"),
    ("generalized_advantage", "[:, 1:]", "[:, :-1]"),
    ("generalized_advantage", "torch.zeros_like(values[:, :1])", "values[:, -1:]"),
    ("generalized_advantage", "_blank(values, _padding(mask, values.shape))", "values"),
    # (rewards need no blanking here: reward_to_go blanks the deltas, and a delta holds the reward
    # of its own token only)
    ("generalized_advantage", '_check_unit("gae_lambda", gae_lambda)', "pass"),
    ("generalized_advantage", '_check_unit("discount", discount)', "pass"),
    # PPO, TRPO
    ("ppo_policy_loss", "torch.minimum", "torch.maximum"),
    ("ppo_policy_loss", "torch.minimum(ratio * advantages, clipped * advantages)", "(clipped * advantages)"),
    ("ppo_policy_loss", "torch.minimum(ratio * advantages, clipped * advantages)", "(ratio * advantages)"),
    ("ppo_policy_loss", "1 - clip_range, 1 + clip_range", "1 + clip_range, 1 - clip_range"),
    ("ppo_policy_loss", "1 - clip_range, 1 + clip_range", "1 - clip_range, 1 + 2 * clip_range"),
    ("ppo_policy_loss", "1 - clip_range, 1 + clip_range", "1 / (1 + clip_range), 1 + clip_range"),
    ("ppo_policy_loss", "ratio.clamp(1 - clip_range, 1 + clip_range)", "ratio.clamp(max=1 + clip_range)"),
    # rewards with a KL penalty, groups, whitening, best of n
    ("kl_penalized_rewards", "- kl_weight", "+ kl_weight"),
    ("kl_penalized_rewards", "flip(1) == 1", "flip(1) >= 1"),
    ("kl_penalized_rewards", "real.flip(1).cumsum(dim=1).flip(1)", "real.cumsum(dim=1)"),
    ("kl_penalized_rewards", "kl_weight * kl, padding)", "kl_weight * kl, torch.zeros_like(padding))"),
    ("kl_penalized_rewards", "return _blank(torch.where(last, reward[:, None], 0)", "return _blank(reward[:, None]"),
    ("kl_penalized_rewards", '_check_like("reward", reward, "(batch,)", kl.shape[:1])', "pass"),
    ("_check_group", "< 2", "< 1"),
    ("_check_group", '_check_dims(name, tensor, "(prompts, samples)")', "pass"),
    ("leave_one_out_advantage", "k / (k - 1)", "1"),
    ("leave_one_out_advantage", "k / (k - 1)", "(k - 1) / k"),
    ("leave_one_out_advantage", "rewards - rewards.mean(dim=1, keepdim=True)", "rewards - rewards.mean()"),
    ("group_normalized_advantage", "rewards.std(dim=1, keepdim=True)", "rewards.std(dim=1, keepdim=True, correction=0)"),
    ("group_normalized_advantage", "rewards.std(dim=1, keepdim=True)", "rewards.std()"),
    ("group_normalized_advantage", ".masked_fill(_is_rounding(std, largest), 0)", ""),
    ("group_normalized_advantage", "rewards.abs().amax(dim=1, keepdim=True)", "rewards.abs().max()"),
    ("_is_rounding", "std <= (", "std < ("),
    ("_is_rounding", " * largest", ""),
    ("largest_ratio", " - _blank(old_log_probs, padding)", " + _blank(old_log_probs, padding)"),
    ("largest_ratio", "_blank(ratio, padding).max()", "ratio.max()"),
    ("group_normalized_advantage", "rewards - rewards.mean(dim=1, keepdim=True)", "rewards"),
    ("whiten", "variance.sqrt()", "variance"),
    ("whiten", "+ 1e-8", ""),
    ("_centred", "(~padding).sum().clamp(min=1)", "padding.numel()"),
    ("_centred", "(~padding).sum().clamp(min=1)", "(~padding).sum()"),
    ("_centred", "_blank(tensor - tensor.sum() / count, padding)", "tensor - tensor.sum() / count"),
    ("_centred", "tensor, count = _blank(tensor, padding),", "tensor, count = tensor,"),
    ("_centred", "centred.square()", "tensor.square()"),
    ("_centred", "centred.masked_fill(is_rounding, 0)", "centred"),
    ("_centred", "variance.masked_fill(is_rounding, 0)", "variance"),
    ("explained_variance", "variance.masked_fill(variance == 0, torch.nan)", "variance"),
    ("explained_variance", "return 1 -", "return"),
    ("explained_variance", "_centred(returns - values, padding)", "_centred(returns + values, padding)"),
    ("explained_variance", "_centred(returns, padding)", "_centred(values, padding)"),
    ("best_of_n_kl_bound", "- (n - 1) / n", ""),
    ("best_of_n_kl_bound", "- (n - 1) / n", "- (n - 1)"),
    ("best_of_n_kl_bound", "n < 1", "n < 0"),
    ("ppo_policy_loss", "return -torch", "return torch"),
    ("ppo_policy_loss", ".sum(dim=1).mean()", ".mean()"),
    ("ppo_policy_loss", ".sum(dim=1).mean()", ".sum() / mask.sum()"),
    ("ppo_policy_loss", "_check_clip_range(clip_range)", "pass"),
    ("ppo_value_loss", "torch.maximum", "torch.minimum"),
    ("ppo_value_loss", "0.5 * errors", "errors"),
    ("ppo_value_loss", ".sum(dim=1).mean()", ".mean()"),
    ("ppo_value_loss", ".sum(dim=1).mean()", ".sum() / mask.sum()"),
    ("ppo_value_loss", "old_values + (values - old_values)", "values + (values - old_values)"),
    ("ppo_value_loss", "(values - old_values).clamp(-clip_range, clip_range)", "(values - old_values).clamp(max=clip_range)"),
    ("ppo_value_loss", "(values - old_values).clamp(-clip_range, clip_range)", "(values - old_values)"),
    ("ppo_value_loss", "(values - old_values).clamp", "(old_values - values).clamp"),
    ("ppo_value_loss", "old_values.detach()", "old_values"),
    ("ppo_value_loss", "returns.detach()", "returns"),
    ("ppo_value_loss", "values = _blank(values, padding)", "pass"),
    ("ppo_value_loss", "_blank(old_values.detach(), padding)", "old_values.detach()"),
    ("ppo_value_loss", "_blank(returns.detach(), padding)", "returns.detach()"),
    ("ppo_value_loss", "_check_clip_range(clip_range)", "pass"),
    ("trpo_surrogate", "return -(", "return ("),
    ("trpo_surrogate", ".sum(dim=1).mean()", ".mean()"),
    ("trpo_surrogate", "ratio * advantages", "ratio.clamp(0.8, 1.2) * advantages"),
    ("trpo_surrogate", "ratio * advantages", "ratio.log() * advantages"),
    ("_ratio_and_advantages", "- _blank(old_log_probs.detach(), padding)", "+ _blank(old_log_probs.detach(), padding)"),
    ("_ratio_and_advantages", "old_log_probs.detach()", "old_log_probs"),
    ("_ratio_and_advantages", "advantages.detach()", "advantages"),
    ("_ratio_and_advantages", "log_ratio.exp()", "(-log_ratio).exp()"),
    ("_ratio_and_advantages", "log_ratio.exp()", "1 + log_ratio"),
    ("_ratio_and_advantages", "_blank(log_probs, padding)", "log_probs"),
    ("_ratio_and_advantages", "_blank(old_log_probs.detach(), padding)", "old_log_probs.detach()"),
    ("_ratio_and_advantages", "_blank(advantages.detach(), padding)", "advantages.detach()"),
    # E8 for ranked answers, E10, E12
    ("ranked_answers_loss", "ranks[:, :, None] < ranks[:, None, :]", "ranks[:, :, None] > ranks[:, None, :]"),
    ("ranked_answers_loss", "ranks[:, :, None] < ranks[:, None, :]", "ranks[:, :, None] <= ranks[:, None, :]"),
    ("ranked_answers_loss", "scores[:, :, None] - scores[:, None, :]", "scores[:, None, :] - scores[:, :, None]"),
    ("ranked_answers_loss", "scores[:, :, None] - scores[:, None, :]", "scores[:, :, None] + scores[:, None, :]"),
    ("ranked_answers_loss", "= -logsigmoid(gaps)", "= logsigmoid(gaps)"),
    ("ranked_answers_loss", ".masked_fill(~is_pair, 0)", ""),
    ("ranked_answers_loss", "losses / pairs.clamp(min=1)", "losses"),
    ("ranked_answers_loss", "losses / pairs.clamp(min=1)", "losses / pairs"),
    ("ranked_answers_loss", "(pairs > 0).sum().clamp(min=1)", "(pairs > 0).sum()"),
    ("ranked_answers_loss", "(pairs > 0).sum().clamp(min=1)", "len(pairs)"),
    ("ranked_answers_loss", '_check_group("scores", scores)', "pass"),
    ("ranked_answers_loss", '_check_like("ranks", ranks, "(prompts, answers)", scores.shape, integer=True)', "pass"),
    ("demonstration_loss", "return -sequence", "return sequence"),
    ("demonstration_loss", ".mean()", ".sum()"),
    ("demonstration_loss", "sequence_log_prob(token_log_probs, mask).mean()", "sequence_log_prob(token_log_probs, mask).sum() / mask.sum()"),
    ("demonstration_loss", "sequence_log_prob(token_log_probs, mask)", "token_log_probs.sum(dim=1)"),
    ("demonstration_loss", "sequence_log_prob(token_log_probs, mask)", "sequence_log_prob(token_log_probs, mask).exp()"),
    ("dpo_loss", "better - reference_better.detach()", "better"),
    ("dpo_loss", "better - reference_better.detach()", "better + reference_better.detach()"),
    ("dpo_loss", "worse - reference_worse.detach()", "worse"),
    ("dpo_loss", "worse - reference_worse.detach()", "worse + reference_worse.detach()"),
    ("dpo_loss", "worse - reference_worse.detach()", "reference_worse.detach() - worse"),
    ("dpo_loss", "reference_better.detach()", "reference_better"),
    ("dpo_loss", "reference_worse.detach()", "reference_worse"),
    ("dpo_loss", "kl_weight * (better", "(better"),
    ("dpo_loss", "kl_weight * (worse", "(worse"),
    ("dpo_loss", "not kl_weight > 0", "not kl_weight >= 0"),
    ("dpo_loss", "not kl_weight > 0", "kl_weight <= 0"),
    ("dpo_loss", '_check_like("worse", worse, "(batch,)", better.shape)', "pass"),
]  # fmt: skip

TARGETS = [
    Target("equations.py", STAGES, MUTANTS, options=("--noconftest",)),
    *(Target(*one) for one in LOOPS),
]


@lru_cache  # a source has dozens of mutants
def defined(source: str) -> dict[str, ast.stmt]:
    """Functions, methods ("Class.method") and constants of a module, by name."""
    found: dict[str, ast.stmt] = {}

    def visit(body: Sequence[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{node.name}.")
            elif isinstance(node, ast.FunctionDef):
                found[prefix + node.name] = node
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    if isinstance(target, ast.Name):
                        found[prefix + target.id] = node

    visit(ast.parse(source).body, "")
    return found


def mutate(source: str, function: str, old: str, new: str) -> str:
    """The source with the slip in one function. Raises ValueError unless `old` is there once."""
    node = defined(source).get(function)
    if node is None:
        raise ValueError(f"mutants.py: no function {function}")
    lines = source.splitlines(keepends=True)
    start, end = node.lineno - 1, node.end_lineno
    first, last = start, start  # the lines of the docstring, which stays
    if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
        first, last = node.body[0].lineno - 1, node.body[0].end_lineno
    parts = "".join(lines[start:first]), "".join(lines[last:end])
    count = sum(part.count(old) for part in parts)
    if count != 1:
        raise ValueError(f"mutants.py: {function}: expected {old!r} once, found it {count} times")
    before, after = (part.replace(old, new) for part in parts)
    changed = "".join([*lines[:start], before, *lines[first:last], after, *lines[end:]])
    compile(changed, function, "exec")
    return changed


def run_tests(folder: Path, shared: Path, arguments: Sequence[str]) -> None:
    """Run tests in this process, on the package in `folder`; exit with pytest's code."""
    import pytest

    with open(folder / "output", "ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.chdir(shared)
    sys.path[:] = [str(folder), *(path for path in sys.path if not same_folder(path, ROOT))]
    os.environ |= {"PYTHONPATH": str(folder), "PYTHONWARNINGS": "ignore"}
    sys.exit(pytest.main([*arguments, "-x", "-q", "-p", "no:cacheprovider", "-W", "ignore"]))


def same_folder(path: str, folder: Path) -> bool:
    return Path(path or ".").resolve() in (folder, folder / "tests")


def passes(target: Target, source: str, shared: Path) -> bool:
    """Whether the target's tests pass with this source as its module, in a copy of the package."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT / "minirlhf", folder / "minirlhf")
        (folder / "minirlhf" / target.module).write_text(source, encoding="utf-8")
        (folder / "data").symlink_to(ROOT / "data")
        for stage in target.stages:
            arguments = [*target.options, *(f"tests/{test}" for test in stage)]
            # Forked from a process that has imported PyTorch: a third of the time.
            process = multiprocessing.get_context("forkserver").Process(
                target=run_tests, args=(folder, shared, arguments)
            )
            process.start()
            process.join(SECONDS)
            if process.exitcode is None:
                process.kill()
                process.join()
                return False
            if process.exitcode == 1:
                return False
            if process.exitcode != 0:  # no test has failed: the tests did not run
                raise RuntimeError((folder / "output").read_text(errors="replace")[-4000:])
    return True


def check_complete() -> None:
    """Raise ValueError if a function of equations.py has no mutant."""
    source = (ROOT / "minirlhf" / "equations.py").read_text(encoding="utf-8")
    every = {name for name, node in defined(source).items() if isinstance(node, ast.FunctionDef)}
    if missing := every - {function for function, _, _ in MUTANTS}:
        raise ValueError(f"mutants.py: no mutant of {', '.join(sorted(missing))}")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="modules (equations.py) or functions; else all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args(arguments)
    check_complete()
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)

    killed = total = 0
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(options.jobs) as pool:
        shared = Path(name)
        shutil.copytree(ROOT / "tests", shared / "tests")
        shutil.copy(ROOT / "pyproject.toml", shared)
        for target in TARGETS:
            source = (ROOT / "minirlhf" / target.module).read_text(encoding="utf-8")
            wanted = {target.module, *(mutant[0] for mutant in target.mutants)}
            if options.names:
                wanted &= set(options.names)
            chosen = [m for m in target.mutants if target.module in wanted or m[0] in wanted]
            if not chosen:
                continue
            if not passes(target, source, shared):
                raise RuntimeError(f"{target.module}: its tests fail without any mutation")
            sources = [mutate(source, *mutant) for mutant in chosen]
            survivors = 0
            for (function, old, new), survived in zip(
                chosen, pool.map(lambda one: passes(target, one, shared), sources)
            ):
                survivors += survived
                print(
                    f"{'SURVIVED' if survived else 'killed  '} {target.module} {function}: "
                    f"{old!r} -> {new!r}",
                    flush=True,
                )
            print(f"{target.module}: {len(chosen) - survivors} of {len(chosen)} killed", flush=True)
            killed, total = killed + len(chosen) - survivors, total + len(chosen)
    if not total:
        raise ValueError(f"mutants.py: no mutant of {', '.join(options.names)}")
    print(f"{killed} of {total} mutants killed ({killed / total:.1%})")
    return 0 if killed >= NEEDED * total else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
