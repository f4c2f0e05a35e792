"""Ranked answers for the reward model of a run: sampled, ranked by the task's ranker, and kept.

Stage two of InstructGPT (Ouyang et al., 2022): K answers to a prompt are ranked at once, which
takes a rater hardly longer than comparing two, and gives K (K - 1) / 2 comparisons.

Of the four answers to each prompt two are by the model that feedback tunes (after supervised
fine-tuning, SFT), one is by the pretrained base, and one is "misplaced": a sample of the SFT model
for another prompt. Four samples of the SFT model are mostly ties, so they teach little; and a
reward model that never saw an answer to another question gives it a high score. Fine-tuned on such
a reward, the policy gives many questions the same answer, or the same beginning of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minirlhf.evaluation.judge import in_places, sample_as_they_stand
from minirlhf.feedback.conversation import Prompt, in_words
from minirlhf.feedback.duplicates import normal
from minirlhf.feedback.rankings import Ranked, read_rankings, write_rankings
from minirlhf.feedback.splits import draw_heldout
from minirlhf.models.policy import Policy
from minirlhf.runs.folder import Run
from minirlhf.runs.products import HELDOUT_RANKINGS, RANKINGS, RESULT
from minirlhf.runs.run_models import load_policy, model_for_sampling, tokenizer_of
from minirlhf.system.devices import release_freed_memory
from minirlhf.system.seeds import step_generator
from minirlhf.tasks.task import Task
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.prompts import draw_topics
from minirlhf.training.truncation import prompt_tokens

ANSWERS = 4  # per prompt
TRIED = 16  # answers to other prompts, to find one that a prompt has not got itself


def rankings_of(run: Run, task: Task) -> list[Ranked]:
    """The rankings that the reward model learns from, made once and kept in rankings.jsonl.

    Raises ValueError if nobody ranks answers for the task.
    """
    return _kept(run, task, RANKINGS, task.train_prompts, run.config.reward.ranked_prompts)


def heldout_rankings_of(run: Run, task: Task) -> list[Ranked]:
    """Rankings of answers to prompts on held-out topics; nothing is trained on them."""
    count = run.config.reward.ranked_heldout
    if count == 0 or not task.heldout_prompts:
        return []
    return _kept(run, task, HELDOUT_RANKINGS, task.heldout_prompts, count)


def _kept(run: Run, task: Task, name: str, prompts: Sequence[Prompt], count: int) -> list[Ranked]:
    path: Path = run.path / name
    if not path.exists():
        write_rankings(path, new_rankings(run, task, prompts, count, name))
        release_freed_memory()
    return read_rankings(path)


def split_rankings(run: Run, task: Task) -> tuple[list[Ranked], list[Ranked]]:
    """(train, heldout), each in the order of the file: whole prompts are held out at random."""
    rankings, settings = rankings_of(run, task), run.config.reward
    keys = [normal(in_words(one.prompt)) for one in rankings]
    heldout_keys = draw_heldout(sorted(set(keys)), settings.heldout_share, run.config.seed)
    train: list[Ranked] = []
    heldout: list[Ranked] = []
    for key, one in zip(keys, rankings, strict=True):
        (heldout if key in heldout_keys else train).append(one)
    return train, heldout


def check_rankings(task: Task) -> None:
    """Raise ValueError if the task has too few prompts to hold one out."""
    different = len({normal(in_words(prompt)) for prompt in task.train_prompts})
    if different < 2:
        raise ValueError(f"task {task.name}: expected 2 prompts to rank answers to, found 1")


def new_rankings(
    run: Run, task: Task, prompts: Sequence[Prompt], count: int, name: str
) -> list[Ranked]:
    """Answers to `count` of the prompts (to all, if there are fewer), ranked.

    A function of the run's seed, its models and `name`. Raises ValueError if nobody ranks.
    """
    if task.ranker is None:
        raise ValueError(f"task {task.name}: expected a ranker of answers, found none")
    seed = run.config.seed
    generator = step_generator(seed, f"{name} prompts", 0)
    drawn = draw_topics(prompts, min(count, len(prompts)), generator)
    candidates = candidates_for(run, task, drawn, name)
    rankings = []
    for prompt, answers in zip(drawn, candidates, strict=True):
        ranks = tuple(task.ranker(prompt, answers, seed))
        rankings.append(Ranked(prompt, tuple(answers), ranks, task.raters_are))
    return rankings


def candidates_for(run: Run, task: Task, prompts: Sequence[Prompt], name: str) -> list[list[str]]:
    """Four answers to each prompt; samples that were cut off count as they are.

    "mixed": two samples of the SFT model, one of the base, a misplaced one. "sft": four samples of
    the SFT model. Some may be the same text: it has one rank.
    """
    tokenizer = tokenizer_of(run, task)
    tuned = model_for_sampling(run, tokenizer, tuned=False)
    if run.config.reward.ranked_answers == "sft":
        columns = [
            sample_answers(run, tuned, tokenizer, prompts, f"{name} sft {number}")
            for number in range(ANSWERS)
        ]
    else:
        base = load_policy(run, RESULT["pretrain"], tokenizer).eval()
        own = [
            sample_answers(run, tuned, tokenizer, prompts, f"{name} sft {number}")
            for number in range(2)
        ]
        of_base = sample_answers(run, base, tokenizer, prompts, f"{name} base")
        columns = [*own, of_base, misplaced(own[0], own)]
    return [list(answers) for answers in zip(*columns, strict=True)]


def misplaced(answers: Sequence[str], own: Sequence[Sequence[str]]) -> list[str]:
    """For each prompt the answer to another one, from `answers` (one for each prompt).

    It is that of the next prompt: any other, as prompts are drawn at random. `own` holds answers
    to each prompt itself; where the next prompt got one of those too, the one after it is taken,
    and so on.
    """
    chosen = []
    for place in range(len(answers)):
        known = {column[place] for column in own}
        next_ones = [answers[(place + step) % len(answers)] for step in range(1, TRIED + 1)]
        chosen.append(next((other for other in next_ones if other not in known), next_ones[0]))
    return chosen


def sample_answers(
    run: Run, policy: Policy, tokenizer: Tokenizer, prompts: Sequence[Prompt], name: str
) -> list[str]:
    """One sample for each prompt. The random numbers depend on the seed and on `name`.

    Prompts of similar length are sampled together, as padding takes time.
    """
    context = policy.config.context
    lengths = [len(prompt_tokens(tokenizer, prompt, context)) for prompt in prompts]
    by_length = sorted(range(len(prompts)), key=lengths.__getitem__)
    ordered = [prompts[place] for place in by_length]
    longest = run.config.finetune.max_new_tokens
    texts = sample_as_they_stand(policy, tokenizer, ordered, longest, run.config.seed, name)
    return in_places(texts, by_length)
