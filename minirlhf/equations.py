r"""Every formula of the article as one pure function (sections 3.2, 4.1, 4.2 and 4.3).

Conventions that hold everywhere in this file:

- x is a prompt, y = (y_1 .. y_T) the generated text, p_theta the policy (策略), r_phi the reward
  model.
- Tensors are aligned with the response: column 0 belongs to y_1, the first generated token.
- `mask` is (batch, time), bool or float: 1 on real tokens, 0 on padding (float: any non-zero counts
  as 1). Texts may have different lengths. What stands at padded positions never changes a value or
  a gradient, even if it is NaN or inf.
- Losses are to be minimised: minus the objective. Weights (rewards, advantages) are detached
  inside.
- Policy losses take the *sum* over the tokens of a text, then the *mean* over texts. The mean over
  a text's own tokens would be the gradient of something else
  (tests/equations/test_exact_policy_gradient.py shows of what).
- Log-probabilities, entropies and KL divergences (KL 散度) are in nats. Any floating dtype will do.
- Every function raises ValueError (one line: argument, expected, got) for a wrong shape or dtype.
  The checks look only at shapes and dtypes, so they never wait for a GPU.
- Functions stand in the order of their equations, E1 to E12; the checks and shared parts come last.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


# E1: the objective --------------------------------------------------------------------------------


def expected_reward(rewards: Tensor) -> Tensor:
    r"""The objective, estimated by the mean over N sampled texts. E1, section 4.1.

    $$J(\theta) = \mathbb{E}_{x \sim D,\, y \sim p_\theta(y \mid x)}[r_\phi(x, y)]
    \approx \frac1N \sum_{i=1}^{N} r_\phi(x_i, y_i)$$

    rewards: (batch,), one reward per text. Returns a scalar, in the unit of the reward.
    """
    _check_dims("rewards", rewards, "(batch,)")
    return rewards.mean()


# E2: the policy gradient (策略梯度) with one reward per text --------------------------------------


def reinforce_loss(
    token_log_probs: Tensor, reward: Tensor, mask: Tensor, baseline: float | Tensor | None = None
) -> Tensor:
    r"""REINFORCE with one reward for the whole text. E2, section 4.1 (Williams, 1992).

    $$L = -\frac1N \sum_{i=1}^{N} (r_\phi(x_i, y_i) - b_i) \log p_\theta(y_i \mid x_i),
    \qquad \mathbb{E}[-\nabla L] = \nabla_\theta J$$

    The mean stays exact for any baseline b that does not depend on y. The batch mean does depend on
    it, a little: it shrinks the expected gradient by the factor (N - 1) / N.

    token_log_probs, mask: (batch, time). reward: (batch,). baseline: None, a number, or a tensor ()
    or (batch,). Returns a scalar loss. Gradient flows into token_log_probs only.
    """
    log_prob = sequence_log_prob(token_log_probs, mask)  # (batch,)
    _check_like("reward", reward, "(batch,)", log_prob.shape)
    if baseline is not None:
        if isinstance(baseline, Tensor) and baseline.dim() > 0:
            _check_like("baseline", baseline, "(batch,)", log_prob.shape)
        reward = reward - baseline
    return -(reward.detach() * log_prob).mean()


# E3: the probability of a text --------------------------------------------------------------------


def token_log_probs(logits: Tensor, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Log-probability of each generated token, the factors of the product. E3, section 4.2.

    $$\log p_\theta(y_t \mid x, y_{<t})$$

    logits: (batch, time, vocab); column t holds the prediction *of* token t, made from x and y_<t.
    tokens: (batch, time), integers. mask: (batch, time), optional; give it when padded logits may
    hold NaN or padded tokens may be no valid id. Returns (batch, time), nats, 0 at padded
    positions.
    """
    _check_dims("logits", logits, "(batch, time, vocab)")
    _check_like("tokens", tokens, "(batch, time)", logits.shape[:-1], integer=True)
    padding = None if mask is None else _padding(mask, tokens.shape)
    log_probs = _blank_logits(logits, padding).log_softmax(dim=-1)  # (batch, time, vocab)
    index = _blank(tokens, padding).long()[..., None]  # (batch, time, 1)
    chosen = log_probs.gather(-1, index).squeeze(-1)  # (batch, time)
    return _blank(chosen, padding)


