# Solutions to 07_iterating_and_reward_hacking.ipynb. Each part replaces the answer cell of its exercise.
# ruff: noqa: F821 (names of the notebook)

# %% exercise 1
rows = curve_of(careless)
means = {
    rows[i]["step"]: statistics.fmean(row["judge"] for row in rows[max(0, i - 4) : i + 1])
    for i in range(min(4, len(rows) - 1), len(rows))
}
stop_at = max(means, key=means.get)


# %% exercise 2
def alarm(rows: list[dict], kl_limit: float) -> bool:
    return rows[-1]["kl_nats"] > kl_limit or rows[-1]["distinct"] < 0.5


# %% exercise 3
members = [0.9, 0.8, 0.9, 0.2, 0.7]
careful = statistics.fmean(members) - statistics.stdev(members)

# %% exercise 4
n = 1
while equations.best_of_n_kl_bound(n) < 4:
    n += 1
