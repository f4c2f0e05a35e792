"""What the parts of benchmarks/instruction_tuning.py share: a base, tuned and judged."""

from __future__ import annotations

from collections.abc import Sequence

from minirlhf.config import preset
from minirlhf.evaluation.judge import sample_texts
from minirlhf.models.policy import Policy
from minirlhf.runs.base import Base
from minirlhf.system.devices import pick_device
from minirlhf.tasks.assistant import compose
from minirlhf.tasks.assistant.items import Demonstration, Item
from minirlhf.tasks.assistant.judge import judge
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.batches import EncodedTexts, Split
from minirlhf.training.demonstrations import train_on_demonstrations

DEMONSTRATIONS = 500
PER_KIND = 60  # prompts of each kind that is judged
DATA_SEED = 7000
SPLITS = ("train", "heldout", "phrasings")


def tuned(base: Base, kinds: tuple[str, ...], seed: int) -> tuple[Policy, Tokenizer]:
    """The base after SFT on demonstrations of these kinds; as it is, if there are none."""
    shown = compose.demonstrations(DEMONSTRATIONS, DATA_SEED + seed, kinds) if kinds else []
    return tuned_on(base, shown, seed)


def tuned_on(base: Base, shown: Sequence[Demonstration], seed: int) -> tuple[Policy, Tokenizer]:
    """The base after SFT on these demonstrations; as it is, if there are none."""
    policy, tokenizer = base.policy().to(pick_device("auto")), base.tokenizer()
    if not shown:
        return policy.eval(), tokenizer
    pairs = [(one.item.conversation, one.answer) for one in shown]
    cut = len(pairs) * 9 // 10
    context = policy.config.context
    texts = Split(
        EncodedTexts(tokenizer, pairs[:cut], context), EncodedTexts(tokenizer, pairs[cut:], context)
    )
    settings = preset("small", "assistant").sft
    return train_on_demonstrations(policy, texts, settings, seed).eval(), tokenizer


def answers_to(
    policy: Policy, tokenizer: Tokenizer, items: list[Item], seed: int, label: str
) -> list[str]:
    """One sample per item."""
    longest = preset("small", "assistant").finetune.max_new_tokens
    prompts = [item.conversation for item in items]
    return sample_texts(policy, tokenizer, prompts, longest, seed, label)


def scores_of(
    policy: Policy, tokenizer: Tokenizer, items: list[Item], seed: int, label: str
) -> list[float]:
    """The judge's score of one sample per item."""
    answers = answers_to(policy, tokenizer, items, seed, label)
    return [judge(item, answer) for item, answer in zip(items, answers, strict=True)]


def judged(policy: Policy, tokenizer: Tokenizer, kinds: tuple[str, ...], split: str) -> list[float]:
    """The judge's scores of one answer to each of PER_KIND prompts of each kind."""
    items = compose.prompts(PER_KIND * len(kinds), DATA_SEED + 100, split, kinds)
    return scores_of(policy, tokenizer, items, 0, f"{split} {' '.join(kinds)}")
