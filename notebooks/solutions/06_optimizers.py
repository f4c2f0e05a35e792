# Solutions to 06_optimizers.ipynb. Each part replaces the answer cell of its exercise.

# %% exercise 1
# The ratio is 1.3; clipped to 1.2 the product is 2.4, less than 2.6. The clipped one is flat: no push.
objective, pushes = 2.4, False


# %% exercise 2
def my_leave_one_out(rewards: list[float]) -> list[float]:
    return [reward - (sum(rewards) - reward) / (len(rewards) - 1) for reward in rewards]


# %% exercise 3
def my_gae(
    rewards: list[float], values: list[float], discount: float, gae_lambda: float
) -> list[float]:
    advantages, running = [], 0.0
    following = values[1:] + [0.0]
    for reward, value, after in reversed(list(zip(rewards, values, following))):
        running = reward + discount * after - value + discount * gae_lambda * running
        advantages.append(running)
    return advantages[::-1]


# %% exercise 4
# Where the worst action is the habit, the step changes much more than the quadratic, taken at the old policy, foresees.
place_and_delta = [-2.0, -2.0], 0.3
