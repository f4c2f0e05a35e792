"""minirlhf sample: texts of the tuned policy in the terminal."""

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
            f"--best-of: expected at least 1 and at most 4096 texts in all, found {arguments.best_of}"
        )
    run = Run.open(run_path(arguments.runs, arguments.run))
    if not pipeline.is_done(run, "finetune"):
        raise ValueError(
            f"{run.path}: no tuned policy here yet; run: python -m minirlhf finetune --run {arguments.run}"
        )
    tokenizer = Tokenizer.load(run.path / "tokenizer.json")
    reward_model = pipeline.load_reward_model(run, "reward_final.safetensors", tokenizer)
    longest = run.config.finetune.max_new_tokens
    prompt = tokenizer.encode_prompt(arguments.topic)[-(run.config.model.context - longest) :]

    def texts(tuned: bool) -> list[str]:
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
        best = rollout.reward.view(arguments.count, arguments.best_of).argmax(1).tolist()
        return [
            rollout.texts[index * arguments.best_of + place] for index, place in enumerate(best)
        ]

    if not arguments.compare:
        print("\n".join(texts(tuned=True)))
        return
    width = (shutil.get_terminal_size().columns - 3) // 2
    pairs = [("BEFORE", "AFTER"), *zip(texts(tuned=False), texts(tuned=True))]
    for pair in pairs:
        left, right = (textwrap.wrap(text, width) or [""] for text in pair)
        for index in range(max(len(left), len(right))):
            line = [column[index] if index < len(column) else "" for column in (left, right)]
            print(f"{line[0]:{width}s} | {line[1]}".rstrip())
        print("-" * width + "-+-" + "-" * width)
