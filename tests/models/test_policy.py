"""The policy: teacher-forced log-probabilities, sampling, and the two against each other.

What the sampler does is compared with loops written here, without cache, batch or padding.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from minirlhf.models import sampling
from minirlhf.models.cuda_graph import CHECK_EVERY
from minirlhf.models.next_token import SamplingOptions, next_token
from minirlhf.models.policy import Policy, gather_text, gather_unpadded
from minirlhf.models.sampling import Samples, sample
from minirlhf.models.transformer import KeyValueCache, TransformerConfig

END = 2
GREEDY = SamplingOptions(temperature=0)
GREEDY_SEED = 5  # under these weights the greedy texts end at many different steps, and some never
PROMPTS = [[5], [1, 0, 3, 4, 5, 6, 7], [9, 8, 10], [4, 4, 10, 3, 6], [7, 7], [3]]
needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device on this machine"
)


def randomise(module: nn.Module, seed: int = 0, std: float = 0.25) -> nn.Module:
    """Give every weight a value far from its start (norm scales around 1), so that no parameter is
    idle."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in module.named_parameters():
        with torch.no_grad():
            weight.copy_(
                torch.randn(weight.shape, generator=generator) * std
                + float(name.endswith("norm.weight"))
            )
    return module.eval()


def policy_of(seed: int = 0, **sizes) -> Policy:
    sizes = {
        "vocab_size": 11,
        "context": 32,
        "width": 32,
        "layers": 2,
        "heads": 4,
        "tie_embeddings": False,
    } | sizes
    return randomise(Policy(TransformerConfig(**sizes)), seed)


