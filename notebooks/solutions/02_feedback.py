# Solutions to 02_feedback.ipynb. Each part replaces the answer cell of its exercise.
# ruff: noqa: F821 (names of the notebook)

# %% exercise 1
scaled = (1.5 - -4) / (4 - -4)


# %% exercise 2
def my_ceiling(t: float, e: float, k: int) -> float:
    return float(np.sqrt(t / (t + e / k)))


# %% exercise 3
# Both say "1" six times in ten: chance agreement is .6 * .6 + .4 * .4 = .52. They agree on 8 of 10.
kappa = (0.8 - 0.52) / (1 - 0.52)


# %% exercise 4
def my_comparisons(scores: list[float]) -> list[tuple[int, int]]:
    return [(i, j) for i in range(len(scores)) for j in range(len(scores)) if scores[i] > scores[j]]
