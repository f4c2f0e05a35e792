# Solutions to 00_start_here.ipynb. Each part replaces the answer cell of its exercise.
# ruff: noqa: F821 (names of the notebook)

# %% exercise 1
rise = summary["train"]["judge_after"]["mean"] - summary["train"]["judge_before"]["mean"]


# %% exercise 2
def clearly_higher(before: dict, after: dict) -> bool:
    return after["low"] > before["high"]


# %% exercise 3
def is_hacked(
    reward_before: float, reward_after: float, judge_before: float, judge_after: float
) -> bool:
    return reward_after > reward_before and judge_after < judge_before
