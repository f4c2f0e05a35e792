# Solutions to 05_finetuning.ipynb. Each part replaces the answer cell of its exercise.
# ruff: noqa: F821 (names of the notebook)

# %% exercise 1
objective = 0.70 - 0.03 * 4


# %% exercise 2
def my_interval(values: list[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = 1.96 * (variance / len(values)) ** 0.5
    return mean - half, mean + half


# %% exercise 3
fours = [drawn[start : start + 4] for start in range(0, len(drawn), 4)]
kept = [max(four, key=lambda row: row["reward"]) for four in fours]
best_of_four = sum(row["judge"] for row in kept) / len(kept)

# %% exercise 4
credits_ = "per-token", "reward-to-go", "prefix-difference", "sequence"
