"""Pretraining (预训练): the policy learns the language of its task by predicting the next token of unscored texts.

Beside it goes a second task without scores, as BERT had one with its next sentences: is this topic the text's own, or another one
put in its place? The next token hardly asks for that comparison; the reward model, which starts from this body, needs it most.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from minirlhf.models.policy import Policy, gather_real, gather_text, log_probs_of
from minirlhf.models.transformer import TransformerConfig
from minirlhf.runs.checkpoints import Checkpoints
from minirlhf.runs.folder import Run
from minirlhf.system.devices import autocast
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.batches import Batch, EncodedTexts
from minirlhf.training.optimizers import linear_schedule, muon_and_adamw, scale_learning_rates


def language_model_loss(policy: Policy, batch: Batch, hidden: Tensor | None = None) -> Tensor:
    """Mean of -log p(y_t | x, y_<t) over all tokens of the batch's texts, in nats a token (E3's factors).

    `hidden` (batch, columns, width) are the body's states of the batch's rows, if they are known already.
    """
    if hidden is None:
        hidden = policy.body(batch.rows[:, :-1])
    # The output layer is a large part of the work, so padded positions do not go through it.
    logits = policy.logits_of(
        gather_real(hidden, batch.prompt_lengths - 1, batch.mask)
    )  # (tokens, vocab)
    return -log_probs_of(logits.float(), batch.tokens, batch.mask).sum() / batch.mask.sum()


def topic_match_loss(logits: Tensor, batch: Batch, own: bool) -> Tensor:
    """Mean of -log p("own") or -log p("another") at every prefix of texts, all with their own or all with another topic; nats.

    logits (batch, columns) of "own" at all columns of the batch's rows.
    """
    logits = (
        gather_text(logits[:, :, None], batch.prompt_lengths, batch.tokens.shape[1])
        .squeeze(-1)
        .float()
    )
    return (F.softplus(-logits if own else logits) * batch.mask).sum() / batch.mask.sum()


def with_other_topics(corpus: list[tuple[str, str]], seed: int) -> list[tuple[str, str]]:
    """The corpus, each text with some other topic put over it. Raises IndexError if there is but one topic."""
    rng = random.Random(seed)
    topics = list(dict.fromkeys(topic for topic, _ in corpus))
    places = {topic: place for place, topic in enumerate(topics)}
    return [
        (topics[(places[topic] + rng.randrange(1, len(topics))) % len(topics)], text)
        for topic, text in corpus
    ]


def pretrain(
    run: Run,
    tokenizer: Tokenizer,
    corpus: list[tuple[str, str]],
    corpus_heldout: list[tuple[str, str]],
    match_topics: bool = False,
    policy: Policy | None = None,
) -> Policy:
    """Train `policy`, or a fresh one, on (topic, text) pairs; log the loss on both lists; return the policy.

    `match_topics`: whether a text tells its topic, so that telling topics apart can be learned from the corpus.
    """
    config, model, device = run.config.pretrain, run.config.model, run.device
    torch.manual_seed(run.config.seed)
    if policy is None:
        policy = Policy(
            TransformerConfig(
                tokenizer.vocab_size,
                model.context,
                model.width,
                model.layers,
                model.heads,
                tie_embeddings=model.tie_embeddings,
            )
        ).to(device)
    match = nn.Linear(policy.config.width, 1).to(device)
    models = nn.ModuleDict({"policy": policy, "match": match})
    optimizers = muon_and_adamw(
        models, config.learning_rate, config.muon_learning_rate, config.weight_decay
    )
    train = EncodedTexts(tokenizer, corpus, model.context)
    heldout = EncodedTexts(tokenizer, corpus_heldout, model.context)
    matching = match_topics and config.match_weight > 0 and len({topic for topic, _ in corpus}) > 1
    if matching:
        others = EncodedTexts(tokenizer, with_other_topics(corpus, run.config.seed), model.context)
    checkpoints = Checkpoints(run, "pretrain", dict(models), *optimizers)
    resumed = checkpoints.resume()

    losses, match_losses = [], []
    bar = tqdm(
        range(resumed["step"] if resumed else 0, config.steps),
        desc="pretrain",
        unit="step",
        initial=resumed["step"] if resumed else 0,
        total=config.steps,
    )
    for step in bar:
        batch = train.random_batch(config.batch_size, run.config.seed, "pretrain", step, device)
        share = linear_schedule(step, config.steps, config.warmup)
        scale_learning_rates(optimizers, share)
        with autocast(device):
            hidden = policy.body(batch.rows)
            loss = total = language_model_loss(policy, batch, hidden)
            match_weight = (
                config.match_weight * (1 - step / (config.match_share * config.steps))
                if matching
                else 0.0
            )
            if match_weight > 0:
                other = others.batch(
                    batch.index[::2].cpu(), device
                )  # half as many texts under other topics
                own_loss = topic_match_loss(match(hidden).squeeze(-1), batch, own=True)
                other_loss = topic_match_loss(
                    match(policy.body(other.rows)).squeeze(-1), other, own=False
                )
                match_loss = (own_loss + other_loss) / 2
                total = loss + match_weight * match_loss
        models.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.detach())
        match_losses += [match_loss.detach()] if match_weight > 0 else []

        done = step + 1
        if done % 10 == 0 or done == config.steps:
            mean = torch.stack(losses).mean().item()  # one wait for the device in ten steps
            losses.clear()
            row = {
                "stage": "pretrain",
                "step": done,
                "seconds": round(checkpoints.seconds, 3),
                "loss_nats_per_token": mean,
                "learning_rate": config.learning_rate * share,
            }
            if match_losses:
                row["match_loss_nats"] = torch.stack(match_losses).mean().item()
                match_losses.clear()
            if done % config.evaluate_every == 0 or done == config.steps:
                row["heldout_loss_nats_per_token"] = heldout_loss(policy, heldout)
            run.append("metrics.jsonl", [row])
            bar.set_postfix_str(f"loss {mean:.2f} nats a token")
            checkpoints.maybe_save(done)
    return policy


@torch.inference_mode()
def heldout_loss(policy: Policy, texts: EncodedTexts) -> float:
    """The loss over all of `texts`, in nats a token."""
    device = policy.head.weight.device
    total, count = 0.0, 0
    for batch in texts.in_order(64, device):
        with autocast(device):
            total += float(language_model_loss(policy, batch) * batch.mask.sum())
        count += int(batch.mask.sum())
    return total / count
