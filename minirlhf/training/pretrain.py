"""Pretraining (预训练): the policy learns its task's language by predicting the next token.

Beside it goes a second task without scores, as BERT had one with its next sentences: is this topic
the text's own, or another one put in its place? The next token hardly asks for that comparison; the
reward model, which starts from this body, needs it most.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minirlhf.config import Config
from minirlhf.feedback.conversation import Prompt
from minirlhf.models.build import new_policy
from minirlhf.models.policy import Policy, gather_text, gather_unpadded, masked_log_probs
from minirlhf.system.devices import autocast, pick_device
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.batches import Batch, Corpus, EncodedTexts
from minirlhf.training.log import CheckpointKeeper, NoCheckpoints, TrainLog
from minirlhf.training.optimizers import (
    backward,
    linear_schedule,
    muon_and_adamw,
    scale_learning_rates,
    step_all,
)

LOG_EVERY = 10  # steps: reading a loss waits for the device


def language_model_loss(policy: Policy, batch: Batch, hidden: Tensor | None = None) -> Tensor:
    """Mean of -log p(y_t | x, y_<t) over all tokens of the texts, in nats per token (E3).

    `hidden` (batch, columns, width): the body's states of the batch's rows, where they are known.
    """
    if hidden is None:
        hidden = policy.body(batch.rows[:, :-1])
    # The output layer is a large part of the work, so padded positions do not go through it.
    real = gather_unpadded(hidden, batch.prompt_lengths - 1, batch.mask)  # (tokens, width)
    logits = policy.next_token_logits(real)  # (tokens, vocab)
    return -masked_log_probs(logits.float(), batch.tokens, batch.mask).sum() / batch.mask.sum()


def topic_match_loss(logits: Tensor, batch: Batch, own: bool) -> Tensor:
    """Mean over every prefix of -log p("own") or -log p("another"), whichever is right; nats.

    logits (batch, columns) of "own" at all columns of the batch's rows. The texts of a batch stand
    all under their own topic or all under another.
    """
    time = batch.tokens.shape[1]
    logits = gather_text(logits[:, :, None], batch.prompt_lengths, time).squeeze(-1).float()
    losses = F.softplus(-logits if own else logits).masked_fill(~batch.mask, 0)  # (batch, time)
    return losses.sum() / batch.mask.sum()


def with_other_topics(corpus: Sequence[tuple[Prompt, str]], seed: int) -> list[tuple[Prompt, str]]:
    """The corpus, each text under some other topic. Raises IndexError if there is but one."""
    rng = random.Random(seed)
    topics = list(dict.fromkeys(topic for topic, _ in corpus))
    places = {topic: place for place, topic in enumerate(topics)}
    return [
        (topics[(places[topic] + rng.randrange(1, len(topics))) % len(topics)], text)
        for topic, text in corpus
    ]


def pretrain(
    tokenizer: Tokenizer,
    corpus: Corpus,
    config: Config,
    log: TrainLog | None = None,
    checkpoints: CheckpointKeeper | None = None,
    policy: Policy | None = None,
) -> Policy:
    """Train `policy`, or a fresh one, on the corpus; return it. The loss is logged on both parts.

    Without `log` the rows stay in memory, without `checkpoints` an interruption loses the work.
    """
    log, checkpoints = log or TrainLog("pretrain"), checkpoints or NoCheckpoints()
    settings, seed, context = config.pretrain, config.seed, config.model.context
    device = pick_device(config.device)
    torch.manual_seed(seed)
    if policy is None:
        policy = new_policy(config.model, tokenizer.vocab_size).to(device)
    matching = TopicMatching(policy, tokenizer, corpus, config)
    models = nn.ModuleDict({"policy": policy, "match": matching.classifier})
    optimizers = muon_and_adamw(models, settings)
    train = EncodedTexts(tokenizer, corpus.train, context, corpus.learn_prompts)
    heldout = EncodedTexts(tokenizer, corpus.heldout, context, corpus.learn_prompts)

    start = checkpoints.resume(dict(models), optimizers, {"log": log})
    for step in log.steps(start, settings.steps):
        batch = train.random_batch(settings.batch_size, seed, "pretrain", step, device)
        share = linear_schedule(step, settings.steps, settings.warmup)
        scale_learning_rates(optimizers, share)
        with autocast(device):
            hidden = policy.body(batch.rows)  # (batch, columns, width)
            loss = language_model_loss(policy, batch, hidden)
            log.add(loss_nats_per_token=loss)
            if (weight := matching.weight(step)) > 0:
                match_loss = matching.loss(batch, hidden)
                log.add(match_loss_nats=match_loss)
                loss = loss + weight * match_loss
        backward(loss, policy)
        step_all(optimizers, models)

        done, last = step + 1, step + 1 == settings.steps
        if done % LOG_EVERY == 0 or last:
            numbers = {"learning_rate": settings.learning_rate * share}
            if done % settings.evaluate_every == 0 or last:
                numbers["heldout_loss_nats_per_token"] = heldout_loss(policy, heldout)
            log.write(done, "loss {loss_nats_per_token:.2f} nats per token", **numbers)
            checkpoints.maybe_save(done)
    return policy


class TopicMatching:
    """The second task: a linear classifier on the policy's states tells a text's own topic.

    Its weight falls to 0 along a straight line. It does nothing if a text does not tell its topic.
    """

    def __init__(self, policy: Policy, tokenizer: Tokenizer, corpus: Corpus, config: Config):
        self.policy, self.settings = policy, config.pretrain
        self.classifier = nn.Linear(policy.config.width, 1).to(policy.device)
        topics = {topic for topic, _ in corpus.train}
        self.wanted = corpus.match_topics and self.settings.match_weight > 0 and len(topics) > 1
        if self.wanted:
            swapped = with_other_topics(corpus.train, config.seed)
            self.others = EncodedTexts(tokenizer, swapped, config.model.context)

    def weight(self, step: int) -> float:
        """Of this loss beside that of the next token."""
        if not self.wanted:
            return 0.0
        steps = self.settings.match_share * self.settings.steps
        return self.settings.match_weight * (1 - step / steps)

    def loss(self, batch: Batch, hidden: Tensor) -> Tensor:
        """Of a batch's texts under their own topics, and of half as many under others; nats."""
        other = self.others.batch(batch.index[::2].cpu(), hidden.device)
        own_logits = self.classifier(hidden).squeeze(-1)  # (batch, columns)
        own_loss = topic_match_loss(own_logits, batch, own=True)
        other_logits = self.classifier(self.policy.body(other.rows)).squeeze(-1)
        other_loss = topic_match_loss(other_logits, other, own=False)
        return (own_loss + other_loss) / 2


@torch.inference_mode()
def heldout_loss(policy: Policy, texts: EncodedTexts) -> float:
    """The loss over all of `texts`, in nats per token."""
    device = policy.device
    total, count = 0.0, 0
    for batch in texts.in_order(64, device):
        with autocast(device):
            total += float(language_model_loss(policy, batch) * batch.mask.sum())
        count += int(batch.mask.sum())
    return total / count