def sequence_log_prob(token_log_probs: Tensor, mask: Tensor) -> Tensor:
    r"""Log-probability of a whole text. E3, section 4.2.

    $$\log p_\theta(y \mid x) = \sum_{t=1}^{T} \log p_\theta(y_t \mid x, y_{<t})$$

    token_log_probs, mask: (batch, time). Returns (batch,), nats.
    """
    _check_dims("token_log_probs", token_log_probs, "(batch, time)")
    return _blank(token_log_probs, _padding(mask, token_log_probs.shape)).sum(dim=1)


# E4: a reward for every token ---------------------------------------------------------------------


def cumulative_reward(rewards: Tensor, mask: Tensor) -> Tensor:
    r"""The sum of the rewards of all prefixes. E4, section 4.2.

    $$R = \sum_{t=1}^{T} r_t, \qquad r_t = r_\phi(x, y_{1:t})$$

    With r_t in (0, 1) this pays for length: a longer text collects more terms.

    rewards, mask: (batch, time). Returns (batch,).
    """
    _check_dims("rewards", rewards, "(batch, time)")
    return _blank(rewards, _padding(mask, rewards.shape)).sum(dim=1)


def reward_to_go(rewards: Tensor, mask: Tensor, discount: float = 1.0) -> Tensor:
    r"""All reward from token t on: the weight that makes E5 unbiased for E[R]. E4, section 4.2.

    $$G_t = \sum_{k=t}^{T} \gamma^{\,k-t} r_k$$

    rewards, mask: (batch, time). discount: gamma in [0, 1]. Returns (batch, time), 0 at padded
    positions. A reward that is not finite spoils its whole row.
    """
    _check_dims("rewards", rewards, "(batch, time)")
    _check_unit("discount", discount)
    padding = _padding(mask, rewards.shape)
    # The sum over k as one product with the matrix gamma^(k-t), which is 0 for k before t. Its
    # powers need at least float32.
    dtype = torch.promote_types(rewards.dtype, torch.float32)
    column = torch.arange(rewards.shape[1], device=rewards.device, dtype=dtype)
    ahead = column[:, None] - column  # (k, t): k - t
    weights = torch.where(ahead >= 0, discount ** ahead.clamp(min=0), 0).to(rewards.dtype)
    with torch.autocast(rewards.device.type, enabled=False):
        return _blank(_blank(rewards, padding) @ weights, padding)


def prefix_difference(rewards: Tensor, mask: Tensor, initial: float | Tensor = 0.0) -> Tensor:
    r"""What token t added to the score of the text so far. Section 4.2; r_t as in E4.

    $$r_t - r_{t-1}, \qquad r_0 = \text{initial}$$

    If r_t is the expected final score given y_{1:t}, then r_t is an action value Q(s_t, y_t),
    r_{t-1} is the value V(s_t) of the state before it, and the difference is an advantage with no
    second network.

    rewards, mask: (batch, time). initial: the score of the prompt alone, a number or (batch,); it
    shifts only the weight of the first token, so it changes the variance and not the mean. Returns
    (batch, time), 0 at padded positions.
    """
    _check_dims("rewards", rewards, "(batch, time)")
    padding = _padding(mask, rewards.shape)
    rewards = _blank(rewards, padding)
    if isinstance(initial, Tensor):
        _check_like("initial", initial, "(batch,)", rewards.shape[:1])
        first = initial[:, None].to(rewards)
    else:
        first = rewards.new_full((rewards.shape[0], 1), initial)
    previous = torch.cat([first, rewards], dim=1)[:, :-1]  # (batch, time): column t holds r_{t-1}
    return _blank(rewards - previous, padding)


# E5, E6: the policy gradient with one weight per token --------------------------------------------


