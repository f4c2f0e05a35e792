"""Each token of a text with its numbers: one pass of each model over prompt and text.

log-probability, entropy, likeliest others   the policy of the stage
log ratio                                    the same and the reference
prefix scores r_t                            the reward model
advantage                                    all of them: see advantage.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from minirlhf import equations
from minirlhf.config import FinetuneConfig
from minirlhf.feedback.conversation import Prompt
from minirlhf.look_inside.advantage import token_advantages
from minirlhf.look_inside.looks import Alternative, TextLook, TokenLook
from minirlhf.models.policy import Policy
from minirlhf.system.devices import autocast
from minirlhf.system.terminal import visible_line
from minirlhf.tokenizer import END, SEPARATOR, Tokenizer
from minirlhf.training.rollout import AnyReward, Rollout
from minirlhf.training.truncation import prompt_tokens, text_tokens

OTHERS = 5  # likeliest other tokens shown
# (prompt, text) -> the score in [0, 1] and the points of each rule ({} if the judge has none).
# Raises ValueError for a prompt that it does not know.
Judge = Callable[[Prompt, str], tuple[float, dict[str, float]]]


@dataclass
class LookModels:
    """What looks at a text. `writers` are the policies by stage: base, sft, tuned."""

    writers: dict[str, Policy]
    reference: Policy  # of the KL: the policy before feedback; one of `writers`
    tokenizer: Tokenizer
    reward_model: AnyReward | None = None
    judge: Judge | None = None
    settings: FinetuneConfig = field(default_factory=FinetuneConfig)
    kl_weight: float = 0.0  # reward units per nat, for the advantages

    @property
    def context(self) -> int:
        return self.reference.config.context

    @property
    def device(self) -> torch.device:
        return self.reference.device

    def writer(self, stage: str) -> Policy:
        """The policy of this stage. Raises ValueError if there is none."""
        if stage not in self.writers:
            there = " or ".join(self.writers)
            raise ValueError(f"stage: expected {there}, found {stage!r}")
        return self.writers[stage]

    def prompt(self, prompt: Prompt) -> list[int]:
        """The prompt as tokens, cut as in every stage (see training/truncation.py)."""
        return prompt_tokens(self.tokenizer, prompt, self.context)


@torch.inference_mode()
def look(models: LookModels, prompt: Prompt, text: str | list[int], stage: str) -> TextLook:
    """A text as the models of `stage` see it; `text` may be token ids, as they were sampled.

    A string gets an end token and is cut to the context; ids are taken as they are. Of what
    stands after an end token nothing is looked at. A text that was cut off counts as reward 0 in
    training, and so it does in the advantages; `score` and the prefix scores say what the reward
    model thinks of it as it stands.
    Raises ValueError for an unknown stage, no tokens, ids outside the vocabulary, or more of them
    than fit the context.
    """
    policy, tokenizer = models.writer(stage), models.tokenizer
    prompt_ids = models.prompt(prompt)
    ids = _ids(models, text, models.context - len(prompt_ids))
    ended = ids[-1] == tokenizer.end_id
    rows = torch.tensor([prompt_ids + ids], device=models.device)  # (1, columns)
    prompt_lengths = torch.tensor([len(prompt_ids)], device=models.device)
    tokens, time = rows[:, len(prompt_ids) :], len(ids)  # (1, time)

    with autocast(models.device):
        logits = policy.text_logits(rows, prompt_lengths, time).float()  # (1, time, vocab)
        reference_log_probs = log_probs = equations.token_log_probs(logits, tokens)
        if policy is not models.reference:
            reference_log_probs = models.reference.text_log_probs(rows, prompt_lengths, tokens)
        initial, scores = None, None
        if models.reward_model is not None:
            initial, scores = models.reward_model.prefix_scores(rows, prompt_lengths, time)

    advantages = None
    if initial is not None and scores is not None:
        rollout = _rollout(rows, prompt_lengths, tokens, ended)
        rollout.log_probs, rollout.reference_log_probs = log_probs, reference_log_probs
        rollout.initial_reward, rollout.prefix_rewards = initial, scores.clone()
        if not ended:
            rollout.prefix_rewards[:, -1] = 0.0  # as in training: a text without its end
        rollout.reward = rollout.prefix_rewards[:, -1]
        weights = token_advantages(rollout, models.settings, models.kl_weight)
        advantages = weights[0].tolist()

    log_ratios = (log_probs - reference_log_probs)[0]  # (time,)
    entropies = equations.entropy(logits)[0].tolist()
    others = likeliest_others(tokenizer, logits[0], tokens[0])
    looks = tuple(
        TokenLook(
            text=piece(tokenizer, token),
            token=token,
            prefix_score=None if scores is None else float(scores[0, t]),
            advantage=None if advantages is None else advantages[t],
            log_probability=float(log_probs[0, t]),
            log_ratio=float(log_ratios[t]),
            entropy=entropies[t],
            likeliest=others[t],
        )
        for t, token in enumerate(ids)
    )
    words = tokenizer.decode_text(ids)
    judge, reasons = judged(models.judge, prompt, words)
    return TextLook(
        prompt=prompt,
        text=words,
        stage=stage,
        tokens=looks,
        score=looks[-1].prefix_score,
        initial_score=None if initial is None else float(initial[0]),
        judge=judge,
        reasons=reasons,
        kl=float(log_ratios.sum()),
        ended=ended,
    )


def likeliest_others(
    tokenizer: Tokenizer, logits: Tensor, tokens: Tensor
) -> list[tuple[Alternative, ...]]:
    """For each position the likeliest tokens beside the one that stands there.

    logits (time, vocab), tokens (time,).
    """
    probs = logits.softmax(-1)
    found = probs.scatter(1, tokens[:, None], -1.0).topk(min(OTHERS, probs.shape[1] - 1))
    rows = zip(found.indices.tolist(), found.values.tolist(), strict=True)
    return [
        tuple(
            Alternative(piece(tokenizer, token), token, probability)
            for token, probability in zip(ids, values, strict=True)
        )
        for ids, values in rows
    ]


def piece(tokenizer: Tokenizer, token: int) -> str:
    r"""A token as printable text; a part of a character as its bytes, such as \xf0\x9f.

    Raises ValueError if it is not in the vocabulary.
    """
    if not 0 <= token < tokenizer.vocab_size:
        raise ValueError(f"token id: expected 0 to {tokenizer.vocab_size - 1}, found {token}")
    specials = {tokenizer.end_id: END, tokenizer.separator_id: SEPARATOR}
    if token in specials:
        return specials[token]
    return visible_line(tokenizer.tokens[token].decode("utf-8", "backslashreplace"))


def judged(judge: Judge | None, prompt: Prompt, text: str) -> tuple[float | None, tuple[str, ...]]:
    """The judge's score and why, in words; None and why not, if it does not know the prompt."""
    if judge is None:
        return None, ()
    try:
        score, points = judge(prompt, text)
    except ValueError:
        return None, ("the judge knows only the prompts of its task",)
    return score, tuple(reasons(points))


