"""TODO"""

from __future__ import annotations

from collections.abc import Sequence

from minirlhf.models.policy import Policy
from minirlhf.models.sampling import sample
from minirlhf.system.seeds import step_generator
from minirlhf.tokenizer import Tokenizer


def sample_texts(
    models: dict[str, Policy],
    tokenizer: Tokenizer,
    topics: Sequence[str],
    count: int,
    max_new_tokens: int,
    seed: int,
) -> list[tuple[str, str, str]]:
    """`count` (topic, text, name of the model) from each model, the topics in turn; texts that were cut off are left out."""
    drawn = []
    for name, model in models.items():
        asked = [topics[index % len(topics)] for index in range(count)]
        for start in range(0, count, 128):
            part = asked[start : start + 128]
            prompts = [
                tokenizer.encode_prompt(topic)[-(model.config.context - max_new_tokens) :]
                for topic in part
            ]
            samples = sample(
                model,
                prompts,
                max_new_tokens,
                tokenizer.end_id,
                randomness=step_generator(seed, f"rate {name}", start, model.device),
            )
            texts = [tokenizer.decode_text(ids) for ids in samples.ids()]
            drawn += [
                (topic, text, name)
                for topic, text, ended in zip(part, texts, samples.ended.tolist())
                if ended
            ]
    return drawn