def per_token_reinforce_loss(token_log_probs: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    r"""REINFORCE with a weight for each token. E5 and, as a mean over N samples, E6; section 4.2.

    $$L = -\frac1N \sum_{i=1}^{N} \sum_{t=1}^{T_i}
    w_t^{(i)} \log p_\theta(y_t^{(i)} \mid x^{(i)}, y_{<t}^{(i)})$$

    The weight decides what is optimized: w_t = r_t is E5 as written, `reward_to_go` gives the
    gradient of E[R], `prefix_difference` or `generalized_advantage` an advantage (优势).

    token_log_probs, weights, mask: (batch, time). Returns a scalar loss.
    Gradient flows into token_log_probs only.
    """
    _check_dims("token_log_probs", token_log_probs, "(batch, time)")
    _check_like("weights", weights, "(batch, time)", token_log_probs.shape)
    padding = _padding(mask, token_log_probs.shape)
    terms = _blank(weights.detach(), padding) * _blank(token_log_probs, padding)  # (batch, time)
    return -terms.sum(dim=1).mean()


# E7, E8: losses of the reward model ---------------------------------------------------------------


def mse_reward_loss(predicted: Tensor, score: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Regression loss (回归损失) of the reward model. E7, section 4.3.

    $$L(\phi) = \frac1N \sum_{i=1}^{N} (r_\phi(x_i, y_i) - s_i)^2$$

    predicted: (batch,), one prediction per text; or (batch, time) with a mask, one prediction per
    prefix, each with the final score of its text as the target. Then N counts all real prefixes,
    each with the same weight, so that the best prediction at a prefix is the mean score of the
    texts that continue it. score: (batch,), in [0, 1]. Returns a scalar loss, in squared units of
    the score.
    """
    if mask is None:
        _check_dims("predicted", predicted, "(batch,)")
        _check_like("score", score, "(batch,)", predicted.shape)
        return (predicted - score.detach()).square().mean()
    _check_dims("predicted", predicted, "(batch, time)")
    _check_like("score", score, "(batch,)", predicted.shape[:1])
    padding = _padding(mask, predicted.shape)
    errors = _blank(predicted - score.detach()[:, None], padding)  # (batch, time)
    return errors.square().sum() / (~padding).sum().clamp(min=1)


def ranking_loss(better: Tensor, worse: Tensor) -> Tensor:
    r"""Ranking loss (排序损失) of the reward model. E8, section 3.2 (Bradley and Terry, 1952).

    $$L(\phi) = -\frac1N \sum_{i=1}^{N}
    \log \sigma\big(f_\phi(x_i, y_i^{+}) - f_\phi(x_i, y_i^{-})\big)$$

    better, worse: (batch,), real-valued scores f, *before* the sigmoid of the head; only their
    difference counts. Returns a scalar loss, nats per comparison.
    """
    _check_dims("better", better, "(batch,)")
    _check_like("worse", worse, "(batch,)", better.shape)
    return -logsigmoid(better - worse).mean()


def ranked_answers_loss(scores: Tensor, ranks: Tensor) -> Tensor:
    r"""Ranking loss over all pairs of K ranked answers at once. E8, section 3.2.

    $$L(\phi) = -\frac1N \sum_{i=1}^{N} \frac{1}{|P_i|} \sum_{(j, k) \in P_i}
    \log \sigma\big(f_\phi(x_i, y_{ij}) - f_\phi(x_i, y_{ik})\big), \qquad
    P_i = \{(j, k): y_{ij} \text{ ranks before } y_{ik}\}$$

    Equation 1 of InstructGPT (Ouyang et al., 2022), where |P_i| = K (K - 1) / 2; with ties it is
    less. The pairs of a prompt share their scores, so one pass over K answers serves all of them.

    scores: (prompts, answers), real-valued, before the sigmoid. ranks: the same shape, integers, 1
    is best; equal ranks are a tie, which makes no pair. Prompts whose answers are all tied do not
    count in N. Returns a scalar loss, nats per comparison; 0 if there is no pair at all.
    """
    _check_group("scores", scores)
    _check_like("ranks", ranks, "(prompts, answers)", scores.shape, integer=True)
    is_pair = ranks[:, :, None] < ranks[:, None, :]  # (prompts, better, worse)
    gaps = scores[:, :, None] - scores[:, None, :]
    losses = -logsigmoid(gaps).masked_fill(~is_pair, 0).sum(dim=(1, 2))  # (prompts,)
    pairs = is_pair.sum(dim=(1, 2))
    return (losses / pairs.clamp(min=1)).sum() / (pairs > 0).sum().clamp(min=1)


# E9: KL divergence to a reference policy, entropy -------------------------------------------------


def kl_k1(log_probs: Tensor, reference_log_probs: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""KL estimator k1, from one sampled token. E9, section 3.2 (Schulman, 2020).

    $$k_1 = \log p - \log q, \qquad \mathbb{E}_{y \sim p}[k_1] = \mathrm{KL}(p \,\|\, q)$$

    Unbiased; a single value may be negative. Its sum over a text has the KL of whole texts as its
    mean. A reward penalty, not a loss: E[grad k1] is 0.

    log_probs (policy p, which sampled), reference_log_probs (q), mask (optional): (batch, time).
    Returns (batch, time), nats.
    """
    return _log_ratio(log_probs, reference_log_probs, mask)


def kl_k2(log_probs: Tensor, reference_log_probs: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""KL estimator k2, from one sampled token. E9, section 3.2 (Schulman, 2020).

    $$k_2 = \tfrac12 (\log p - \log q)^2$$

    Biased (its mean agrees with the KL to second order in p - q), never negative. As a loss on
    sampled tokens its mean gradient is the gradient of the KL of each visited state. Shapes as in
    `kl_k1`.
    """
    return 0.5 * _log_ratio(log_probs, reference_log_probs, mask).square()


def kl_k3(log_probs: Tensor, reference_log_probs: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""KL estimator k3, from one sampled token. E9, section 3.2 (Schulman, 2020).

    $$k_3 = \frac{q}{p} - 1 - \log \frac{q}{p}, \qquad
    \mathbb{E}_{y \sim p}[k_3] = \mathrm{KL}(p \,\|\, q)$$

    Unbiased and never negative. As a loss its mean gradient is that of the *reverse* KL(q || p) of
    each visited state. Shapes as in `kl_k1`.
    """
    log_ratio = -_log_ratio(log_probs, reference_log_probs, mask)  # log q - log p
    return torch.expm1(log_ratio) - log_ratio  # expm1 keeps the digits where p is close to q


def exact_token_kl(logits: Tensor, reference_logits: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""KL between the two next-token distributions, summed over the vocabulary. E9, section 3.2.

    $$\mathrm{KL}_t = \sum_{v} p(v \mid x, y_{<t})
    \log \frac{p(v \mid x, y_{<t})}{q(v \mid x, y_{<t})}$$

    logits (p), reference_logits (q): (batch, time, vocab); a logit of -inf is a token of
    probability 0. mask: (batch, time), optional. Returns (batch, time), nats, 0 at padded
    positions.
    """
    _check_dims("logits", logits, "(batch, time, vocab)")
    _check_like("reference_logits", reference_logits, "(batch, time, vocab)", logits.shape)
    padding = None if mask is None else _padding(mask, logits.shape[:-1])
    log_p = _blank_logits(logits, padding).log_softmax(dim=-1)  # (batch, time, vocab)
    log_q = _blank_logits(reference_logits, padding).log_softmax(dim=-1)
    log_ratio = (log_p - log_q).masked_fill(log_p == -torch.inf, 0)  # 0 log 0 = 0
    return (log_p.exp() * log_ratio).sum(dim=-1)


def mean_sequence_kl(logits: Tensor, reference_logits: Tensor, mask: Tensor) -> Tensor:
    r"""KL of whole texts, sampled from p: TRPO's bound. E9, section 3.2 (Schulman et al., 2015).

    $$\bar D = \frac1N \sum_{i=1}^{N} \sum_{t=1}^{T_i} \mathrm{KL}_t^{(i)}, \qquad
    \mathbb{E}[\bar D] = \mathrm{KL}(p \,\|\, q)$$

    TRPO keeps the step inside KL(old || new) <= delta: give the old policy's logits first (it
    sampled), the new second. The Hessian of this at new = old is the Fisher matrix.

    logits, reference_logits: (batch, time, vocab). mask: (batch, time). Returns a scalar, nats per
    text.
    """
    _check_dims("logits", logits, "(batch, time, vocab)")
    return exact_token_kl(logits, reference_logits, mask).sum(dim=1).mean()


def entropy(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Entropy of the next-token distribution; for entropy bonuses and for the curves of a run.

    $$H_t = -\sum_{v} p(v \mid x, y_{<t}) \log p(v \mid x, y_{<t})$$

    logits: (batch, time, vocab); a logit of -inf is a token of probability 0. mask: (batch, time),
    optional. Returns (batch, time), nats, 0 at padded positions.
    """
    _check_dims("logits", logits, "(batch, time, vocab)")
    padding = None if mask is None else _padding(mask, logits.shape[:-1])
    log_p = _blank_logits(logits, padding).log_softmax(dim=-1)  # (batch, time, vocab)
    return _blank(-(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0)).sum(dim=-1), padding)


# E9: advantages (优势) ----------------------------------------------------------------------------


def generalized_advantage(
    rewards: Tensor, values: Tensor, mask: Tensor, discount: float, gae_lambda: float
) -> Tensor:
    r"""Generalized advantage estimation (GAE). E9, section 3.2 (Schulman et al., 2016).

    $$\hat A_t = \sum_{k=t}^{T} (\gamma\lambda)^{k-t} \delta_k, \qquad
    \delta_t = r_t + \gamma V(s_{t+1}) - V(s_t), \qquad V(s_{T+1}) = 0$$

    A text ends with its last token, so nothing is bootstrapped after it. The targets of the value
    function are returns = advantages + values. lambda = 1 gives reward-to-go minus value; lambda =
    0 gives delta.

    rewards, values, mask: (batch, time); values[:, t] = V(s_t) is the value of the state *before*
    token t. discount, gae_lambda: numbers in [0, 1]. Returns advantages (batch, time), 0 at padded
    positions.
    """
    _check_dims("rewards", rewards, "(batch, time)")
    _check_like("values", values, "(batch, time)", rewards.shape)
    _check_unit("discount", discount)
    _check_unit("gae_lambda", gae_lambda)
    values = _blank(values, _padding(mask, values.shape))  # so that V = 0 after the last token
    extended = torch.cat([values, torch.zeros_like(values[:, :1])], dim=1)  # (batch, time + 1)
    next_values = extended[:, 1:]  # (batch, time): V(s_{t+1})
    deltas = rewards + discount * next_values - values
    return reward_to_go(deltas, mask, discount * gae_lambda)


def kl_penalized_rewards(reward: Tensor, kl: Tensor, mask: Tensor, kl_weight: float) -> Tensor:
    r"""Each token's reward: minus its KL, plus the text's reward on the last. E9, section 3.2.

    $$\tilde r_t = [t = T]\, r_\phi(x, y) - \beta\, k_{1,t}, \qquad
    \mathbb{E}\Big[\sum_t \tilde r_t\Big] = J(\theta) - \beta\, \mathrm{KL}(p_\theta \,\|\, q)$$

    The form of PPO for language models (Ziegler et al., 2019; Ouyang et al., 2022). A text without
    a token has no last one and gets nothing.

    reward: (batch,). kl: k1 of each token, mask: (batch, time). kl_weight: beta, reward units per
    nat. Returns (batch, time), 0 at padded positions.
    """
    _check_dims("reward", reward, "(batch,)")
    _check_dims("kl", kl, "(batch, time)")
    _check_like("reward", reward, "(batch,)", kl.shape[:1])
    padding = _padding(mask, kl.shape)
    real = (~padding).long()
    last = real.flip(1).cumsum(dim=1).flip(1) == 1  # no real token comes after
    return _blank(torch.where(last, reward[:, None], 0) - kl_weight * kl, padding)


def leave_one_out_advantage(rewards: Tensor) -> Tensor:
    r"""REINFORCE leave-one-out (RLOO): the prompt's other texts are the baseline. E9, section 3.2.

    $$\hat A_i = r_i - \frac1{k-1} \sum_{j \ne i} r_j$$

    The other texts do not depend on y_i, so the gradient stays exact (Kool et al., 2019; Ahmadian
    et al., 2024).

    rewards: (prompts, samples), k samples of one prompt in a row, k >= 2. Returns (prompts,
    samples).
    """
    _check_group("rewards", rewards)
    k = rewards.shape[1]
    return (rewards - rewards.mean(dim=1, keepdim=True)) * (k / (k - 1))


def group_normalized_advantage(rewards: Tensor) -> Tensor:
    r"""Advantages of GRPO: standard scores within one prompt's texts. E9, section 3.2.

    $$\hat A_i = \frac{r_i - \bar r}{s}, \qquad s^2 = \frac1{k-1} \sum_j (r_j - \bar r)^2$$

    Shao et al., 2024. No longer the gradient of J: each prompt is weighed by about 1 / s. With k =
    2 only the *order* of the two rewards is left. Texts that all got one reward get 0, also if
    their rewards differ in the last digits.

    rewards: (prompts, samples), k samples of one prompt in a row, k >= 2. Returns (prompts,
    samples).
    """
    _check_group("rewards", rewards)
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    std = rewards.std(dim=1, keepdim=True)
    largest = rewards.abs().amax(dim=1, keepdim=True)  # (prompts, 1)
    return (centred / std).masked_fill(_is_rounding(std, largest), 0)


def whiten(advantages: Tensor, mask: Tensor) -> Tensor:
    r"""Advantages with mean 0 and standard deviation 1 over the batch's tokens. E9, section 3.2.

    $$\frac{\hat A_t - \mu}{\sigma + 10^{-8}}$$

    Customary in PPO. Subtracting the mean is a baseline; dividing makes the step size independent
    of the unit of the reward. Advantages that are all equal become 0, also if they differ in the
    last digits.

    advantages, mask: (batch, time). Returns (batch, time), 0 at padded positions.
    """
    _check_dims("advantages", advantages, "(batch, time)")
    centred, variance = _centred(advantages, _padding(mask, advantages.shape))
    return centred / (variance.sqrt() + 1e-8)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    r"""Fraction of the return variance explained by the value function; a diagnostic of PPO. E9.

    $$1 - \frac{\mathrm{Var}(\hat R_t - V_t)}{\mathrm{Var}(\hat R_t)}$$

    1: all of it; 0: no more than a constant; below 0: worse than a constant. NaN if all returns are
    equal but for rounding: there is nothing to explain.

    values, returns, mask: (batch, time). Returns a scalar.
    """
    _check_dims("values", values, "(batch, time)")
    _check_like("returns", returns, "(batch, time)", values.shape)
    padding = _padding(mask, values.shape)
    variance = _centred(returns, padding)[1]
    variance = variance.masked_fill(variance == 0, torch.nan)
    return 1 - _centred(returns - values, padding)[1] / variance


# E9: PPO, TRPO, best of n -------------------------------------------------------------------------


def ppo_policy_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, clip_range: float
) -> Tensor:
    r"""Clipped surrogate loss of PPO. E9, section 3.2 (Schulman et al., 2017, equation 7).

    $$L = -\frac1N \sum_i \sum_t
    \min\big(\rho_t \hat A_t,\ \mathrm{clip}(\rho_t, 1-\epsilon, 1+\epsilon)\, \hat A_t\big),
    \qquad \rho_t = \frac{p_\theta(y_t \mid x, y_{<t})}{p_\text{old}(y_t \mid x, y_{<t})}$$

    Sum over tokens, mean over texts: at ratio 1 the gradient is exactly that of
    `per_token_reinforce_loss`.

    log_probs, old_log_probs, advantages, mask: (batch, time). clip_range: epsilon > 0.
    Returns a scalar loss. Gradient flows into log_probs only.
    """
    _check_clip_range(clip_range)
    ratio, advantages = _ratio_and_advantages(log_probs, old_log_probs, advantages, mask)
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return -torch.minimum(ratio * advantages, clipped * advantages).sum(dim=1).mean()


def largest_ratio(log_probs: Tensor, old_log_probs: Tensor, mask: Tensor) -> Tensor:
    r"""How far the policy has moved at most, on the sampled tokens; 1 before it moves. E9.

    $$\max_{i,t} \rho_t, \qquad
    \rho_t = \frac{p_\theta(y_t \mid x, y_{<t})}{p_\text{old}(y_t \mid x, y_{<t})}$$

    log_probs, old_log_probs, mask: (batch, time). Returns a scalar; 0 if there is no token.
    """
    _check_dims("log_probs", log_probs, "(batch, time)")
    _check_like("old_log_probs", old_log_probs, "(batch, time)", log_probs.shape)
    padding = _padding(mask, log_probs.shape)
    ratio = (_blank(log_probs, padding) - _blank(old_log_probs, padding)).exp()
    return _blank(ratio, padding).max()


def ppo_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip_range: float
) -> Tensor:
    r"""Clipped loss of the value function, as PPO implementations use it. E9, section 3.2.

    $$L = \frac1N \sum_i \sum_t \tfrac12 \max\big((V_t - \hat R_t)^2,\
    (V_t^\text{clip} - \hat R_t)^2\big), \qquad
    V_t^\text{clip} = V_t^\text{old} + \mathrm{clip}(V_t - V_t^\text{old}, -\epsilon, \epsilon)$$

    Not in the paper. values, old_values, returns, mask: (batch, time); returns = advantages + old
    values. clip_range: epsilon > 0, in units of the value; math.inf turns the clip off. Sum over
    tokens, mean over texts. Returns a scalar loss. Gradient flows into values only.
    """
    _check_dims("values", values, "(batch, time)")
    _check_like("old_values", old_values, "(batch, time)", values.shape)
    _check_like("returns", returns, "(batch, time)", values.shape)
    _check_clip_range(clip_range)
    padding = _padding(mask, values.shape)
    values = _blank(values, padding)
    old_values, returns = _blank(old_values.detach(), padding), _blank(returns.detach(), padding)
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    # The larger of the two errors, (batch, time).
    errors = torch.maximum((values - returns).square(), (clipped - returns).square())
    return 0.5 * errors.sum(dim=1).mean()


