"""Texts on one topic: each the best of its group, those behind each soft prompt together."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from minirlhf.models.next_token import SamplingOptions
from minirlhf.runs import topic_texts
from minirlhf.runs.topic_texts import TextsWanted, TopicWriter

WANTED = TextsWanted("tea", count=2, best_of=3, options=SamplingOptions(0.5, top_k=7), seed=4)


def test_each_text_is_the_best_of_its_group(finished_run, monkeypatch):
    asked = []

    def collect(models, prompts, max_new_tokens, generator, **options):
        asked.append((len(prompts), generator.initial_seed(), options))
        rewards = torch.tensor([0.1, 0.9, 0.5, 0.8, 0.7, 0.6, 0.1, 0.2, 0.3, 0.0, 0.1, 0.0])
        texts = list("abcdefghijkl")
        return SimpleNamespace(reward=rewards[: len(prompts)], texts=texts[: len(prompts)])

    monkeypatch.setattr(topic_texts, "collect", collect)
    writer = TopicWriter(finished_run)
    assert writer.texts(WANTED) == writer.texts(WANTED, tuned=False) == ["b", "d"]

    def behind(run, folders, each, tokenizer):
        assert each == 6  # rows of each prompt, next to each other
        return "".join(folders)

    monkeypatch.setattr(topic_texts.run_models, "behind_soft_prompts", behind)
    monkeypatch.setattr(topic_texts, "Models", lambda policy, *_: Read(policy))
    assert writer.texts_behind(["p", "q"], WANTED) == [["b", "d"], ["i", "k"]]
    assert [count for count, _, _ in asked] == [6, 6, 12]
    assert len({number for _, number, _ in asked}) == 1  # the same random numbers for all
    assert all(options == vars(WANTED.options) for _, _, options in asked)


class Read(str):
    """Models that read a topic as one token."""

    def prompt(self, topic):
        return [1]
