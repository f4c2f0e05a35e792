"""What the reward stage of a run learns from, and how good its reward model is in the end."""

from __future__ import annotations

import sys

from minirlhf.evaluation.reward_quality import quality, ranking_quality
from minirlhf.runs.folder import Run
from minirlhf.runs.run_feedback import split_feedback, split_own_texts
from minirlhf.runs.run_rankings import heldout_rankings_of, split_rankings
from minirlhf.stats import correlation, correlation_facts, ranks
from minirlhf.tasks.task import Task
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.batches import Split
from minirlhf.training.ranked_answers import RankedTexts
from minirlhf.training.ranking import warning_of_cut_pairs
from minirlhf.training.train_reward_model import AnyReward, AnyTexts, ScoredTexts, predict


def texts_of(run: Run, task: Task, tokenizer: Tokenizer) -> AnyTexts:
    """What the reward model learns from: rankings where answers are ranked, else scores."""
    if task.ranker is not None:
        return ranked_texts(run, task, tokenizer)
    return scored_texts(run, task, tokenizer)


def quality_of(
    model: AnyReward, run: Run, task: Task, tokenizer: Tokenizer, texts: AnyTexts
) -> dict:
    """The facts of summary.json about the reward model, from what it never saw."""
    if isinstance(texts.train, RankedTexts):
        return quality_by_rankings(model, run, task, tokenizer, texts)
    return quality_by_scores(model, run, task, tokenizer, texts)


def scored_texts(run: Run, task: Task, tokenizer: Tokenizer) -> Split[ScoredTexts]:
    """The feedback, encoded; a warning if texts do not fit the context."""
    train_triples, heldout_triples = split_feedback(run, task)
    context = run.config.model.context
    train = ScoredTexts(tokenizer, train_triples, context, task.comparisons)
    heldout = ScoredTexts(tokenizer, heldout_triples, context, task.heldout_comparisons)
    if train.cut:
        print(
            f"warning: {train.cut:,} of {len(train):,} scored texts are longer than {context} "
            "tokens with their topic and lose their end; raise --model.context and "
            "--finetune.max-new-tokens",
            file=sys.stderr,
        )
    if train.cut and run.config.reward.loss == "ranking":
        pairs = train.pairs(run.config.reward.min_gap)
        if warning := warning_of_cut_pairs(train, pairs):
            print(f"warning: {warning}", file=sys.stderr)
    return Split(train, heldout)


def ranked_texts(run: Run, task: Task, tokenizer: Tokenizer) -> Split[RankedTexts]:
    """The ranked answers, encoded. They are sampled and ranked first, unless they were before."""
    context = run.config.model.context
    train, heldout = (RankedTexts(tokenizer, part, context) for part in split_rankings(run, task))
    return Split(train, heldout)


def quality_by_scores(
    model: AnyReward, run: Run, task: Task, tokenizer: Tokenizer, texts: Split[ScoredTexts]
) -> dict:
    """Quality on held-out feedback, held-out samples of the policy, and handwritten texts."""
    facts = quality(model, texts.train, texts.heldout)
    context = run.config.model.context
    if own_heldout := split_own_texts(run, task)[1]:
        own = ScoredTexts(tokenizer, own_heldout, context)
        r = correlation(predict(model, own), own.scores)
        facts |= correlation_facts("own_texts_pearson", r, len(own))
        facts["own_texts_n"] = len(own)
    facts["handwritten_spearman"] = None
    if task.handwritten:
        handwritten = ScoredTexts(tokenizer, task.handwritten, context)
        predicted = predict(model, handwritten)
        r = correlation(ranks(predicted), ranks(handwritten.scores))
        facts |= correlation_facts("handwritten_spearman", r, len(handwritten), of_ranks=True)
        facts["handwritten_n"] = len(handwritten)
    return facts


def quality_by_rankings(
    model: AnyReward, run: Run, task: Task, tokenizer: Tokenizer, texts: Split[RankedTexts]
) -> dict:
    """Quality on held-out prompts of training topics, and on prompts of held-out topics."""
    facts = ranking_quality(model, texts.heldout)
    facts["rankings"] = len(texts.train.rankings) + len(texts.heldout.rankings)
    facts["answers_each"] = texts.train.answers
    if rankings := heldout_rankings_of(run, task):
        others = RankedTexts(tokenizer, rankings, run.config.model.context)
        facts["pairs_right_heldout_topics"] = ranking_quality(model, others)["pairs_right"]
    return facts
