"""Writing with a model of a run, token by token; with best-of-n, and on from a token of one's own.

for event in write(models, prompt, "tuned"):
    a Written: one token more
    a Chosen, last of all: the tokens of the text, or of the best of n
look(models, prompt, chosen.tokens, "tuned")
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from minirlhf.feedback.conversation import Prompt
from minirlhf.look_inside.tokens import LookModels, piece
from minirlhf.models.next_token import SamplingOptions
from minirlhf.models.sampling import stream
from minirlhf.system.seeds import step_generator
from minirlhf.training.rollout import scores_of


@dataclass(frozen=True)
class WritingOptions:
    """How a text is written: alone, or as the best of n."""

    sampling: SamplingOptions = SamplingOptions()
    seed: int = 0
    best_of_n: int = 1


@dataclass(frozen=True)
class Written:
    """One token, just drawn."""

    number: int  # of the text it belongs to, 0 .. best_of_n - 1
    token: int
    text: str  # printable, as in TokenLook


@dataclass(frozen=True)
class Chosen:
    """The end of writing: the text, or the one of n that the reward model scores highest."""

    number: int
    tokens: list[int]  # with those that were kept, and the end token if the text has ended
    scores: list[float]  # of all n texts, as training counts them; empty where only one is written


def write(
    models: LookModels,
    prompt: Prompt,
    stage: str,
    options: WritingOptions = WritingOptions(),
    kept: Sequence[int] = (),
) -> Iterator[Written | Chosen]:
    """Each token as it is drawn, text after text; last of all which text is taken.

    `kept` are tokens with which each text begins; they are not drawn and not among the events.
    What if another token stood here? `kept` is the text up to it, then that token.
    A text is as long as in training at most, and prompt and text fit the context. The same seed
    gives the same text, at every stage the same random numbers.
    Raises ValueError, before anything is drawn, for an unknown stage, best_of_n under 1 or without
    a reward model, or kept tokens that are not in the vocabulary or leave no room.
    """
    policy, tokenizer, best_of_n = models.writer(stage), models.tokenizer, options.best_of_n
    if best_of_n < 1:
        raise ValueError(f"best_of_n: expected 1 or more, found {best_of_n}")
    if best_of_n > 1 and models.reward_model is None:
        raise ValueError("best_of_n: expected a run with a reward model, found none in this run")
    prompt_ids, kept = models.prompt(prompt), list(kept)
    tokenizer.decode(kept)  # raises ValueError for an id that is none
    longest = min(models.settings.max_new_tokens, models.context - len(prompt_ids))
    ended = tokenizer.end_id in kept
    if len(kept) >= longest and not ended:
        raise ValueError(f"kept: expected fewer than {longest} tokens, found {len(kept)}")

    def events() -> Iterator[Written | Chosen]:
        texts = [list(kept) for _ in range(best_of_n)]
        for number, text in enumerate(texts):
            if ended:
                continue
            generator = step_generator(options.seed, "look", number, models.device)
            drawn = stream(
                policy,
                prompt_ids + kept,
                longest - len(kept),
                tokenizer.end_id,
                options.sampling,
                generator,
            )
            for token in drawn:
                text.append(token)
                yield Written(number, token, piece(tokenizer, token))
        scores = rewards(models, prompt_ids, texts) if best_of_n > 1 else []
        best = max(range(best_of_n), key=lambda number: scores[number]) if scores else 0
        yield Chosen(best, texts[best], scores)

    return events()


def rewards(models: LookModels, prompt: list[int], texts: list[list[int]]) -> list[float]:
    """The reward model's scores in [0, 1] of texts on one prompt; 0 for one that has no end.

    Raises ValueError if there is no reward model.
    """
    if models.reward_model is None:
        raise ValueError("expected a reward model, found none")
    scores = scores_of(models.reward_model, prompt, texts)
    end = models.tokenizer.end_id
    return [score if text[-1] == end else 0.0 for score, text in zip(scores, texts, strict=True)]