def trpo_surrogate(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor
) -> Tensor:
    r"""Importance-sampled surrogate loss of TRPO. E9, section 3.2.

    $$L = -\frac1N \sum_i \sum_t \rho_t \hat A_t, \qquad
    \rho_t = \frac{p_\theta(y_t \mid x, y_{<t})}{p_\text{old}(y_t \mid x, y_{<t})}$$

    Schulman et al., 2015, equation 14. To be minimised under the bound of `mean_sequence_kl`. Sum
    over tokens, mean over texts: at ratio 1 the gradient is exactly that of
    `per_token_reinforce_loss`.

    log_probs, old_log_probs, advantages, mask: (batch, time).
    Returns a scalar loss. Gradient flows into log_probs only.
    """
    ratio, advantages = _ratio_and_advantages(log_probs, old_log_probs, advantages, mask)
    return -(ratio * advantages).sum(dim=1).mean()


def best_of_n_kl_bound(n: int) -> float:
    r"""Upper bound of the KL to the policy of its best of n samples, by any score. E9, section 3.2.

    $$\mathrm{KL}(p_{\text{best of } n} \,\|\, p) \le \log n - \frac{n-1}{n}$$

    Reached where no two texts have the same score and each single text is improbable (Stiennon et
    al., 2020; Beirami et al., 2024, prove that it is a bound). n: at least 1. Returns nats per
    text.
    """
    if n < 1:
        raise ValueError(f"n: expected at least 1, got {n}")
    return math.log(n) - (n - 1) / n


