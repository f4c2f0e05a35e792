"""Compares the limits of a run with the user's own texts, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable

from minirlhf.feedback.conversation import Prompt, in_words
from minirlhf.tokenizer import Tokenizer


def length_warning(
    tokenizer: Tokenizer, pairs: Iterable[tuple[Prompt, str]], context: int, max_new_tokens: int
) -> str | None:
    """One line on how many of the (topic, text) pairs are longer than the limits; None if none is.

    A text's tokens include its end. What is longer than `max_new_tokens` a policy can only write
    without its end; what is longer than the context loses its end in training, too.
    """
    pairs = list(dict.fromkeys(pairs))
    prompts = {topic: len(tokenizer.encode_prompt(in_words(topic))) for topic, _ in pairs}
    lengths = [len(tokenizer.encode_text(text)) for _, text in pairs]
    whole = [prompts[topic] + length for (topic, _), length in zip(pairs, lengths, strict=True)]
    too_long = sum(length > max_new_tokens for length in lengths)
    beyond_context = sum(length > context for length in whole)
    if not too_long and not beyond_context:
        return None
    found, advice = [], []
    if too_long:
        found.append(
            f"{too_long:,} have more than --finetune.max-new-tokens {max_new_tokens} tokens, and "
            "samples of that length are cut off and earn nothing for their end"
        )
        advice.append(f"--finetune.max-new-tokens to {max(lengths)}")
    if beyond_context:
        found.append(
            f"{beyond_context:,} have, with their topic, more than --model.context {context} and "
            "lose their end"
        )
    if max(whole) > context:
        advice.append(f"--model.context to {max(whole)} (with --from-scratch)")
    return f"of {len(pairs):,} scored texts {'; '.join(found)}: raise {' and '.join(advice)}"
