# Solutions to 09_your_own.ipynb. Each part replaces the answer cell of its exercise.
# ruff: noqa: F821 (names of the notebook)

# %% exercise 1
line = '{"topic": "Tea", "text": "Tea wakes people up more gently than coffee.", "score": 7}'

# %% exercise 2
# By topic: a split by text would put texts on one topic on both sides.
train, heldout = split_triples(read_triples(mine, score_range=(1, 10)), 0.2, seed=0, by="topic")


# %% exercise 3
# Likes texts with a number in them, and short ones.
def your_taste(text: str) -> int:
    return (
        1
        + 4 * any(character.isdigit() for character in text)
        + min(5, max(0, (30 - len(text.split())) // 4))
    )


# %% exercise 4
def gpt2_parameters(w: int, l: int, v: int, c: int) -> int:  # noqa: E741
    layer = (w * 3 * w + 3 * w) + (w * w + w) + (w * 4 * w + 4 * w) + (4 * w * w + w) + 2 * 2 * w
    return v * w + c * w + l * layer + 2 * w
