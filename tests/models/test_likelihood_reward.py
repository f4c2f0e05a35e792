"""The reward model with a likelihood term: its logits by hand, its prefixes, its settings."""

from __future__ import annotations

import pytest
import torch

from minirlhf.config import Config, ModelConfig, RewardConfig
from minirlhf.models import build
from minirlhf.models.likelihood_reward import LikelihoodReward
from minirlhf.models.policy import Policy
from minirlhf.models.reward_model import RewardModel
from minirlhf.models.transformer import TransformerConfig
from minirlhf.settings import SettingError

CONFIG = TransformerConfig(11, context=16, width=8, layers=2, heads=2)
ROWS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [5, 3, 5, 8, 9, 7, 0, 0]])
PROMPTS, LENGTHS = torch.tensor([3, 2]), torch.tensor([8, 6])
TIME = 5


@pytest.fixture
def models() -> tuple[LikelihoodReward, RewardModel, Policy]:
    """One body three times: with the likelihood term, without it, and as a language model."""
    torch.manual_seed(0)
    model = LikelihoodReward(CONFIG)
    torch.nn.init.normal_(model.score.weight)
    with torch.no_grad():
        model.likelihood_weight.fill_(0.7)
    plain, policy = RewardModel(CONFIG), Policy(CONFIG)
    plain.body, plain.score, policy.body = model.body, model.score, model.body
    policy.head.weight = model.body.token_embedding.weight
    return model, plain, policy


def test_the_logit_is_the_plain_one_plus_w_times_the_mean_log_prob(models):
    model, plain, policy = models
    for row, (prompt, length) in enumerate(zip(PROMPTS.tolist(), LENGTHS.tolist())):
        for end in range(prompt + 1, length + 1):
            text = ROWS[row, prompt:end][None]
            log_probs = policy.text_log_probs(
                ROWS[row, :end][None], PROMPTS[row, None], text, torch.ones_like(text).bool()
            )
            expected = plain.logits(ROWS[row, :end][None])[0, -1] + 0.7 * log_probs.mean()
            at = model.prefix_logits(ROWS, PROMPTS, TIME)[row, end - prompt - 1]
            torch.testing.assert_close(at, expected)


def test_whole_texts_and_prefixes_have_the_same_scores(models):
    model, plain, _ = models
    bare, prefixes = model.prefix_scores(ROWS, PROMPTS, TIME)
    last = (LENGTHS - PROMPTS)[:, None] - 1
    whole = model.text_scores(ROWS, LENGTHS, PROMPTS)
    torch.testing.assert_close(whole, prefixes.gather(1, last).squeeze(1))
    torch.testing.assert_close(bare, plain.prefix_scores(ROWS, PROMPTS, TIME)[0])
    by_length = model.prefix_scores(ROWS, PROMPTS, TIME, LENGTHS)[1]
    torch.testing.assert_close(by_length.gather(1, last), prefixes.gather(1, last))


def test_it_must_know_where_the_text_begins(models):
    with pytest.raises(ValueError, match="expected prompt_lengths"):
        models[0].text_scores(ROWS, LENGTHS)


def test_it_starts_by_preferring_the_likelier_text_and_w_learns():
    torch.manual_seed(0)
    policy = Policy(CONFIG)
    torch.nn.init.normal_(policy.body.token_embedding.weight)
    model = LikelihoodReward.from_policy(policy)
    rows = torch.cat([torch.full((11, 1), 3), torch.arange(11)[:, None]], dim=1)
    ones = torch.ones(11, dtype=torch.long)
    logits = model.text_logits(rows, 2 * ones, ones)  # of all texts of one token
    likelihoods = policy(rows[:1, :1])[0, 0]
    assert torch.equal(logits.argsort(), likelihoods.argsort())
    logits[likelihoods.argmax()].neg().backward()  # the loss of "the likeliest is the best"
    assert model.likelihood_weight.grad is not None
    assert model.likelihood_weight.grad > 0  # log p < 0: a smaller w raises this logit


def test_the_setting_chooses_it():
    model = ModelConfig(vocab_size=256, context=16, width=8, heads=2)
    assert type(build.new_reward_model(model, RewardConfig(), 256)) is RewardModel
    chosen = build.new_reward_model(model, RewardConfig(likelihood=True), 256)
    assert type(chosen) is LikelihoodReward


def test_refused_settings():
    with pytest.raises(SettingError, match=r"likelihood.*causal"):
        RewardConfig(likelihood=True, body="encoder")
    with pytest.raises(SettingError, match=r"without --model.tie"):
        Config(reward=RewardConfig(likelihood=True), model=ModelConfig(tie_embeddings=False))


def test_scores_that_would_lack_the_likelihood_are_refused(models):
    model, _, _ = models
    for score in (model, model.logits):
        with pytest.raises(ValueError, match="logits: expected to know where the prompts end"):
            score(ROWS)
