# Solutions to 04_policy_gradient.ipynb. Each part replaces the answer cell of its exercise.
# ruff: noqa: F821 (names of the notebook)

# %% exercise 1
# J = p, so dJ/dtheta is the derivative of the sigmoid, p (1 - p). By E2: heads, with probability p, gives
# 1 * d log p / dtheta = 1 - p; tails gives 0 * anything. The mean is p (1 - p).
slope = 0.25 * (1 - 0.25)


# %% exercise 2
def my_reward_to_go(rewards: list[float]) -> list[float]:
    return [sum(rewards[t:]) for t in range(len(rewards))]


# %% exercise 3
# The second moment is sum_y p(y) (r(y) - b)^2 |g(y)|^2, with g(y) the gradient of log p(y); the mean does not depend on b.
# Its derivative in b is 0 at the mean of r weighted with p |g|^2.
scores_of_log_p = enumeration.per_text_gradients(
    world, logits, equations.reinforce_loss, torch.ones_like(final)
)
weight = by_product * scores_of_log_p.square().sum(dim=1)
best_baseline = ((weight * final).sum() / weight.sum()).item()


# %% exercise 4
# Only the score of the whole text is beyond doubt: E2, the same weight on every token. (Less variance: take away a baseline.)
def safe_weights(r: torch.Tensor, final: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return final[:, None].expand_as(r)


# %% exercise 5
# A discount makes the later terms of the sum small, so that a long tail of middling scores no longer outweighs an early
# full stop. At 0 only r_t is left, which is E5 as written: short-sighted again. About .2 to .7 work here; nothing says what
# works elsewhere, so it is better to choose an objective that means what we want: E[r(x, y)].
gamma = 0.5
