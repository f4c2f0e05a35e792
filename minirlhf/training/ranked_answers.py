"""A reward model that learns from rankings of K answers to one prompt (E8, for all pairs at once).

The second stage of InstructGPT (Ouyang et al., 2022): a batch holds whole prompts, each with all of
its answers, so that one pass over K answers serves K (K - 1) / 2 comparisons. As in ranking.py it
is the logits f that are compared, not the scores sigmoid(f).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from minirlhf import equations
from minirlhf.config import RewardConfig
from minirlhf.feedback.rankings import Ranked
from minirlhf.models.encoder import EncoderReward
from minirlhf.models.reward_model import RewardModel
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.batches import Batch, EncodedTexts, Split, draw_alike
from minirlhf.training.reward_objectives import centre


class RankedTexts(EncodedTexts):
    """Encoded answers, those of one prompt in a row, and `ranks` (prompts, answers).

    Raises ValueError unless all prompts have equally many answers, and some of them differ in rank.
    """

    def __init__(self, tokenizer: Tokenizer, rankings: Sequence[Ranked], context: int):
        pairs = [(one.prompt, answer) for one in rankings for answer in one.answers]
        super().__init__(tokenizer, pairs, context)
        counts = sorted({len(one.answers) for one in rankings})
        if len(counts) > 1:
            found = " and ".join(map(str, counts))
            raise ValueError(f"rankings: expected equally many answers each, found {found}")
        self.rankings = rankings
        self.ranks = torch.tensor([one.ranks for one in rankings])
        if not is_pair(self.ranks).any():
            raise ValueError("rankings: expected two answers with different ranks, found only ties")

    @property
    def answers(self) -> int:
        """K, how many answers each prompt has."""
        return self.ranks.shape[1]

    def of_prompts(self, prompts: Tensor, device: torch.device) -> Batch:
        """All answers to the prompts at these places (batch / K,), those of each in a row."""
        rows = prompts[:, None] * self.answers + torch.arange(self.answers)
        return self.batch(rows.flatten(), device)


class RankedAnswers:
    """Learn the order of K answers (E8, all pairs)."""

    loss_name, stops_on = "loss_ranking_nats", "heldout_ranking_nats"
    meaning = "held-out pairs in the right order {heldout_pairs_right:.1%}"

    def __init__(self, texts: Split[RankedTexts], settings: RewardConfig):
        self.texts, self.target = texts, settings.target
        self.prompts = max(1, settings.batch_size // texts.train.answers)  # per batch
        # Prompts with answers of similar length are drawn together.
        self.longest = texts.train.lengths.view(-1, texts.train.answers).amax(1)

    def draw(self, seed: int, name: str, step: int, device: torch.device) -> tuple[Batch, Tensor]:
        """All answers to prompts at random, and their ranks (prompts, K)."""
        drawn = draw_alike(self.longest, self.prompts, seed, name, step)
        return self.texts.train.of_prompts(drawn, device), self.texts.train.ranks[drawn].to(device)

    def loss(self, model: RewardModel | EncoderReward, batch: Batch, ranks: Tensor) -> Tensor:
        return ranked_reward_loss(model, batch, ranks, self.target)

    def heldout(self, predicted: Tensor) -> dict[str, float]:
        """predicted (n,): the scores of the held-out answers by the model."""
        ranks = self.texts.heldout.ranks
        return {
            "heldout_ranking_nats": whole_answers_loss(predicted, ranks),
            "heldout_pairs_right": right_pairs(predicted, ranks).mean().item(),
        }

    def finish(self, member: RewardModel | EncoderReward) -> None:
        """Rankings leave the level of the scores open: the best held-out answers get 1/2.

        The sigmoid is steepest there. With 1/2 for the mean answer, those of a policy that answers
        well would lie where it is flat, and a better answer would hardly get more.
        """
        ranks = self.texts.heldout.ranks
        centre(member, self.texts.heldout, chosen=(ranks == 1).flatten())


def ranked_reward_loss(
    model: RewardModel | EncoderReward, batch: Batch, ranks: Tensor, target: str
) -> Tensor:
    """E8 over all pairs of K answers: of whole answers ("final"), or of their prefixes too.

    `batch` holds the answers to each prompt in a row, `ranks` (prompts, K) their order. For
    "every-prefix" the first t tokens of all K answers are compared, for each t up to the longest of
    them; past its end, the whole of an answer is. (An encoder scores one prefix per pass: it gets
    answers that were cut at random, and compares them as they are.)
    """
    prompts, answers = ranks.shape
    if target != "every-prefix" or not isinstance(model, RewardModel):
        lengths = batch.prompt_lengths + batch.mask.sum(1)
        logits = model.text_logits(batch.rows, lengths, batch.prompt_lengths)
        return equations.ranked_answers_loss(logits.view(prompts, answers), ranks)
    time = batch.tokens.shape[1]
    logits = model.prefix_logits(batch.rows, batch.prompt_lengths, time)  # (batch, time)
    last = batch.mask.sum(1, keepdim=True) - 1  # (batch, 1)
    columns = torch.arange(time, device=logits.device)
    logits = logits.gather(1, columns.minimum(last)).view(prompts, answers, time)
    real = columns <= last.view(prompts, answers).amax(1, keepdim=True)  # (prompts, time)
    # Each prefix length of each prompt is a ranking of its own: (prefixes, K).
    ranks_of_prefixes = ranks[:, None, :].expand(prompts, time, answers)[real]
    return equations.ranked_answers_loss(logits.transpose(1, 2)[real], ranks_of_prefixes)


def is_pair(ranks: Tensor) -> Tensor:
    """Which answer ranks before which: (prompts, K) to (prompts, better, worse), bool."""
    return ranks[:, :, None] < ranks[:, None, :]


def whole_answers_loss(predicted: Tensor, ranks: Tensor) -> float:
    """E8 of whole answers in nats per comparison, from their scores (n,) in [0, 1]."""
    logits = torch.logit(predicted.double(), eps=1e-9).view(ranks.shape)
    return equations.ranked_answers_loss(logits, ranks).item()


def right_pairs(predicted: Tensor, ranks: Tensor) -> Tensor:
    """The share of each prompt's pairs that the scores (n,) put in the right order: (prompts,).

    Equal scores count half. Prompts whose answers are all tied have no pairs and are left out.
    """
    scores = predicted.view(ranks.shape)
    gaps = scores[:, :, None] - scores[:, None, :]  # (prompts, better, worse)
    right = (gaps > 0).double() + 0.5 * (gaps == 0).double()
    pairs = is_pair(ranks).sum((1, 2))
    return ((right * is_pair(ranks)).sum((1, 2)) / pairs)[pairs > 0]
