"""The task `assistant` as a run needs it: conversations as prompts, demonstrations, a ranker.

The judge knows which question each conversation of this task asks (an Item), so it can be asked
about these conversations alone. There is no feedback of its own: a run's answers are ranked (or
scored) by three SIMULATED raters (raters.py), who see the judge's score through their own bias and
noise.
"""

from __future__ import annotations

from collections.abc import Sequence

from minirlhf.feedback.conversation import Conversation
from minirlhf.tasks.assistant import compose
from minirlhf.tasks.assistant.items import Item
from minirlhf.tasks.assistant.judge import explain, is_answer, judge, refuses
from minirlhf.tasks.assistant.raters import rank, rate
from minirlhf.tasks.openings.knowledge import DATA
from minirlhf.tasks.task import Safety, Task

CORPUS_SIZE = 20_000  # conversations
HELDOUT_SIZE = 500
DEMONSTRATIONS = 500
TRAIN_PROMPTS, HELDOUT_PROMPTS = 6_000, 1_020
PHRASING_PROMPTS = 1_020  # in phrasings kept from tuning
SAFETY_PROMPTS = 600  # drawn: enough to meet each kept-out request in each phrasing of tuning
CONTEXT = 192  # tokens: a third each for the history, the question and the answer
LOWEST, HIGHEST = 1.0, 5.0  # of the raters' scale
# Apart from the seeds of the corpora that users train on; the prompts are the same in every run.
HELDOUT_SEED_OFFSET = 1_000_003
DATA_SEED = 2024


def load(seed: int, corpus_texts: int = CORPUS_SIZE) -> Task:
    """The task; the seed composes the corpus, of `corpus_texts` conversations, and nothing else."""
    train = compose.prompts(TRAIN_PROMPTS, DATA_SEED, "train")
    heldout = compose.prompts(HELDOUT_PROMPTS, DATA_SEED + 1, "heldout")
    shown = compose.demonstrations(DEMONSTRATIONS, DATA_SEED + 2)
    phrasings = compose.prompts(PHRASING_PROMPTS, DATA_SEED + 4, "phrasings")
    harmful = compose.prompts(SAFETY_PROMPTS, DATA_SEED + 5, "heldout", ("harmful",))
    harmless = compose.prompts(SAFETY_PROMPTS, DATA_SEED + 6, "heldout", ("harmless",))
    # Many questions turn up in several places; the later ones are the same items.
    listed = [one.item for one in shown]
    listed += [*train, *heldout, *phrasings, *harmful, *harmless]
    items = {item.conversation: item for item in listed}

    def item_of(conversation: Conversation) -> Item:
        if conversation not in items:
            raise ValueError("conversation: expected one of the task's, found another")
        return items[conversation]

    texts = conversations(corpus_texts, seed)
    known = set(texts)
    candidates = dict.fromkeys(conversations(3 * HELDOUT_SIZE, seed + HELDOUT_SEED_OFFSET))
    return Task(
        name="assistant",
        train_prompts=different(train),
        heldout_prompts=different(heldout),
        more_prompts={"phrasings": different(phrasings)},
        kind_of=lambda conversation: item_of(conversation).kind,
        safety=Safety(different(harmful), different(harmless), refuses, is_answer),
        corpus=texts,
        corpus_heldout=[pair for pair in candidates if pair not in known][:HELDOUT_SIZE],
        demonstrations=[(one.item.conversation, one.answer) for one in shown],
        judge=lambda conversation, answer: judge(item_of(conversation), answer),
        explain=lambda conversation, answer: explain(item_of(conversation), answer),
        judge_name="rules of tasks/assistant/judge.py (no person)",
        raters=lambda conversation, answer, number: rate(item_of(conversation), answer, number),
        rating_range=(LOWEST, HIGHEST),
        learn_prompts=True,
        ranker=lambda conversation, answers, number: rank(item_of(conversation), answers, number),
        context=CONTEXT,
        base=DATA / "base_assistant",
        base_steps=0,
        notes=(
            "the raters of this task are simulated: no person ranked or scored its answers",
            "the judge is what the simulated raters see through noise",
        ),
    )


def different(items: Sequence[Item]) -> list[Conversation]:
    """The conversations of the items, each once."""
    return list(dict.fromkeys(item.conversation for item in items))


def conversations(count: int, seed: int) -> list[tuple[Conversation, str]]:
    """`count` conversations to pretrain on: the last answer, with all turns before it."""
    return [(turns[:-1], turns[-1].text) for turns in compose.corpus(count, seed)]
