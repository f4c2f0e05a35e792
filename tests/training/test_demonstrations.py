"""Supervised fine-tuning: only answers are learned, held-out prompts say when to stop, and an
interruption changes nothing.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from minirlhf.config import SFTConfig
from minirlhf.feedback.conversation import Prompt, Turn
from minirlhf.models.policy import Policy
from minirlhf.models.transformer import TransformerConfig
from minirlhf.runs.checkpoints import Checkpoints
from minirlhf.tokenizer import Tokenizer
from minirlhf.training import demonstrations
from minirlhf.training.batches import EncodedTexts, Split
from minirlhf.training.demonstrations import answer_loss, train_on_demonstrations
from minirlhf.training.log import TrainLog

TOKENIZER = Tokenizer([bytes([value]) for value in range(256)])
CONTEXT, CPU = 64, torch.device("cpu")
EARLIER = (Turn("user", "qq"), Turn("assistant", "qqq"), Turn("user", "q"))
PAIRS: list[tuple[Prompt, str]] = [("q", "yes"), ("qqq", "no"), (EARLIER, "so it is"), ("qq", "a")]
SETTINGS = SFTConfig(steps=6, batch_size=4, warmup=2, evaluate_every=2)


def new_policy(**changes) -> Policy:
    torch.manual_seed(0)
    sizes = {"width": 16, "layers": 1, "heads": 2} | changes
    return Policy(TransformerConfig(TOKENIZER.vocab_size, context=CONTEXT, **sizes))


def encoded(pairs: list[tuple[Prompt, str]]) -> EncodedTexts:
    return EncodedTexts(TOKENIZER, pairs, CONTEXT)


def everything(texts: EncodedTexts):
    return texts.batch(torch.arange(len(texts)), CPU)


TEXTS = Split(encoded(PAIRS), encoded([("qqqq", "yes")]))


# Only answers are learned -------------------------------------------------------------------------


def test_the_loss_is_the_log_probability_of_the_answers_alone():
    policy, total = new_policy(), 0.0
    for prompt, answer in PAIRS:
        tokens = demonstrations_row(prompt, answer)
        log_probs = policy(torch.tensor([tokens])).detach().log_softmax(-1)[0]
        first = len(tokens) - len(TOKENIZER.encode_text(answer))
        total -= sum(float(log_probs[t - 1, tokens[t]]) for t in range(first, len(tokens)))
    assert answer_loss(policy, everything(TEXTS.train)).item() == pytest.approx(total / 4, rel=1e-5)


def demonstrations_row(prompt: Prompt, answer: str) -> list[int]:
    """Spelled out, without the code under test."""
    turns = [prompt] if isinstance(prompt, str) else [turn.text for turn in prompt]
    tokens: list[int] = []
    for place, text in enumerate([*turns, answer]):
        if place % 2 == 0:
            tokens += [*text.encode(), TOKENIZER.separator_id]
        else:
            tokens += [*f" {text}".encode(), TOKENIZER.end_id]
    return tokens


class OneForAll(torch.nn.Module):
    """A body that gives the same state everywhere: each token then has one loss, whatever comes
    before it."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.ones(*tokens.shape, self.config.width)

    def by_length(self, tokens: Tensor, _lengths: Tensor) -> Tensor:
        return self(tokens)


def test_poison_in_the_prompt_is_not_learned():
    """No answer holds the letter q, nor a separator. They cost 1,000 nats each, and the loss does
    not see it: neither in questions, nor in earlier answers, nor between the turns."""
    policy = new_policy(tie_embeddings=False)
    policy.body = OneForAll(policy.config)  # type: ignore[assignment]
    poison = [ord("q"), TOKENIZER.separator_id]
    with torch.no_grad():
        policy.head.weight[poison] -= 1000 / policy.config.width
    loss = answer_loss(policy, everything(TEXTS.train))
    lengths = torch.tensor([len(TOKENIZER.encode_text(answer)) for _, answer in PAIRS])
    assert loss.item() < 7 * float(lengths.double().mean())  # log 258 = 5.6 nats per token
    loss.backward()
    # And the gradient only takes probability from what an answer could have said instead.
    gradient = policy.head.weight.grad
    assert gradient is not None and not gradient[poison].any()
    clean = [("".join("z" for _ in str(place)), answer) for place, (_, answer) in enumerate(PAIRS)]
    again = answer_loss(policy, everything(encoded(clean)))
    assert again.item() == pytest.approx(loss.item())