def reasons(points: dict[str, float]) -> list[str]:
    """The points of each rule in words; rules that neither gave nor took anything are left out."""
    words = []
    for rule, value in points.items():
        if rule == "cap":
            if points.get("rubric", points["score"]) >= value:
                words.append(f"no more than {value:.2f} points in all")
        elif rule not in ("rubric", "score") and round(value, 2) != 0:
            words.append(f"{rule} {value:+.2f}")
    return words


def _ids(models: LookModels, text: str | list[int], room: int) -> list[int]:
    """The tokens to look at, up to the first end."""
    tokenizer = models.tokenizer
    if isinstance(text, str):
        return text_tokens(tokenizer, text, room)
    ids = list(text)
    if tokenizer.end_id in ids:
        ids = ids[: ids.index(tokenizer.end_id) + 1]
    if not ids:
        raise ValueError("text: expected at least one token, found none")
    if len(ids) > room:
        raise ValueError(
            f"text: expected at most {room} tokens after this prompt, found {len(ids)}"
        )
    tokenizer.decode(ids)  # raises ValueError for an id that is none
    return ids


def _rollout(rows: Tensor, prompt_lengths: Tensor, tokens: Tensor, ended: bool) -> Rollout:
    """A rollout of one text; its log-probabilities and rewards are filled in later."""
    zeros = torch.zeros(tokens.shape, device=rows.device)
    return Rollout(
        rows=rows,
        prompt_lengths=prompt_lengths,
        tokens=tokens,
        mask=torch.ones_like(tokens, dtype=torch.bool),
        ended=torch.tensor([ended], device=rows.device),
        log_probs=zeros,
        reference_log_probs=zeros,
        prefix_rewards=zeros,
        initial_reward=zeros[:, 0],
        reward=zeros[:, 0],
        texts=[""],
    )
