# Solutions to 08_real_people_real_scores.ipynb. Each part replaces the answer cell of its exercise.
# ruff: noqa: F821 (names of the notebook)

# %% exercise 1
fooling = "superb wonderful love brilliant perfect joy best happy"

# %% exercise 2
# The standard error of a mean of n ratings is sd / sqrt(n); the scale shrinks from 8 to 1.
standard_error = 1.2 / 20**0.5 / 8


# %% exercise 3
def leaked_topics(train: list[Triple], heldout: list[Triple]) -> set[str]:
    return {triple.topic for triple in train} & {triple.topic for triple in heldout}


# %% exercise 4
# VADER's score, less a price for each nat per word below plain English. Any such mixture can be fooled in its turn.
def both_judges(text: str) -> float:
    plain = reviews.fluency("it is a good film with a good story")
    return reviews.judge("", text) - 0.2 * max(0.0, plain - reviews.fluency(text))
