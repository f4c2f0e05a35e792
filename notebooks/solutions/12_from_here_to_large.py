# Solutions to 12_from_here_to_large.ipynb. Each part replaces the answer cell of its exercise.
# ruff: noqa: F821 (names of the notebook)

# %% exercise 1
# 2 (keys and values) * 96 layers * 12,288 numbers * 65,536 tokens * 2 bytes: 309 GB, nearly as much
# as the weights themselves (350 GB).
cache_in_gb = 2 * 96 * 12_288 * (32 * 2048) * 2 / 1e9


# %% exercise 2
def least_gpus(n: float, gpu_bytes: float) -> int:
    return math.ceil(16 * n / (gpu_bytes * 2 / 3))


# %% exercise 3
# Less than a day. Most of the field's papers at this size can be repeated on one rented GPU.
days = 6 * 124e6 * 9e9 / (0.4 * h200["matrix_product_flops"]) / 86_400

# %% exercise 4
# 1.96 * sqrt(.25 / n) = .02, so n = (1.96 * .5 / .02)^2 = 2,401.
least_comparisons = 2401
