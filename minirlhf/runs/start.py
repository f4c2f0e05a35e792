"""What a run starts from: a base as it is, a base that is trained further, or random weights."""

from __future__ import annotations

import dataclasses

import torch

from minirlhf.config import Config, ModelConfig, PretrainConfig
from minirlhf.feedback.conversation import Prompt
from minirlhf.runs.base import Base, read_base
from minirlhf.tasks.task import Task
from minirlhf.training.batches import EncodedTexts
from minirlhf.training.pretrain import heldout_loss

# The base reads its own language at 0.1 nats per byte, other English at 3 to 5; all 256 bytes alike
# would be 5.5.
KNOWN_NATS_PER_BYTE = 1.0
SAMPLED = 200  # texts that are read to find out


def settle_start(config: Config, task: Task) -> Config:
    """The settings, completed with the size of the base and how long it is trained further.

    Raises ValueError if the base is damaged, or if it has another size than the settings ask for.
    """
    pretrain = config.pretrain
    if pretrain.start == "scratch":
        return with_context(config, task)
    if pretrain.base is None and task.base_steps is None:
        return from_scratch(config, task)
    base = read_base(pretrain.base or task.base)
    check_size(config.model, base, task)
    if pretrain.base is None and task.base_must_know_texts:
        nats = nats_per_byte(base, task)
        if nats > KNOWN_NATS_PER_BYTE:
            print(
                f"note: {base.name} does not know the language of these texts ({nats:.1f} nats per "
                "byte), so a model is pretrained from scratch"
            )
            return from_scratch(config, task)
    steps = pretrain.steps or task.base_steps or 0
    pretrain = dataclasses.replace(pretrain, steps=steps)
    return dataclasses.replace(config, model=base.model, pretrain=pretrain)


def from_scratch(config: Config, task: Task) -> Config:
    steps = config.pretrain.steps or PretrainConfig().steps
    pretrain = dataclasses.replace(config.pretrain, start="scratch", steps=steps)
    return with_context(dataclasses.replace(config, pretrain=pretrain), task)


def with_context(config: Config, task: Task) -> Config:
    """The settings with the context that the task needs, unless another one was chosen."""
    if task.context is None or config.model.context != ModelConfig.context:
        return config
    longer = max(task.context, config.model.context)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, context=longer))


def check_size(model: ModelConfig, base: Base, task: Task) -> None:
    """Raise ValueError if the settings or the task ask for another size than the base has."""
    if task.context is not None and base.model.context < task.context:
        raise ValueError(
            f"--base: expected a model with a context of at least {task.context} tokens for the "
            f"task {task.name}, found {base.model.context}"
        )
    for field in dataclasses.fields(model):
        value, wanted = getattr(model, field.name), getattr(base.model, field.name)
        if value not in (wanted, field.default):
            option = f"--model.{field.name.replace('_', '-')}"
            raise ValueError(
                f"{option}: expected {wanted}, as {base.name} has it, "
                f"found {value}; add --from-scratch to train a model of another size"
            )


def nats_per_byte(base: Base, task: Task) -> float:
    """How well the base predicts the task's scored texts: below 1 it knows their language."""
    pairs: list[tuple[Prompt, str]] = [
        (triple.topic, triple.text) for triple in task.feedback[:SAMPLED]
    ]
    tokenizer = base.tokenizer()
    spelled = tokenizer.tokens
    texts = EncodedTexts(tokenizer, pairs, base.model.context)
    tokens = int((texts.lengths - texts.prompt_lengths).sum())
    with torch.random.fork_rng(devices=[]):  # making the model draws its first weights
        policy = base.policy().eval()
    nats = heldout_loss(policy, texts) * tokens
    kept = zip(texts.rows.tolist(), texts.prompt_lengths, texts.lengths, strict=True)
    # Of the tokens that were read: a long text is cut. The end has no bytes.
    ids = (token for row, start, stop in kept for token in row[start:stop] if token < len(spelled))
    return nats / sum(len(spelled[token]) for token in ids)
