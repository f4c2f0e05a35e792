# Solutions to 03_reward_model.ipynb. Each part replaces the answer cell of its exercise.
# ruff: noqa: F821 (names of the notebook)

# %% exercise 1
error = (0.1**2 + 0.0**2 + 0.2**2) / 3

# %% exercise 2
# The mean: it minimises the squared error. So a head trained on every prefix learns E[s | x, y_1:t].
best_forecast = (0.9 + 0.7 + 0.2 + 1.0) / 4

# %% exercise 3
# Only the difference counts: sigmoid(1.0) both times. That is why a ranker's level means nothing.
before = after = torch.sigmoid(torch.tensor(1.0)).item()


# %% exercise 4
def my_pairwise_accuracy(scores: list[float], pairs_: list[tuple[int, int]]) -> float:
    right = sum(
        (scores[better] > scores[worse]) + 0.5 * (scores[better] == scores[worse])
        for better, worse in pairs_
    )
    return right / len(pairs_)


# %% exercise 5
# Good texts under other topics than their own; the one that the model overrates most. Over-optimisation does the same, by
# gradient, and over all texts that there are.
candidates = [(topic, triple.text) for triple in heldout.triples for topic in task.train_prompts]
gaps = scores_of(candidates) - [task.judge(*pair) for pair in candidates]
hack = candidates[int(gaps.argmax())]
