# Solutions to 01_language_model_as_policy.ipynb. Each part replaces the answer cell of its exercise.
# ruff: noqa: F821 (names of the notebook)

# %% exercise 1
# The logarithm of a product is the sum of the logarithms: -1.8 nats.
probability = math.exp(-0.5 - 1.2 - 0.1)


# %% exercise 2
def my_softmax(logits: list[float], temperature: float) -> list[float]:
    largest = max(logits)
    powers = [math.exp((logit - largest) / temperature) for logit in logits]
    return [power / sum(powers) for power in powers]


# %% exercise 3
# A uniform choice among n tokens has the loss log n, so n = exp(loss).
perplexity = math.exp(heldout_loss(policy, EncodedTexts(tokenizer, task.corpus_heldout, 96)))


# %% exercise 4
def my_mask(time: int) -> torch.Tensor:
    return torch.ones(time, time, dtype=torch.bool).tril()


# %% exercise 5
def my_draw(probs: list[float], u: float) -> int:
    total = 0.0
    for index, prob in enumerate(probs):
        total += prob
        if total > u:
            return index
    return len(probs) - 1  # rounding may leave the sum a little under 1
