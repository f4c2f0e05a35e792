# Solutions to 11_prompt_tuning_and_flan.ipynb. Each part replaces the answer cell of its exercise.


# %% exercise 1
def share_of(length: int, width: int, weights: int) -> float:
    return length * width / weights


# %% exercise 2
# 192 columns, of which the vectors take 20.
room = 172

# %% exercise 3
# The vectors say "in French" more loudly than the question says "in Chinese": most answers come in
# the wrong language.
swapped = score(french, ["chinese"])  # noqa: F821

# %% exercise 4
means = [statistics.fmean(column) for column in by_count]  # noqa: F821
one, eight, fourteen = (means[counts.index(count)] for count in (1, 8, 14))  # noqa: F821
per_kind = (eight - one) / 7, (fourteen - eight) / 6
