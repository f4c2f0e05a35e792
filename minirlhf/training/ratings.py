"""Step 4 of section 3.2 (迭代优化): samples of the policy are rated, the reward model refitted."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tqdm import tqdm

from minirlhf.config import Config
from minirlhf.feedback.conversation import AnyPrompt, from_json, to_json
from minirlhf.feedback.records import Triple, to_record
from minirlhf.feedback.splits import without
from minirlhf.models.policy import Policy
from minirlhf.models.sampling import sample
from minirlhf.system import distributed
from minirlhf.system.devices import autocast, release_freed_memory
from minirlhf.system.seeds import step_generator, step_seed
from minirlhf.tasks.task import Task, rated
from minirlhf.tokenizer import BAR_AFTER, Tokenizer
from minirlhf.training.batches import Split
from minirlhf.training.log import TrainLog
from minirlhf.training.prompts import draw_topics
from minirlhf.training.rollout import Models, in_turn
from minirlhf.training.train_reward_model import ScoredTexts, refit_config, train_reward_model
from minirlhf.training.truncation import prompt_tokens

COLLECTED = "collected.jsonl"
SAMPLED_AT_ONCE = 128  # texts


class RatingRounds:
    """Fine-tuning in rounds, between which new texts are rated and the reward model is refitted.

    Where nobody can be asked (the task has no raters), or answers were ranked instead, there is one
    round, and this does nothing.
    """

    def __init__(
        self,
        models: Models,
        task: Task,
        config: Config,
        feedback: Split[list[Triple]],
        log: TrainLog,
    ):
        """`feedback`: the triples that the reward model was trained on, and its held-out ones."""
        self.models, self.task, self.config, self.feedback = models, task, config, feedback
        self.tables = log.tables
        self.collected: list[Triple] = []  # rated on the way
        self.refits = 0
        updates, rounds = config.finetune.updates, config.finetune.rounds if task.raters else 1
        if task.ranker is not None:  # answers were ranked before, once for all
            rounds = 1
        self.starts = [round(index * updates / rounds) for index in range(rounds)]  # first updates

    def round_of(self, update: int) -> int:
        """Which round an update belongs to, from 1."""
        return sum(start <= update for start in self.starts)

    def rate_and_refit_if_due(self, update: int) -> bool:
        """Before the first update of each round but the first. Returns whether it was due."""
        if update not in self.starts[1:]:
            return False
        number = self.starts.index(update)
        if number <= self.refits:  # resumed right after it
            return False
        self.collected += ask_raters(self.models, self.task, self.config, number)
        self.tables.rewrite(COLLECTED, self.as_feedback())
        self.refit(number)
        self.refits = number
        return True

    def refit(self, number: int) -> None:
        """Train the reward model further: on all texts rated so far and as much old feedback."""
        models, config, seed = self.models, self.config, self.config.seed
        context = models.policy.config.context
        draw = random.Random(step_seed(seed, "old feedback", number))
        count = min(len(self.feedback.train), len(self.collected))
        triples = draw.sample(self.feedback.train, count) + self.new_feedback()
        train_reward_model(
            models.reward_model,
            Split(
                ScoredTexts(models.tokenizer, triples, context),
                ScoredTexts(models.tokenizer, self.feedback.heldout, context),
            ),
            refit_config(config.reward, config.finetune.refit_steps),
            seed,
            TrainLog(f"refit {number}", leave_bar=False),
        )
        distributed.broadcast_weights(models.reward_model)
        release_freed_memory()

    def as_feedback(self) -> list[dict]:
        """What was collected as lines of a feedback file, in which no text may be empty."""
        kept = [triple for triple in self.collected if triple.text.strip()]
        return [to_record(triple, *self.task.rating_range) for triple in kept]

    def new_feedback(self) -> list[Triple]:
        """What was collected and may be trained on: the policy may write a held-out text again."""
        return without(self.collected, self.feedback.heldout)

    def state_dict(self) -> dict:
        rows = [vars(triple) | {"topic": to_json(triple.topic)} for triple in self.collected]
        return {"refits": self.refits, "collected": rows}

    def load_state_dict(self, state: dict) -> None:
        self.refits = state["refits"]
        self.collected = [triple_of(row) for row in state["collected"]]


def triple_of(row: dict) -> Triple:
    """The inverse of what `RatingRounds.state_dict` makes of a triple, by way of JSON."""
    topic, ratings = from_json(row["topic"]), tuple(row["ratings"])
    return Triple(**row | {"topic": topic, "ratings": ratings})


def ask_raters(models: Models, task: Task, config: Config, number: int) -> list[Triple]:
    """Sample with the current policy and have the texts rated, also those that were cut off.

    `number` is that of the round that has ended, from 1.
    """
    settings, seed = config.finetune, config.seed
    topics = draw_topics(
        task.train_prompts,
        settings.ratings_per_round,
        step_generator(seed, "rated topics", number),
    )
    generator = step_generator(seed, "rated texts", number, models.device)
    triples = []
    for start in range(0, len(topics), settings.batch_size):
        part = topics[start : start + settings.batch_size]
        prompts = [models.prompt(topic) for topic in part]
        with autocast(models.device):
            samples = sample(
                models.policy,
                prompts,
                settings.max_new_tokens,
                models.tokenizer.end_id,
                randomness=generator,
            )
        for topic, ids in zip(part, samples.ids(), strict=True):
            triples.append(rated(task, topic, models.tokenizer.decode_text(ids), seed))
    return triples


def sample_to_rate(
    models: dict[str, Policy],
    tokenizer: Tokenizer,
    topics: Sequence[AnyPrompt],
    count: int,
    max_new_tokens: int,
    seed: int,
) -> list[tuple[AnyPrompt, str, str]]:
    """`count` samples (topic, text, name of the model) of each model, for raters; topics in turn.

    Texts that were cut off are left out, so there may be fewer.
    """
    drawn = []
    for name, model in models.items():
        asked = in_turn(topics, count)
        starts = range(0, count, SAMPLED_AT_ONCE)
        for start in tqdm(starts, f"sampling {name}", delay=BAR_AFTER, leave=False):
            part = asked[start : start + SAMPLED_AT_ONCE]
            samples = sample(
                model,
                [prompt_tokens(tokenizer, topic, model.config.context) for topic in part],
                max_new_tokens,
                tokenizer.end_id,
                randomness=step_generator(seed, f"rate {name}", start, model.device),
            )
            for topic, ids, ended in zip(part, samples.ids(), samples.ended.tolist(), strict=True):
                if ended:
                    drawn.append((topic, tokenizer.decode_text(ids), name))
    return drawn