def test_the_gradient_comes_in_only_where_an_answer_is_predicted():
    policy, batch = new_policy(), everything(TEXTS.train)
    states: list[Tensor] = []

    def keep(_module, _inputs, hidden: Tensor) -> None:
        hidden.retain_grad()
        states.append(hidden)

    policy.body.register_forward_hook(keep)
    answer_loss(policy, batch).backward()
    (hidden,) = states
    assert hidden.grad is not None
    reached = hidden.grad.abs().sum(-1) > 0  # (batch, columns)
    for row, (prompt, answer) in enumerate(PAIRS):
        length = len(demonstrations_row(prompt, answer))
        first = length - len(TOKENIZER.encode_text(answer))
        wanted = [first - 1 <= column < length - 1 for column in range(reached.shape[1])]
        assert reached[row].tolist() == wanted


# The loop -----------------------------------------------------------------------------------------


def test_it_learns_to_answer():
    policy, log = new_policy(), TrainLog("sft")
    settings = dataclasses.replace(SETTINGS, steps=30, evaluate_every=15, learning_rate=0.03)
    before = answer_loss(policy, everything(TEXTS.train)).item()
    assert train_on_demonstrations(policy, TEXTS, settings, 0, log) is policy
    assert answer_loss(policy, everything(TEXTS.train)).item() < before / 2
    assert [row["step"] for row in log.rows] == [15, 30]
    losses = {"loss_nats_per_answer", "loss_nats_per_token", "heldout_loss_nats_per_token"}
    names = losses | {"seconds", "stage", "step"}
    assert all(names <= row.keys() and row["stage"] == "sft" for row in log.rows)


def test_the_weights_of_the_lowest_heldout_loss_stay(monkeypatch):
    """And training stops when they have been the best for long."""
    losses, seen = iter([3.0, 1.0, 2.0, 2.5, 0.1]), []

    def heldout_loss(policy: Policy, _texts: EncodedTexts) -> float:
        seen.append({name: tensor.clone() for name, tensor in policy.state_dict().items()})
        return next(losses)

    monkeypatch.setattr(demonstrations, "heldout_loss", heldout_loss)
    settings = dataclasses.replace(SETTINGS, steps=20, evaluate_every=2, patience=2, keep="best")
    policy = train_on_demonstrations(new_policy(), TEXTS, settings, 0)
    assert len(seen) == 4
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, seen[1][name])


def test_a_loss_that_is_no_number_is_named(monkeypatch):
    monkeypatch.setattr(demonstrations, "heldout_loss", lambda *_: float("nan"))
    with pytest.raises(ValueError, match=r"sft: the held-out loss .* --sft.learning-rate"):
        train_on_demonstrations(new_policy(), TEXTS, SETTINGS, 0)


def test_an_interruption_changes_nothing(tmp_path, monkeypatch):
    whole = train_on_demonstrations(new_policy(), TEXTS, SETTINGS, 0)
    monkeypatch.setattr(Checkpoints, "every_seconds", 0.0)
    path = tmp_path / "checkpoint.safetensors"
    calls = []
    plain = demonstrations.answer_loss

    def answer_loss(policy: Policy, batch) -> Tensor:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return plain(policy, batch)

    monkeypatch.setattr(demonstrations, "answer_loss", answer_loss)
    with pytest.raises(KeyboardInterrupt):
        train_on_demonstrations(new_policy(), TEXTS, SETTINGS, 0, None, Checkpoints(path, "sft"))
    again = new_policy()
    torch.nn.init.zeros_(again.head.weight)  # the checkpoint holds the weights
    train_on_demonstrations(again, TEXTS, SETTINGS, 0, None, Checkpoints(path, "sft"))
    assert len(calls) == 6 + 2
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
