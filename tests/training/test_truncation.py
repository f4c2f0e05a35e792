"""Topics and texts are cut by one rule, in every stage, and the cut is told."""

from __future__ import annotations

import random

import pytest
import torch

from minirlhf.models.policy import Policy
from minirlhf.models.transformer import TransformerConfig
from minirlhf.tokenizer import Tokenizer, train_bpe
from minirlhf.training import ratings
from minirlhf.training.batches import EncodedTexts
from minirlhf.training.rollout import Models
from minirlhf.training.truncation import CutTopics, prompt_limit, prompt_tokens, text_tokens

CONTEXT = 96
WORDS = "rest water mind walk light habit calm food sleep early".split()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_bpe([" ".join(WORDS) * 3], 300))


def long_words(seed: int, count: int = 150) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


ENDING = long_words(0)
# Four topics that differ only far before their end, and two that fit.
TOPICS = [f"{start} {ENDING}" for start in ("Rest", "Water", "Mind", "Walk")] + ["tea", "long tea"]


@pytest.mark.parametrize("max_new_tokens", [10, 60])
def test_a_topic_is_sampled_under_the_prompt_that_was_learned(
    tokenizer, monkeypatch, max_new_tokens
):
    policy = Policy(TransformerConfig(tokenizer.vocab_size, CONTEXT, width=8, layers=1, heads=1))
    asked = []

    def sample(model, prompts, *_, **__):
        asked.extend(prompts)
        raise InterruptedError

    monkeypatch.setattr(ratings, "sample", sample)
    with pytest.raises(InterruptedError):
        ratings.sample_texts({"before": policy}, tokenizer, TOPICS, len(TOPICS), max_new_tokens, 0)
    models = Models(policy, policy, policy, tokenizer)
    texts = EncodedTexts(tokenizer, [(topic, "It is so.") for topic in TOPICS], CONTEXT)
    for row, topic in enumerate(TOPICS):
        learned = texts.rows[row, : texts.prompt_lengths[row]].tolist()
        assert learned == asked[row] == models.prompt(topic)
        assert len(learned) <= prompt_limit(CONTEXT) == 32  # beside a text of 64


def test_the_whole_of_a_short_topic_and_the_end_of_a_long_one(tokenizer):
    assert prompt_tokens(tokenizer, "tea", CONTEXT) == tokenizer.encode_prompt("tea")
    whole = tokenizer.encode_prompt(TOPICS[0])
    assert prompt_tokens(tokenizer, TOPICS[0], CONTEXT) == whole[-32:]
    for context in (1, 2, 3, 5):
        assert prompt_tokens(tokenizer, TOPICS[0], context) == whole[-max(1, context // 3) :]


def test_what_is_cut_is_counted_and_told(tokenizer):
    found = CutTopics.of(tokenizer, [*TOPICS, *TOPICS], CONTEXT)
    assert found.cut == TOPICS[:4] and found.same == [TOPICS[:4]] and found.topics == 6
    words = found.warning()
    assert "4 of 6 topics are longer than 31 tokens" in words
    assert "4 different topics become 1 equal prompt" in words and "\n" not in words
    assert CutTopics.of(tokenizer, ["tea", "long tea"], CONTEXT).warning() == ""


def test_a_topic_that_just_fits_is_not_cut(tokenizer):
    letters = "".join(chr(ord("ა") + index) for index in range(10))  # three tokens each
    assert len(tokenizer.encode(letters + "x")) == 31
    assert not CutTopics.of(tokenizer, [letters + "x"], CONTEXT).cut
    assert CutTopics.of(tokenizer, [letters + "xz"], CONTEXT).cut


def test_rows_are_those_of_encoding_everything(tokenizer):
    pairs = [(topic, long_words(seed, 10 * seed)) for topic in TOPICS for seed in range(1, 12)]
    texts = EncodedTexts(tokenizer, pairs, CONTEXT)
    cut = 0
    for row, (topic, text) in enumerate(pairs):
        whole = tokenizer.encode_prompt(topic)[-32:] + tokenizer.encode_text(text)
        assert texts.rows[row, : texts.lengths[row]].tolist() == whole[:CONTEXT]
        assert text_tokens(tokenizer, text, CONTEXT) == tokenizer.encode_text(text)[:CONTEXT]
        cut += len(whole) > CONTEXT
    assert texts.cut == cut > 0


def test_copies_are_encoded_once_and_no_more_than_is_kept(tokenizer, monkeypatch):
    essays = [long_words(seed, 4000) for seed in range(5)]  # 20,000 characters each
    encoded = []
    real = Tokenizer.encode
    monkeypatch.setattr(
        Tokenizer, "encode", lambda self, text: encoded.append(len(text)) or real(self, text)
    )
    texts = EncodedTexts(tokenizer, [(TOPICS[0], essay) for essay in essays] * 250, CONTEXT)
    assert len(texts) == 1250 and texts.cut == 1250
    assert torch.equal(texts.rows[:5], texts.rows[5:10])
    assert sum(encoded) < 20_000  # of 25 million characters
