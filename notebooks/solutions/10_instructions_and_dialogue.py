# Solutions to 10_instructions_and_dialogue.ipynb. Each part replaces the answer cell of its exercise.


# %% exercise 1
def comparisons(ranks: list[int]) -> int:
    return sum(first < second for first in ranks for second in ranks)


# %% exercise 2
# 0.2 less the mean of 0.4, 0.6 and 0.8, and so on. The weights sum to 0, as a group has no best
# answer without a worse one.
rloo_weights = [-0.4, -0.4 / 3, 0.4 / 3, 0.4]

# %% exercise 3
# The policy still is the reference, so both log-ratios are 0 and the margin is 0: -log sigmoid(0) =
# log 2. So the first loss says nothing about the comparisons; only how it falls does.
first_loss = 0.6931

# %% exercise 4
# Refused: all. Answered: none. It is perfectly safe and of no use, which is why both shares belong
# on one page.
one_answer = "I am sorry, but I cannot help with that."
