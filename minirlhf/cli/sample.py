"""minirlhf sample: print texts of the tuned policy, or compare them with those before."""

from __future__ import annotations

import shutil
import sys
import textwrap

from minirlhf.cli.options import Sample
from minirlhf.system.terminal import visible

NARROWEST = 10  # characters of a column


def sample(arguments: Sample) -> None:
    from minirlhf.models.policy import Policy
    from minirlhf.runs import products, run_models
    from minirlhf.runs.folder import Run, run_path
    from minirlhf.runs.topics import advice_on_topic
    from minirlhf.system.seeds import step_generator
    from minirlhf.tokenizer import Tokenizer
    from minirlhf.training.rollout import Models, collect

    run = Run.open(run_path(arguments.runs, arguments.run), arguments.device)
    if not run.is_done("finetune"):
        raise ValueError(
            f"{run.path}: no tuned policy here yet; run: python -m minirlhf finetune {run.words}"
        )
    tokenizer = Tokenizer.load(run.path / "tokenizer.json")
    reward_model = run_models.load_reward_model(run, products.REWARD_FINAL, tokenizer)
    for line in advice_on_topic(run, tokenizer, arguments.topic):
        print(f"note: {visible(line)}", file=sys.stderr)

    def texts(tuned: bool) -> list[str]:
        """The text that the reward model scores highest in each group of `best_of` samples."""
        count = arguments.count
        if arguments.soft_prompt:
            folders = [run_path(arguments.runs, name) for name in arguments.soft_prompt]
            each = arguments.count * arguments.best_of
            policy: Policy = run_models.behind_soft_prompts(run, folders, each, tokenizer)
            count = arguments.count * len(folders)
        else:
            policy = run_models.model_for_sampling(run, tokenizer, tuned)
        models = Models(policy, policy, reward_model, tokenizer)
        rollout = collect(
            models,
            [models.prompt(arguments.topic)] * (count * arguments.best_of),
            run.config.finetune.max_new_tokens,
            step_generator(arguments.seed, "sample", 0, run.device),
            temperature=arguments.temperature,
            top_k=arguments.top_k,
            top_p=arguments.top_p,
        )
        rewards = rollout.reward.view(count, arguments.best_of)  # (count, best of)
        best = rewards.argmax(1).tolist()
        starts = range(0, len(rollout.texts), arguments.best_of)
        places = zip(starts, best, strict=True)
        return [visible(rollout.texts[start + place]) for start, place in places]

    if not arguments.compare:
        lines = texts(tuned=True)
        if arguments.soft_prompt:  # each text after the name of its prompt
            names = [name for name in arguments.soft_prompt for _ in range(arguments.count)]
            lines = [f"{name}: {text}" for name, text in zip(names, lines, strict=True)]
        print("\n".join(lines))
        return
    pairs = [("BEFORE", "AFTER"), *zip(texts(tuned=False), texts(tuned=True), strict=True)]
    print_side_by_side(pairs)


def print_side_by_side(pairs: list[tuple[str, str]]) -> None:
    """Two columns as wide as the terminal allows, a line below each pair."""
    width = max(NARROWEST, (shutil.get_terminal_size().columns - 3) // 2)
    for pair in pairs:
        left, right = (textwrap.wrap(text, width) or [""] for text in pair)
        for index in range(max(len(left), len(right))):
            line = [column[index] if index < len(column) else "" for column in (left, right)]
            print(f"{line[0]:{width}s} | {line[1]}".rstrip())
        print("-" * width + "-+-" + "-" * width)
