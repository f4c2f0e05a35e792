"""What a stage trains, as its setting `tune` says: all weights, a soft prompt, or both.

tune                    learns              reference of the KL
all                     every weight        a copy of the policy at the start
soft-prompt             the vectors         the body without them (no copy); where the policy
                                            had a soft prompt before, with that one
soft-prompt-and-body    every weight        a copy of the policy at the start, without the
                                            vectors if they are new
"""

from __future__ import annotations

from minirlhf.config import FinetuneConfig, SFTConfig
from minirlhf.models.policy import Policy
from minirlhf.models.soft_prompt import SoftPromptPolicy, first_vectors
from minirlhf.system.seeds import step_generator
from minirlhf.tasks.task import Task
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.truncation import prompt_tokens, text_tokens

EXAMPLES = 8  # (prompt, text) pairs to start vectors from; 8 are enough for any length


def policy_to_tune(
    start: Policy,
    settings: SFTConfig | FinetuneConfig,
    task: Task,
    tokenizer: Tokenizer,
    seed: int,
) -> Policy:
    """The policy that a stage trains, with gradients where it learns; its body is that of `start`.

    A soft prompt that `start` has goes on being tuned; otherwise a new one begins as
    `settings.soft_prompt` says. Raises ValueError if it has another length than the settings ask
    for, or leaves no room in the context.
    """
    if isinstance(start, SoftPromptPolicy):
        vectors = start.soft_prompt.vectors.detach()
        check_length(len(vectors), settings)
    elif settings.tune == "all":
        return start
    else:
        wanted = settings.soft_prompt
        generator = step_generator(seed, f"{settings.place}soft prompt", 0)
        tokens = example_tokens(task, tokenizer, start.config.context)
        vectors = first_vectors(start, wanted.length, wanted.start, tokens, generator)
    return SoftPromptPolicy(start, vectors, frozen_body=settings.tune == "soft-prompt")


def check_length(length: int, settings: SFTConfig | FinetuneConfig) -> None:
    """Raise ValueError if a stage would go on with vectors of another length than it asks for."""
    if settings.tune != "all" and length != settings.soft_prompt.length:
        option = f"--{settings.place}soft-prompt.length"
        raise ValueError(
            f"{option}: expected {length}, as the run's soft prompt has it, "
            f"found {settings.soft_prompt.length}"
        )


def reference_of(start: Policy, tune: str) -> Policy:
    """The reference of the KL: the policy as fine-tuning starts, without what is newly added.

    Only what learns is copied: behind a frozen body there is no second one.
    """
    if tune != "soft-prompt":
        return start.frozen_copy()
    if not isinstance(start, SoftPromptPolicy):
        return start.requires_grad_(False)
    return SoftPromptPolicy(start, start.soft_prompt.vectors).requires_grad_(False)


def example_tokens(task: Task, tokenizer: Tokenizer, context: int) -> list[int]:
    """Prompts and texts of the task, back to back: demonstrations, else the best it has."""
    pairs = list(task.demonstrations[:EXAMPLES])
    if not pairs:
        best = sorted(task.feedback, key=lambda triple: -triple.score)[:EXAMPLES]
        pairs = [(triple.topic, triple.text) for triple in best]
    if not pairs:
        pairs = list(task.corpus[:EXAMPLES])
    rows = [
        prompt_tokens(tokenizer, prompt, context) + text_tokens(tokenizer, text, context)
        for prompt, text in pairs
    ]
    return [token for row in rows for token in row]
