"""Pretraining (预训练): the policy learns the language of its task by predicting the next token of unscored texts."""
from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

from minirlhf import equations
from minirlhf.policy import Policy
from minirlhf.run import Checkpoints, Run, autocast, muon_and_adamw
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.batches import Batch, EncodedTexts, cosine_schedule, set_learning_rate
from minirlhf.transformer import TransformerConfig


def language_model_loss(policy: Policy, batch: Batch) -> Tensor:
    """Mean of -log p(y_t | x, y_<t) over all tokens of the batch's texts, in nats a token (E3's factors)."""
    log_probs = equations.token_log_probs(
        policy.text_logits(batch.rows, batch.prompt_lengths, batch.tokens.shape[1]).float(), batch.tokens
    )
    return -(log_probs * batch.mask).sum() / batch.mask.sum()


def pretrain(run: Run, tokenizer: Tokenizer, corpus: list, corpus_heldout: list) -> Policy:
    """Train a fresh policy on (topic, text) pairs; log the loss on both lists; return the policy."""
    config, model, device = run.config.pretrain, run.config.model, run.device
    torch.manual_seed(run.config.seed)
    policy = Policy(TransformerConfig(tokenizer.vocab_size, model.context, model.width, model.layers, model.heads,
                                      tie_embeddings=model.tie_embeddings)).to(device)
    optimizers = muon_and_adamw(policy, config.learning_rate, config.weight_decay)
    full_rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    train = EncodedTexts(tokenizer, corpus, model.context)
    heldout = EncodedTexts(tokenizer, corpus_heldout, model.context)
    checkpoints = Checkpoints(run, "pretrain", {"policy": policy}, *optimizers)
    resumed = checkpoints.resume()

    losses = []
    bar = tqdm(range(resumed["step"] if resumed else 0, config.steps), desc="pretrain", unit="step",
               initial=resumed["step"] if resumed else 0, total=config.steps)
    for step in bar:
        batch = train.random_batch(config.batch_size, run.config.seed, "pretrain", step, device)
        share = cosine_schedule(step, config.steps, config.warmup)
        for optimizer, full in zip(optimizers, full_rates):
            set_learning_rate(optimizer, full * share)
        with autocast(device):
            loss = language_model_loss(policy, batch)
        policy.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.detach())

        done = step + 1
        if done % 10 == 0 or done == config.steps:
            mean = torch.stack(losses).mean().item()  # one wait for the device in ten steps
            losses.clear()
            row = {"stage": "pretrain", "step": done, "seconds": round(checkpoints.seconds, 3),
                   "loss_nats_per_token": mean, "learning_rate": config.learning_rate * share}
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
    for batch in texts.in_order(256, device):
        with autocast(device):
            total += float(language_model_loss(policy, batch) * batch.mask.sum())
        count += int(batch.mask.sum())
    return total / count
