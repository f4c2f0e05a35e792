"""Topics and texts are cut by one rule, in every stage, and the cut is told."""

from __future__ import annotations

import json
import random

import pytest
import torch

from minirlhf.feedback.conversation import (
    ROLES,
    Turn,
    exchanges,
    from_json,
    in_words,
    to_json,
)
from minirlhf.models.policy import Policy
from minirlhf.models.transformer import TransformerConfig
from minirlhf.tokenizer import END, SEPARATOR, Tokenizer, train_bpe
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
        ratings.sample_to_rate(
            {"before": policy}, tokenizer, TOPICS, len(TOPICS), max_new_tokens, 0
        )
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


# Conversations ------------------------------------------------------------------------------------


def talk(*texts: str) -> tuple[Turn, ...]:
    return tuple(Turn(ROLES[place % 2], text) for place, text in enumerate(texts))


def test_a_conversation_is_one_question_and_answer_after_the_other(tokenizer):
    prompt = talk("Why rest?", "It helps.", "And tea?")
    assert prompt_tokens(tokenizer, prompt, CONTEXT) == [
        *tokenizer.encode("Why rest?"),
        tokenizer.separator_id,
        *tokenizer.encode(" It helps."),
        tokenizer.end_id,
        *tokenizer.encode("And tea?"),
        tokenizer.separator_id,
    ]
    # One question alone is a topic.
    alone = prompt_tokens(tokenizer, talk("tea"), CONTEXT)
    assert alone == prompt_tokens(tokenizer, "tea", CONTEXT)


@pytest.mark.parametrize("typed", [END, SEPARATOR, f"{END}I{SEPARATOR}", f" {END} "])
@pytest.mark.parametrize("place", range(3))
def test_who_types_a_special_token_gets_its_letters(tokenizer, typed, place):
    texts = ["a", "b", "c"]
    texts[place] = typed
    tokens = prompt_tokens(tokenizer, talk(*texts), CONTEXT * 4)
    specials = [token for token in tokens if token >= len(tokenizer.tokens)]
    separator, end = tokenizer.separator_id, tokenizer.end_id
    assert specials == [separator, end, separator]
    assert typed in tokenizer.decode(tokens)
    # The same as a topic, which is a conversation of one turn, and as a text.
    assert prompt_tokens(tokenizer, typed, CONTEXT * 4)[:-1] == tokenizer.encode(typed)
    assert text_tokens(tokenizer, typed, CONTEXT * 4)[:-1] == tokenizer.encode(" " + typed)


@pytest.mark.parametrize("context", [2, 9, 30, 48, 60, 96, 200, 400])
def test_a_long_history_is_cut_at_a_turn(tokenizer, context):
    texts = [long_words(seed, 3 + 4 * (seed % 3)) for seed in range(9)]
    tokens = prompt_tokens(tokenizer, talk(*texts), context)
    assert len(tokens) <= 2 * prompt_limit(context)
    question = prompt_tokens(tokenizer, texts[-1], context)
    history = tokens[: len(tokens) - len(question)]
    assert tokens[len(history) :] == question
    # What is left of the history is what a shorter conversation has: no turn is cut in two.
    turns = 2 * history.count(tokenizer.end_id)
    pairs = zip(texts[8 - turns : 8 : 2], texts[9 - turns : 8 : 2], strict=True)
    whole = [tokenizer.encode_prompt(asked) + tokenizer.encode_text(said) for asked, said in pairs]
    assert history == sum(whole, [])
    if turns < 8:  # one exchange more would not fit
        more = tokenizer.encode_prompt(texts[6 - turns]) + tokenizer.encode_text(texts[7 - turns])
        assert len(tokens) + len(more) > 2 * prompt_limit(context)


def test_an_exchange_that_is_lost_takes_the_older_ones_along(tokenizer):
    """Else an answer would seem to follow another question."""
    prompt = talk("tea", "It is.", ENDING, "So.", "Why?")
    assert prompt_tokens(tokenizer, prompt, CONTEXT) == tokenizer.encode_prompt("Why?")
    found = CutTopics.of(tokenizer, [prompt, talk("tea"), "tea"], CONTEXT)
    assert found.forgetful == [prompt] and not found.cut
    assert "1 of 3 conversations are longer than 64 tokens" in found.warning()
    assert found.same == [[talk("tea"), "tea"]]
    assert CutTopics.of(tokenizer, [talk("a", "b", ENDING)], CONTEXT).cut


@pytest.mark.parametrize(
    "turns, words",
    [
        ((Turn("assistant", "Hello"),), "turn 1: expected role 'user', found 'assistant'"),
        ((Turn("user", "a"), Turn("user", "b"), Turn("user", "c")), "turn 2: expected role"),
        ((Turn("user", "a"), Turn("assistant", "b")), "expected the user's as the last"),
        ((), "expected the user's as the last, found 0 turns"),
    ],
)
def test_roles_must_take_turns(tokenizer, turns, words):
    with pytest.raises(ValueError, match=words):
        exchanges(turns)
    with pytest.raises(ValueError, match=words):
        prompt_tokens(tokenizer, turns, CONTEXT)


def test_a_conversation_is_encoded_for_training_as_it_is_for_sampling(tokenizer):
    prompt = talk("Why rest?", "It helps.", "And tea?")
    texts = EncodedTexts(tokenizer, [(prompt, "Yes."), ("tea", "No.")], CONTEXT)
    batch = texts.batch(torch.tensor([0, 1]), torch.device("cpu"))
    learned = batch.rows[0, : batch.prompt_lengths[0]].tolist()
    assert learned == prompt_tokens(tokenizer, prompt, CONTEXT)
    # Only the last answer is a text to learn.
    assert batch.tokens[0][batch.mask[0]].tolist() == tokenizer.encode_text("Yes.")


def test_a_prompt_comes_back_from_its_form_in_a_file():
    for prompt in ("tea", talk("a", "b", "c")):
        assert from_json(json.loads(json.dumps(to_json(prompt)))) == prompt
    assert in_words(talk("a", "b", "c")) == "a\nb\nc" and in_words("tea") == "tea"


def test_a_row_that_is_learned_whole_has_its_first_token_as_prompt(tokenizer):
    """With learn_prompts every token but the first is predicted, the questions among them."""
    talk = (Turn("user", "Why sleep?"), Turn("assistant", "Rest."), Turn("user", "And then?"))
    alone = EncodedTexts(tokenizer, [(talk, "Work.")], 192)
    whole = EncodedTexts(tokenizer, [(talk, "Work.")], 192, learn_prompts=True)
    assert whole.rows.tolist() == alone.rows.tolist()
    assert whole.prompt_lengths.tolist() == [1] and alone.prompt_lengths[0] > 1
    batch = whole.batch(torch.tensor([0]), torch.device("cpu"))
    assert batch.tokens[batch.mask].tolist() == whole.rows[0, 1 : whole.lengths[0]].tolist()