def seeded(seed: int, device: str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def rows_of(
    prompts: list[list[int]], texts: list[list[int]], filler: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompt and text back to back, padded behind with `filler` (batch, columns); the prompts'
    lengths."""
    rows = [prompt + text for prompt, text in zip(prompts, texts)]
    longest = max(map(len, rows))
    padded = torch.tensor([row + [filler] * (longest - len(row)) for row in rows])
    return padded, torch.tensor([len(prompt) for prompt in prompts])


@torch.no_grad()
def greedy_without_cache(policy: Policy, prompt: list[int], max_new_tokens: int) -> list[int]:
    row = list(prompt)
    while len(row) < len(prompt) + max_new_tokens:
        row.append(int(policy(torch.tensor([row]))[0, -1].argmax()))
        if row[-1] == END:
            break
    return row[len(prompt) :]


@torch.no_grad()
def log_probs_without_batch(policy: Policy, prompt: list[int], text: list[int]) -> list[float]:
    """log p(y_t | x, y_<t), each token by a pass of its own over the prefix before it."""
    found = []
    for t, token in enumerate(text):
        logits = policy(torch.tensor([prompt + text[:t]]))[0, -1].double()
        found.append(float(logits[token] - logits.logsumexp(0)))
    return found


def check_shape_of(samples: Samples, max_new_tokens: int) -> None:
    """What holds for all samples: the mask is a prefix, nothing stands behind it, END only ends a
    text."""
    batch, time = samples.tokens.shape
    assert samples.mask.shape == samples.log_probs.shape == (
        batch,
        time,
    ) and samples.ended.shape == (batch,)
    assert (
        samples.mask.dtype == samples.ended.dtype == torch.bool
        and samples.tokens.dtype == torch.long
    )
    assert 1 <= time <= max_new_tokens
    lengths = samples.mask.sum(1).tolist()
    assert max(lengths) == time  # no column that nobody uses
    for row, length in enumerate(lengths):
        text = samples.tokens[row, :length].tolist()
        assert samples.mask[row].tolist() == [True] * length + [False] * (time - length)
        assert samples.tokens[row, length:].tolist() == [0] * (time - length)
        assert samples.log_probs[row, length:].tolist() == [0.0] * (time - length)
        assert END not in text[:-1]
        assert bool(samples.ended[row]) == (text[-1] == END)
        assert bool(samples.ended[row]) or length == max_new_tokens
        assert samples.ids()[row] == text


# The network --------------------------------------------------------------------------------------


def test_tying_the_embeddings():
    tied, untied = policy_of(tie_embeddings=True), policy_of(tie_embeddings=False)
    assert tied.head.weight is tied.body.token_embedding.weight
    assert untied.head.weight is not untied.body.token_embedding.weight
    assert (
        sum(w.numel() for w in untied.parameters()) - sum(w.numel() for w in tied.parameters())
        == 11 * 32
    )


@pytest.mark.parametrize("tied", [True, False])
def test_fresh_policy_is_nearly_uniform(tied):
    torch.manual_seed(0)
    fresh = Policy(TransformerConfig(200, 16, 64, 2, 4, tie_embeddings=tied))
    tokens = torch.randint(200, (8, 16), generator=seeded(0))
    loss = nn.functional.cross_entropy(
        fresh(tokens)[:, :-1].reshape(-1, 200), tokens[:, 1:].reshape(-1)
    )
    assert loss.item() == pytest.approx(math.log(200), abs=0.1)


def test_text_log_probs_equal_token_by_token_passes():
    policy = policy_of()
    texts = [[3, 4, 2], [0, 1, 10, 9, 8, 2], [2], [5, 5, 5, 5, 5, 5, 5], [1, 2], [10, 9]]
    rows, lengths = rows_of(PROMPTS, texts)
    time = max(map(len, texts))
    tokens = torch.tensor([text + [0] * (time - len(text)) for text in texts])
    found = policy.text_log_probs(rows, lengths, tokens)
    assert found.shape == tokens.shape and policy.text_logits(rows, lengths, time).shape == (
        *tokens.shape,
        11,
    )
    for row, (prompt, text) in enumerate(zip(PROMPTS, texts)):
        assert found[row, : len(text)].tolist() == pytest.approx(
            log_probs_without_batch(policy, prompt, text), abs=1e-5
        )
    # What stands in the padding does not count, however much of it there is.
    other, _ = rows_of(PROMPTS, texts, filler=8)
    longer = nn.functional.pad(other, (0, 5), value=9)
    for changed in (other, longer):
        again = policy.text_log_probs(changed, lengths, tokens)
        for row, text in enumerate(texts):
            torch.testing.assert_close(
                again[row, : len(text)], found[row, : len(text)], atol=1e-5, rtol=0
            )


def test_text_log_probs_sum_to_one_over_all_texts():
    """E3: p(y | x) over all 11 x 11 texts of two tokens adds up to 1."""
    policy = policy_of()
    texts = [list(pair) for pair in itertools.product(range(11), repeat=2)]
    rows, lengths = rows_of([PROMPTS[3]] * len(texts), texts)
    total = (
        policy.text_log_probs(rows, lengths, torch.tensor(texts)).sum(1).double().exp().sum().item()
    )
    assert total == pytest.approx(1, abs=1e-5)


def test_gather_unpadded_takes_what_gather_text_takes_under_the_mask():
    hidden, first = (
        torch.randn(3, 7, 2, generator=seeded(0), requires_grad=True),
        torch.tensor([1, 3, 0]),
    )
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
    found, expected = gather_unpadded(hidden, first, mask), gather_text(hidden, first, 4)[mask]
    assert torch.equal(found, expected)
    weights = torch.randn(7, 2, generator=seeded(1))
    gradients = [
        torch.autograd.grad((tensor * weights).sum(), hidden)[0] for tensor in (found, expected)
    ]
    assert torch.equal(*gradients)


def test_gather_text_takes_each_row_from_its_own_column():
    hidden = torch.arange(2 * 5).view(2, 5, 1).expand(2, 5, 3)
    found = gather_text(hidden, torch.tensor([1, 3]), 3)
    assert found.shape == (2, 3, 3)
    assert found[:, :, 0].tolist() == [
        [1, 2, 3],
        [8, 9, 9],
    ]  # row 1 has no column 5: the last one repeats


def test_frozen_copy_never_learns_and_shares_nothing():
    policy = policy_of(tie_embeddings=True)
    reference = policy.frozen_copy()
    assert (
        not any(weight.requires_grad for weight in reference.parameters())
        and not reference.training
    )
    assert all(weight.requires_grad for weight in policy.parameters())
    assert {w.data_ptr() for w in policy.parameters()}.isdisjoint(
        w.data_ptr() for w in reference.parameters()
    )
    assert reference.head.weight is reference.body.token_embedding.weight
    tokens = torch.tensor([[1, 3, 5]])
    before = reference(tokens)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.1)
    assert torch.equal(reference(tokens), before) and not torch.equal(policy(tokens), before)


# Sampling against teacher forcing and against loops without cache ---------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_sampled_log_probs_equal_teacher_forced(tied):
    policy = policy_of(tie_embeddings=tied)
    prompts = PROMPTS * 8
    samples = sample(policy, prompts, 12, END, randomness=seeded(0))
    check_shape_of(samples, 12)
    lengths = samples.mask.sum(1)
    assert lengths.min() <= 3 and lengths.max() == 12  # some ended early, some were cut off
    assert samples.ended.any() and not samples.ended.all()
    rows, prompt_lengths = rows_of(prompts, samples.ids())
    forced = policy.text_log_probs(rows, prompt_lengths, samples.tokens)
    torch.testing.assert_close(
        samples.log_probs[samples.mask], forced[samples.mask], atol=1e-4, rtol=0
    )


def test_samples_can_take_part_in_a_loss():
    policy = policy_of()
    samples = sample(policy, PROMPTS, 6, END, randomness=seeded(0))
    rows, lengths = rows_of(PROMPTS, samples.ids())
    log_probs = policy.text_log_probs(rows, lengths, samples.tokens)
    ((log_probs - samples.log_probs).exp() * samples.mask).sum().backward()
    assert all(
        weight.grad.isfinite().all() and weight.grad.abs().max() > 0
        for weight in policy.parameters()
    )


def test_sampled_texts_have_their_exact_probabilities():
    """All texts of up to three tokens over a vocabulary of 4: frequencies within 5 standard errors
    of E3."""
    policy, draws, prompt = policy_of(vocab_size=4, width=8, layers=1, heads=2), 20_000, [1, 3]
    texts = [
        list(text)
        for length in (1, 2, 3)
        for text in itertools.product(range(4), repeat=length)
        if END not in text[:-1] and (text[-1] == END or length == 3)
    ]
    rows, lengths = rows_of([prompt] * len(texts), texts)
    tokens = torch.tensor([text + [0] * (3 - len(text)) for text in texts])
    mask = torch.arange(3) < torch.tensor([[len(text)] for text in texts])
    exact = (policy.text_log_probs(rows, lengths, tokens) * mask).sum(1).double().exp().tolist()
    assert sum(exact) == pytest.approx(1, abs=1e-5)
    found = sample(policy, [prompt] * draws, 3, END, randomness=seeded(5)).ids()
    assert len(texts) == 1 + 3 + 9 * 4
    for text, p in zip(texts, exact):
        assert abs(found.count(text) / draws - p) <= 5 * math.sqrt(p * (1 - p) / draws), text


@pytest.mark.parametrize(
    "check_every, equal_prompts", [(1, False), (3, False), (1, True), (8, True)]
)
def test_greedy_with_cache_equals_greedy_without(monkeypatch, check_every, equal_prompts):
    """Also when rows leave the batch while others go on: a text does not depend on its company, on
    padding (without it there is no mask at all) or on how seldom the sampler looks for ended
    texts."""
    monkeypatch.setitem(CHECK_EVERY, "cpu", check_every)
    dropped = []
    keep_rows = KeyValueCache.keep_rows
    monkeypatch.setattr(
        KeyValueCache,
        "keep_rows",
        lambda cache, rows: (
            dropped.append(cache.valid.shape[0] - len(rows)),
            keep_rows(cache, rows),
        )[1],
    )
    policy = policy_of(seed=GREEDY_SEED)
    prompts = [
        [a, b, 3] if a % 2 or equal_prompts else [b]
        for a in range(11)
        for b in range(11)
        if END not in (a, b)
    ]
    alone = [greedy_without_cache(policy, prompt, 16) for prompt in prompts]
    lengths = {len(text) for text in alone}
    assert len(lengths) >= 4 and any(
        text[-1] != END for text in alone
    )  # they end at many different steps
    batch = sample(policy, prompts, 16, END, GREEDY)
    check_shape_of(batch, 16)
    assert batch.ids() == alone
    assert len(dropped) >= (2 if check_every < 8 else 1) and all(
        count > 0 for count in dropped
    )  # rows left the batch
    assert batch.log_probs.abs().max() == 0
    for prompt, text in list(zip(prompts, alone))[::9]:
        assert sample(policy, [prompt], 16, END, GREEDY).ids() == [text]
    assert sample(policy, prompts[::-1], 16, END, GREEDY).ids() == alone[::-1]


def test_top_k_of_one_equals_greedy():
    policy = policy_of(seed=GREEDY_SEED)
    greedy = sample(policy, PROMPTS, 12, END, GREEDY)
    only_one = sample(policy, PROMPTS, 12, END, SamplingOptions(top_k=1), seeded(0))
    tiny_mass = sample(policy, PROMPTS, 12, END, SamplingOptions(top_p=1e-6), seeded(1))
    for samples in (only_one, tiny_mass):
        assert samples.ids() == greedy.ids()
        assert samples.log_probs.abs().max() == 0


def test_log_probs_are_those_of_the_cut_distribution():
    policy = policy_of()
    samples = sample(policy, PROMPTS, 8, END, SamplingOptions(0.7, 5, 0.9), seeded(0))
    for prompt, text, found in zip(PROMPTS, samples.ids(), samples.log_probs.tolist()):
        for t, token in enumerate(text):
            with torch.no_grad():
                logits = policy(torch.tensor([prompt + text[:t]]))[0, -1].tolist()
            assert math.exp(found[t]) == pytest.approx(
                exact_distribution(logits, 0.7, 5, 0.9)[token], abs=1e-4
            )


# How a text ends ----------------------------------------------------------------------------------


def policy_that_ends(bonus: float) -> Policy:
    """A policy whose end token has about `bonus` more nats of logit than the others."""
    policy = policy_of()
    with torch.no_grad():
        policy.head.weight.mul_(0.1)
        policy.body.final_norm.bias[0] = (
            1.0  # a hidden unit that is near 1, read by the end token alone
        )
        policy.body.final_norm.weight[0] = 0.0
        policy.head.weight[:, 0] = 0.0
        policy.head.weight[END, 0] = bonus
    return policy


def count_steps(policy: Policy, monkeypatch) -> list[int]:
    """The batch size of each pass through the body."""
    sizes, forward = [], policy.body.forward
    monkeypatch.setattr(
        policy.body, "forward", lambda *args: (sizes.append(len(args[0])), forward(*args))[1]
    )
    return sizes


def test_sampling_stops_when_all_have_ended(monkeypatch):
    policy = policy_that_ends(bonus=4)
    steps = count_steps(policy, monkeypatch)
    samples = sample(policy, PROMPTS * 8, 20, END, randomness=seeded(3))
    check_shape_of(samples, 20)
    assert samples.ended.all() and 2 <= samples.tokens.shape[1] < 20
    assert (
        len(steps) == samples.tokens.shape[1]
    )  # the prompt gives token 1, each further pass one more
    assert steps[0] == 8 * len(PROMPTS) and steps[-1] < 8 * len(
        PROMPTS
    )  # rows that ended stopped costing time


def test_every_row_ends_at_once(monkeypatch):
    policy = policy_that_ends(bonus=60)
    steps = count_steps(policy, monkeypatch)
    samples = sample(policy, PROMPTS, 20, END, randomness=seeded(0))
    assert (
        samples.tokens.tolist() == [[END]] * len(PROMPTS)
        and samples.ended.all()
        and len(steps) == 1
    )


def test_no_row_ends(monkeypatch):
    policy = policy_that_ends(bonus=-60)
    steps = count_steps(policy, monkeypatch)
    samples = sample(policy, PROMPTS, 20, END, randomness=seeded(0))
    assert samples.mask.all() and samples.tokens.shape == (6, 20) and not samples.ended.any()
    assert steps == [6] * 20


def test_end_token_in_the_last_column_counts_as_ended():
    policy = policy_that_ends(bonus=2)
    samples = sample(policy, [[5]] * 200, 2, END, randomness=seeded(0))
    check_shape_of(samples, 2)
    in_last = samples.mask[:, 1] & (samples.tokens[:, 1] == END)
    assert in_last.any() and samples.ended[in_last].all() and not samples.ended.all()
    one = sample(policy, [[5]] * 200, 1, END, randomness=seeded(0))
    check_shape_of(one, 1)
    assert (
        torch.equal(one.ended, one.tokens[:, 0] == END) and one.ended.any() and not one.ended.all()
    )


def test_end_token_may_be_token_0_and_stand_in_a_prompt():
    policy = policy_of()
    samples = sample(policy, [[0, 3], [5]] * 20, 6, 0, randomness=seeded(0))
    for row, text in enumerate(samples.ids()):
        assert 0 not in text[:-1] and bool(samples.ended[row]) == (text[-1] == 0)
    assert samples.ended.any() and not samples.ended.all()


# Randomness ---------------------------------------------------------------------------------------


def test_same_seed_same_texts():
    policy = policy_of()
    first, again, other = (
        sample(policy, PROMPTS, 12, END, randomness=seeded(s)) for s in (7, 7, 8)
    )
    assert torch.equal(first.tokens, again.tokens) and torch.equal(first.log_probs, again.log_probs)
    assert torch.equal(first.mask, again.mask) and torch.equal(first.ended, again.ended)
    assert first.ids() != other.ids()


def test_a_generator_leaves_the_global_seed_alone():
    policy = policy_of()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    sample(policy, PROMPTS, 4, END, randomness=seeded(0))
    assert torch.equal(torch.get_rng_state(), before)
    sample(policy, PROMPTS, 4, END)
    assert not torch.equal(torch.get_rng_state(), before)


def test_rows_of_the_same_prompt_differ():
    samples = sample(policy_of(), [PROMPTS[1]] * 32, 1, END, randomness=seeded(0))
    assert len(set(samples.tokens[:, 0].tolist())) > 1


def test_sampling_builds_no_graph_and_keeps_the_mode():
    policy = policy_of().train()
    samples = sample(policy, PROMPTS, 3, END, randomness=seeded(0))
    assert not samples.log_probs.requires_grad and policy.training
    assert policy(torch.tensor([[1, 3]])).requires_grad


# next_token ---------------------------------------------------------------------------------------


LOGITS = [1.3, -0.4, 0.0, 2.1, -3.0, 0.7, 1.9, -1.2]


def exact_distribution(logits, temperature=1.0, top_k=None, top_p=None) -> list[float]:
    """Temperature, then the k likeliest, then the smallest set of these whose mass reaches p."""
    weights = [math.exp((logit - max(logits)) / temperature) for logit in logits]
    order = sorted(range(len(logits)), key=lambda token: -weights[token])[:top_k]
    if top_p is not None:
        total, mass, kept = sum(weights[token] for token in order), 0.0, []
        for token in order:
            if mass / total >= top_p:
                break
            kept.append(token)
            mass += weights[token]
        order = kept
    total = sum(weights[token] for token in order)
    return [weights[token] / total if token in order else 0.0 for token in range(len(logits))]


@pytest.mark.parametrize(
    "temperature, top_k, top_p, support",
    [
        (1.0, None, None, 8),
        (0.5, None, None, 8),
        (2.0, None, None, 8),
        (0.05, None, None, 8),
        (1.0, 3, None, 3),
        (1.0, 8, None, 8),
        (1.0, 100, None, 8),
        (0.7, 1, None, 1),
        (1.0, None, 0.7, 3),
        (1.0, None, 0.95, 5),
        (1.0, None, 1.0, 8),
        (1.0, None, 0.01, 1),
        (2.0, 5, 0.8, 4),
        (0.5, 4, 0.9, 3),
        (1.0, 2, 0.99, 2),
    ],
)
def test_draw_frequencies(temperature, top_k, top_p, support):
    """200,000 draws: each share within 5 standard errors, chi-square within 5 of its standard
    deviations."""
    exact = exact_distribution(LOGITS, temperature, top_k, top_p)
    assert sum(p > 0 for p in exact) == support
    draws = 200_000
    logits = torch.tensor([LOGITS]).expand(draws, -1)
    tokens, log_probs = next_token(logits, SamplingOptions(temperature, top_k, top_p), seeded(11))
    assert tokens.shape == log_probs.shape == (draws,)
    counts = torch.bincount(tokens, minlength=8).tolist()
    chi_square, freedom = 0.0, -1
    for token, (count, p) in enumerate(zip(counts, exact)):
        if p == 0:
            assert count == 0
            continue
        assert abs(count / draws - p) <= 5 * math.sqrt(p * (1 - p) / draws) + 1e-12, token
        if count:
            drawn_with = log_probs[tokens == token]
            torch.testing.assert_close(
                drawn_with, torch.full_like(drawn_with, math.log(p)), atol=1e-5, rtol=0
            )
        if p * draws >= 5:  # where the normal approximation holds
            chi_square, freedom = chi_square + (count - p * draws) ** 2 / (p * draws), freedom + 1
    if freedom > 0:
        assert chi_square <= freedom + 5 * math.sqrt(2 * freedom) + 5


def test_draw_over_a_large_vocabulary():
    """2048 tokens in 64 groups: the cumulated mass in float32 must not lean to one end."""
    logits = torch.randn(2048, generator=seeded(1)) * 2
    exact = logits.double().softmax(0).view(64, 32).sum(1)
    draws, generator, counts = 40_000, seeded(2), torch.zeros(2048)
    for _ in range(20):
        counts += torch.bincount(
            next_token(logits.expand(draws // 20, -1), SamplingOptions(), generator)[0],
            minlength=2048,
        )
    found = counts.view(64, 32).sum(1).double()
    chi_square = ((found - exact * draws) ** 2 / (exact * draws)).sum().item()
    assert chi_square <= 63 + 5 * math.sqrt(2 * 63)


def test_each_row_draws_its_own_number():
    """Two rows of one batch agree as often as two independent draws: sum of p^2, within 5 standard
    errors."""
    pairs = 100_000
    tokens, _ = next_token(
        torch.tensor([LOGITS]).expand(2 * pairs, -1), SamplingOptions(), seeded(3)
    )
    share = (tokens[0::2] == tokens[1::2]).double().mean().item()
    p = sum(q * q for q in exact_distribution(LOGITS))
    assert abs(share - p) <= 5 * math.sqrt(p * (1 - p) / pairs)


def test_draw_at_the_edges_of_the_unit_interval():
    """Never a token of probability 0: not the first at 0, not the last just below 1."""
    logits = torch.tensor([[-torch.inf, 0.0, 0.0]])
    for uniform, wanted in ((0.0, 1), (0.5, 2)):  # at .5 the mass of token 1 is used up
        token, _ = next_token(logits, SamplingOptions(), torch.tensor([uniform]))
        assert token.item() == wanted
    almost_one = torch.nextafter(torch.ones(1), torch.zeros(1))
    for size in range(1000, 30_000, 1000):  # the mass of many tokens adds up to nearly 1
        logits = torch.zeros(1, size)
        logits[0, -1] = -torch.inf
        token, log_prob = next_token(logits, SamplingOptions(), almost_one)
        assert token.item() < size - 1 and log_prob.isfinite()


def test_each_token_is_drawn_by_the_number_of_its_row_and_step():
    policy, steps = policy_of(), 6
    uniform = torch.rand(len(PROMPTS), steps, generator=seeded(4))
    samples = sample(policy, PROMPTS, steps, END, SamplingOptions(), uniform)
    for row, (prompt, ids) in enumerate(zip(PROMPTS, samples.ids(), strict=True)):
        for step, drawn in enumerate(ids):
            with torch.no_grad():
                logits = policy(torch.tensor([prompt + ids[:step]]))[:, -1]
            wanted, _ = next_token(logits, SamplingOptions(), uniform[row : row + 1, step])
            assert wanted.item() == drawn


def test_prompts_of_unequal_length_are_sampled_in_groups(monkeypatch):
    """The same texts in the same places, whatever goes together."""
    policy, steps = policy_of(context=48), 9
    prompts = [[row % 11] * (30 if row % 4 == 2 else 3) for row in range(12)]
    uniform = torch.rand(12, steps, generator=seeded(3))
    whole = sample(policy, prompts, steps, END, randomness=uniform)
    assert len(set(whole.mask.sum(1).tolist())) > 1 and 0 < whole.ended.sum() < 12

    monkeypatch.setattr(sampling, "TOGETHER", 3)
    caches = []

    def decode(policy, cache, *arguments, **keywords):
        caches.append(tuple(cache.valid.shape))
        return _decode(policy, cache, *arguments, **keywords)

    _decode = sampling._decode
    monkeypatch.setattr(sampling, "_decode", decode)
    grouped = sample(policy, prompts, steps, END, randomness=uniform)
    assert caches == [(3, 3 + steps)] * 3 + [(3, 30 + steps)]
    for name in ("tokens", "mask", "ended"):
        assert torch.equal(getattr(grouped, name), getattr(whole, name)), name
    torch.testing.assert_close(grouped.log_probs, whole.log_probs, atol=1e-5, rtol=0)

    caches.clear()
    sample(policy, [prompt[:8] for prompt in prompts], steps, END, randomness=uniform)
    assert caches == [(12, 8 + steps)]  # a few columns less are not worth it


def test_a_token_at_the_very_edge_of_top_p_is_cut():
    """Halves and quarters are exact: with top_p .5 only the first token is left."""
    logits = torch.tensor([[2.0, 1.0, 1.0]]).log()
    assert logits.softmax(-1)[0, 0] == 0.5
    for uniform in (0.0, 0.6, 0.99):
        token, _ = next_token(logits, SamplingOptions(top_p=0.5), torch.tensor([uniform]))
        assert token.item() == 0


def test_draw_takes_each_row_by_its_own_logits():
    logits = torch.full((5, 5), -40.0).fill_diagonal_(40.0)
    for options in [(1.0, None, None), (1.0, 2, 0.5), (0.0, None, None)]:
        tokens, log_probs = next_token(logits, SamplingOptions(*options), seeded(0))
        assert tokens.tolist() == [0, 1, 2, 3, 4] and log_probs.abs().max() <= 1e-6


@pytest.mark.parametrize("top_k, top_p", [(3, None), (None, 0.5), (4, 0.9)])
def test_draw_never_takes_what_was_cut(top_k, top_p):
    """100,000 draws over 512 tokens: no token outside the cut, no log-probability of minus
    infinity."""
    logits = torch.randn(512, generator=seeded(1)) * 3
    allowed = torch.tensor(exact_distribution(logits.tolist(), 1.0, top_k, top_p)) > 0
    generator = seeded(4)
    for _ in range(10):
        tokens, log_probs = next_token(
            logits.expand(10_000, -1), SamplingOptions(1.0, top_k, top_p), generator
        )
        assert allowed[tokens].all() and log_probs.isfinite().all()


# Bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, message",
    [
        ({"prompts": []}, "prompts: expected at least one prompt"),
        (
            {"prompts": [[1], []]},
            "prompts: expected at least one prompt, each of at least one token",
        ),
        ({"max_new_tokens": 0}, "max_new_tokens: expected at least 1, found 0"),
        ({"max_new_tokens": 32}, r"prompt \(1 tokens\) and text \(32\) exceed context=32"),
        ({"prompts": [[1], [1] * 28]}, r"prompt \(28 tokens\) and text \(5\) exceed context=32"),
        ({"temperature": -0.1}, "temperature: expected 0 or more, found -0.1"),
        ({"top_k": 0}, "top_k: expected at least 1, found 0"),
        ({"top_p": 0.0}, r"top_p: expected a number in \(0, 1\], found 0.0"),
        ({"top_p": 1.1}, r"top_p: expected a number in \(0, 1\], found 1.1"),
        ({"top_p": math.nan}, "top_p: expected"),
        ({"temperature": math.nan}, "temperature: expected 0 or more, found nan"),
    ],
)
def test_bad_sampling_options(change, message):
    arguments = {"prompts": [[1]], "max_new_tokens": 5} | change
    prompts, max_new_tokens = arguments.pop("prompts"), arguments.pop("max_new_tokens")
    with pytest.raises(ValueError, match=message) as caught:
        sample(policy_of(), prompts, max_new_tokens, END, SamplingOptions(**arguments))
    assert "\n" not in str(caught.value)


def test_prompt_and_text_may_fill_the_context():
    policy = policy_that_ends(bonus=-60)
    assert sample(policy, [[1]], 31, END, randomness=seeded(0)).tokens.shape == (1, 31)


# bf16 and CUDA ------------------------------------------------------------------------------------


def bf16_gap(device: str) -> tuple[float, float]:
    """Mean and largest gap (nats) between log-probs of sampled tokens under bf16 autocast and in
    float32.

    On CUDA sampling is in bf16; a CPU samples in float32, so there it is the pass that learns from
    them that rounds."""
    policy = policy_of(width=64, layers=4).to(device)
    prompts = PROMPTS * 16
    with torch.autocast(device, dtype=torch.bfloat16):
        samples = sample(policy, prompts, 16, END, randomness=seeded(0, device))
    assert samples.log_probs.dtype == torch.float32
    rows, lengths = (tensor.to(device) for tensor in rows_of(prompts, samples.ids()))
    with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cpu"):
        learning = policy.text_log_probs(rows, lengths, samples.tokens, samples.mask)
    gap = (samples.log_probs - learning)[samples.mask].abs()
    return gap.mean().item(), gap.max().item()


def test_bf16_autocast_stays_close():
    """bf16 keeps 8 bits: logits of 2 to 4 move by hundredths, log-probs by less than 0.05 on
    average."""
    mean, largest = bf16_gap("cpu")
    assert 0.001 < mean < 0.05 and largest < 0.5


@pytest.mark.gpu
@needs_cuda
def test_bf16_autocast_stays_close_on_cuda():
    mean, largest = bf16_gap("cuda")
    assert 0 < mean < 0.05 and largest < 0.5


@pytest.mark.gpu
@needs_cuda
def test_cuda_agrees_with_cpu():
    policy = policy_of()
    greedy = sample(policy, PROMPTS, 12, END, GREEDY).ids()
    policy.cuda()
    assert sample(policy, PROMPTS, 12, END, GREEDY).ids() == greedy
    samples = sample(policy, PROMPTS * 8, 12, END, randomness=seeded(0, "cuda"))
    rows, lengths = rows_of(PROMPTS * 8, samples.ids())
    on_cuda = policy.text_log_probs(rows.cuda(), lengths.cuda(), samples.tokens).cpu()
    tokens, mask, sampled = samples.tokens.cpu(), samples.mask.cpu(), samples.log_probs.cpu()
    on_cpu = policy.cpu().text_log_probs(rows, lengths, tokens)
    torch.testing.assert_close(on_cuda[mask], on_cpu[mask], atol=1e-3, rtol=0)
    torch.testing.assert_close(sampled[mask], on_cpu[mask], atol=1e-3, rtol=0)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("top_k, top_p", [(3, None), (None, 0.5), (None, None)])
def test_cuda_draw_frequencies_and_cuts(top_k, top_p):
    """Within 5 standard errors; what was cut is never drawn (a parallel cumsum need not be flat
    there)."""
    logits = torch.randn(2048, generator=seeded(1)) * 3
    exact = torch.tensor(
        exact_distribution(logits.tolist(), 1.0, top_k, top_p), dtype=torch.float64
    )
    counts, draws, generator = torch.zeros(2048, dtype=torch.float64), 1_000_000, seeded(5, "cuda")
    for _ in range(20):
        tokens, log_probs = next_token(
            logits.cuda().expand(draws // 20, -1), SamplingOptions(1.0, top_k, top_p), generator
        )
        assert log_probs.isfinite().all()
        counts += torch.bincount(tokens, minlength=2048).cpu()
    assert counts[exact == 0].sum() == 0
    likely = exact * draws >= 25
    error = (exact * (1 - exact) / draws).sqrt()
    assert ((counts / draws - exact).abs() <= 5 * error + 1e-12)[likely].all()