# E10: supervised fine-tuning; E12: learning from comparisons without a reward model ---------------


def demonstration_loss(token_log_probs: Tensor, mask: Tensor) -> Tensor:
    r"""Supervised fine-tuning (监督微调) on demonstrations. E10, sections 1.2 and 2.

    $$L = -\frac1N \sum_{i=1}^{N} \sum_{t=1}^{T_i} \log p_\theta(y_{it} \mid x_i, y_{i,<t})$$

    The sum runs over the tokens of the answer alone: the prompt is read, not learned.

    token_log_probs, mask: (batch, time), aligned with the answer. Returns a scalar loss, nats per
    text.
    """
    return -sequence_log_prob(token_log_probs, mask).mean()


def dpo_loss(
    better: Tensor,
    worse: Tensor,
    reference_better: Tensor,
    reference_worse: Tensor,
    kl_weight: float,
) -> Tensor:
    r"""Direct preference optimisation (DPO). E12, section 2 (Rafailov et al., 2023, equation 7).

    $$L = -\frac1N \sum_{i=1}^{N} \log \sigma\Big(
    \beta \log \frac{p_\theta(y_i^{+} \mid x_i)}{p_\text{ref}(y_i^{+} \mid x_i)}
    - \beta \log \frac{p_\theta(y_i^{-} \mid x_i)}{p_\text{ref}(y_i^{-} \mid x_i)}\Big)$$

    It is E8 with the implicit reward beta log(p_theta / p_ref), and it is least where p_theta is
    the maximum of E[r] - beta KL(p_theta || p_ref) for the reward r that explains the comparisons.

    All tensors: (batch,), log-probabilities of whole answers, nats. kl_weight: beta > 0, in reward
    units per nat. Returns a scalar loss, nats per comparison. Gradient flows into `better` and
    `worse` only.
    """
    _check_dims("better", better, "(batch,)")
    _check_like("worse", worse, "(batch,)", better.shape)
    _check_like("reference_better", reference_better, "(batch,)", better.shape)
    _check_like("reference_worse", reference_worse, "(batch,)", worse.shape)
    if not kl_weight > 0:
        raise ValueError(f"kl_weight: expected a number above 0, got {kl_weight}")
    return ranking_loss(
        kl_weight * (better - reference_better.detach()),
        kl_weight * (worse - reference_worse.detach()),
    )


