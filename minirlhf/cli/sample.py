"""minirlhf sample: print texts of the tuned policy, or compare them with those before."""

from __future__ import annotations

import shutil
import textwrap

from minirlhf.cli.options import Sample


def sample(arguments: Sample) -> None:
    from minirlhf.runs import pipeline
    from minirlhf.runs.folder import Run, run_path
    from minirlhf.system.seeds import step_generator
    from minirlhf.tokenizer import Tokenizer
    from minirlhf.training.rollout import Models, collect

    if not 1 <= arguments.count <= 1000:
        raise ValueError(f"--count: expected 1 to 1000, found {arguments.count}")
    if not 1 <= arguments.best_of <= 4096 // arguments.count:
        raise ValueError(
            "--best-of: expected at least 1 and at most 4096 texts in all, "
            f"found {arguments.best_of}"
        )
    run = Run.open(run_path(arguments.runs, arguments.run))
    if not pipeline.is_done(run, "finetune"):
        raise ValueError(
            f"{run.path}: no tuned policy here yet; "
            f"run: python -m minirlhf finetune --run {arguments.run}"
        )
    tokenizer = Tokenizer.load(run.path / "tokenizer.json")
    reward_model = pipeline.load_reward_model(run, pipeline.REWARD_FINAL, tokenizer)
    longest = run.config.finetune.max_new_tokens
    # A prompt that is too long loses its beginning, so that the text fits into the context.
    prompt_limit = run.config.model.context - longest
    prompt = tokenizer.encode_prompt(arguments.topic)[-prompt_limit:]

    def texts(tuned: bool) -> list[str]:
        """The text that the reward model scores highest in each group of `best_of` samples."""
        policy = pipeline.model_for_sampling(run, tokenizer, tuned)
        rollout = collect(
            Models(policy, policy, reward_model, tokenizer),
            [prompt] * (arguments.count * arguments.best_of),
            longest,
            step_generator(arguments.seed, "sample", 0, run.device),
            temperature=arguments.temperature,
            top_k=arguments.top_k,
            top_p=arguments.top_p,
        )
        rewards = rollout.reward.view(arguments.count, arguments.best_of)  # (count, best of)
        best = rewards.argmax(1).tolist()
        starts = range(0, len(rollout.texts), arguments.best_of)
        return [rollout.texts[start + place] for start, place in zip(starts, best, strict=True)]

    if not arguments.compare:
        print("\n".join(texts(tuned=True)))
        return
    pairs = [("BEFORE", "AFTER"), *zip(texts(tuned=False), texts(tuned=True), strict=True)]
    print_side_by_side(pairs)


def print_side_by_side(pairs: list[tuple[str, str]]) -> None:
    """Two columns as wide as the terminal allows, a line below each pair."""
    width = (shutil.get_terminal_size().columns - 3) // 2
    for pair in pairs:
        left, right = (textwrap.wrap(text, width) or [""] for text in pair)
        for index in range(max(len(left), len(right))):
            line = [column[index] if index < len(column) else "" for column in (left, right)]
            print(f"{line[0]:{width}s} | {line[1]}".rstrip())
        print("-" * width + "-+-" + "-" * width)