# Private: shared parts ----------------------------------------------------------------------------


def _log_ratio(log_probs: Tensor, reference_log_probs: Tensor, mask: Tensor | None) -> Tensor:
    """log p - log q, (batch, time), 0 at padded positions."""
    _check_dims("log_probs", log_probs, "(batch, time)")
    _check_like("reference_log_probs", reference_log_probs, "(batch, time)", log_probs.shape)
    padding = None if mask is None else _padding(mask, log_probs.shape)
    return _blank(log_probs, padding) - _blank(reference_log_probs, padding)


def _ratio_and_advantages(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Ratio new/old and detached advantages, both (batch, time); 1 and 0 at padded positions."""
    _check_dims("log_probs", log_probs, "(batch, time)")
    _check_like("old_log_probs", old_log_probs, "(batch, time)", log_probs.shape)
    _check_like("advantages", advantages, "(batch, time)", log_probs.shape)
    padding = _padding(mask, log_probs.shape)
    log_ratio = _blank(log_probs, padding) - _blank(old_log_probs.detach(), padding)
    return log_ratio.exp(), _blank(advantages.detach(), padding)


def _centred(tensor: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
    """The tensor minus its mean over real tokens, 0 at padded positions; its variance, a scalar.

    Both are 0 if the real tokens differ by no more than rounding.
    """
    tensor, count = _blank(tensor, padding), (~padding).sum().clamp(min=1)
    centred = _blank(tensor - tensor.sum() / count, padding)
    variance = centred.square().sum() / count
    if tensor.numel() == 0:
        return centred, variance
    is_rounding = _is_rounding(variance.sqrt(), tensor.abs().max())
    return centred.masked_fill(is_rounding, 0), variance.masked_fill(is_rounding, 0)


def _is_rounding(std: Tensor, largest: Tensor) -> Tensor:
    """Whether a standard deviation is no more than rounding; `largest`: of the absolute values.

    The mean of equal numbers is off by the rounding of its own dtype, and by that of the sum, which
    is made in at least float32: found to be up to 5 units for 100,000 numbers. A std that small is
    no spread, and to divide by it would make noise of size 1. False for NaN.
    """
    summed = torch.promote_types(std.dtype, torch.float32)
    return std <= (torch.finfo(std.dtype).eps + 8 * torch.finfo(summed).eps) * largest


def _blank(tensor: Tensor, padding: Tensor | None) -> Tensor:
    """Zeros at padded positions; before any arithmetic, since NaN * 0 is NaN, backward too."""
    return tensor if padding is None else tensor.masked_fill(padding, 0)


def _blank_logits(logits: Tensor, padding: Tensor | None) -> Tensor:
    return logits if padding is None else logits.masked_fill(padding[..., None], 0)


def _padding(mask: Tensor, shape: torch.Size) -> Tensor:
    """True where there is no token. Raises ValueError unless `mask` has `shape` and a fit dtype."""
    if not isinstance(mask, Tensor):
        raise ValueError(
            f"mask: expected a tensor of shape (batch, time), got {type(mask).__name__}"
        )
    if mask.shape != shape:
        raise ValueError(
            f"mask: expected shape (batch, time) = {tuple(shape)}, got {tuple(mask.shape)}"
        )
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise ValueError(f"mask: expected a bool or floating dtype, got {mask.dtype}")
    return mask == 0


# Private: checks ----------------------------------------------------------------------------------


def _check_dims(name: str, tensor: Tensor, words: str, integer: bool = False) -> None:
    """Raise ValueError unless `tensor` is a float (or integer) tensor, one axis per shape word."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name}: expected a tensor of shape {words}, got {type(tensor).__name__}")
    if tensor.dim() != len(words.strip("(),").split(",")):
        raise ValueError(f"{name}: expected shape {words}, got {tuple(tensor.shape)}")
    if not (tensor.dtype in _INTEGERS if integer else tensor.is_floating_point()):
        kind = "an integer" if integer else "a floating"
        raise ValueError(f"{name}: expected {kind} dtype, got {tensor.dtype}")


def _check_like(
    name: str, tensor: Tensor, words: str, shape: torch.Size, integer: bool = False
) -> None:
    """Raise ValueError unless `tensor` has the dtype kind wanted and exactly `shape`."""
    _check_dims(name, tensor, words, integer)
    if tensor.shape != shape:
        raise ValueError(
            f"{name}: expected shape {words} = {tuple(shape)}, got {tuple(tensor.shape)}"
        )


def _check_unit(name: str, number: float) -> None:
    if not 0 <= number <= 1:
        raise ValueError(f"{name}: expected a number in [0, 1], got {number}")


def _check_group(name: str, tensor: Tensor) -> None:
    _check_dims(name, tensor, "(prompts, samples)")
    if tensor.shape[1] < 2:
        raise ValueError(f"{name}: expected at least 2 samples per prompt, got {tensor.shape[1]}")


def _check_clip_range(clip_range: float) -> None:
    if not clip_range > 0:
        raise ValueError(f"clip_range: expected a number above 0, got {clip_range}")
