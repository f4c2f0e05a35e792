"""The commands that run stages: demo, pretrain, sft, reward, finetune, iterate, evaluate."""

from __future__ import annotations

import dataclasses
import json
import sys
from contextlib import ExitStack
from pathlib import Path

from minirlhf.cli.ending import interrupted
from minirlhf.cli.options import SFT, Demo, Evaluate, Finetune, Iterate, Pretrain, Reward
from minirlhf.config import Config, preset
from minirlhf.system.terminal import quoted, visible, visible_line


def demo(arguments: Demo) -> None:
    """All stages of a new run."""
    from minirlhf.runs import plan, products

    config, folder = arguments.config, arguments.folder
    if arguments.from_scratch:
        steps = config.pretrain.steps or Config().pretrain.steps
        pretrain = dataclasses.replace(config.pretrain, start="scratch", steps=steps)
        config = dataclasses.replace(config, pretrain=pretrain)

    def todo():
        return plan.plan_new(folder.path, config, products.STAGES, folder.resume, folder.overwrite)

    run(folder.path, todo, f"demo {folder.words}")
    print_summary(folder.path)


def pretrain(arguments: Pretrain) -> None:
    """The first stage of a new run; --export also writes the model as a base."""
    from minirlhf.runs import plan
    from minirlhf.runs.base import check_export, export_base
    from minirlhf.runs.folder import Run, read_config
    from minirlhf.runs.products import is_run
    from minirlhf.runs.redo import resumed

    folder = arguments.folder
    others = preset(arguments.common.size, arguments.common.task)
    if folder.resume and is_run(folder.path):
        others = read_config(resumed(folder.path))
    # `pretrain` has no option for the length of texts: a small context shortens the preset's.
    longest = min(others.finetune.max_new_tokens, arguments.common.model.context * 2 // 3)
    config = dataclasses.replace(
        others,
        **vars(arguments.common),
        pretrain=arguments.pretrain,
        finetune=dataclasses.replace(others.finetune, max_new_tokens=longest),
    )
    if arguments.export is not None:
        check_export(arguments.export)

    def todo():
        return plan.plan_new(folder.path, config, ("pretrain",), folder.resume, folder.overwrite)

    words = f"pretrain {folder.words}"
    if arguments.export is not None:
        words += f" --export {quoted(str(arguments.export))}"
    run(folder.path, todo, words)
    report_done(folder.path, "pretrain")
    if arguments.export is not None:
        words = f"python -m minirlhf {quoted(*sys.argv[1:])}"
        opened = Run.open(folder.path, config.device)
        base = export_base(opened, arguments.export, words)
        print(f"exported: {visible_line(str(base.folder))}")


def sft(arguments: SFT) -> None:
    """Let the pretrained model of a run imitate demonstrations."""
    from minirlhf.runs import plan

    folder = arguments.folder

    def todo():
        return plan.plan_stages(
            folder.path,
            ("sft",),
            {"sft": arguments.sft},
            folder.resume,
            folder.overwrite,
            arguments.device,
        )

    run(folder.path, todo, f"sft {folder.words}")
    report_done(folder.path, "sft")


def reward(arguments: Reward) -> None:
    """Train the reward model of a run; with --report write its report card.

    For a report, a reward model that is already trained is kept.
    """
    from minirlhf.runs import plan, run_task
    from minirlhf.runs.folder import Run

    folder = arguments.folder
    command = f"reward {folder.words}"
    is_trained = Run.open(folder.path, arguments.device).is_done("reward")
    keep = arguments.report and is_trained and not (folder.resume or folder.overwrite)

    def todo():
        return plan.plan_stages(
            folder.path,
            ("reward",),
            {"reward": arguments.reward},
            folder.resume,
            folder.overwrite,
            arguments.device,
        )

    words = f"reward {folder.words}"
    if arguments.report:
        words += " --report" if arguments.curve else " --report --no-curve"
    if not arguments.report:
        run(folder.path, todo, words)
        report_done(folder.path, "reward")
        return
    from minirlhf.runs.reward_card import with_scores, write_report_card
    from minirlhf.system.locks import locked

    if not keep:
        run(folder.path, todo, words, ask=with_scores)

    with locked(folder.path, f"python -m minirlhf {command} --report"):
        opened = Run.open(folder.path, arguments.device)
        card = write_report_card(opened, run_task.task_of(opened), arguments.curve)
    for check in card["checks"]:
        line = f"{'yes' if check['passed'] else 'NO ':4s} {check['question']} {check['answer']}"
        print(visible_line(line))
    print(f"Report card: {visible_line(str(folder.path / 'reward_card.html'))}")


def finetune(arguments: Finetune) -> None:
    """Fine-tune the policy of a run; several processes may share the work."""
    from minirlhf.runs import plan
    from minirlhf.system import distributed

    folder = arguments.folder

    def todo():
        return plan.plan_stages(
            folder.path,
            ("finetune",),
            {"finetune": arguments.finetune},
            folder.resume,
            folder.overwrite,
            arguments.device,
        )

    run(folder.path, todo, f"finetune {folder.words}")
    if distributed.rank() == 0:
        report_done(folder.path, "finetune")
    distributed.stop()


def evaluate(arguments: Evaluate) -> None:
    """Let the judge score samples from before and after fine-tuning."""
    from minirlhf.runs import plan

    folder = arguments.folder

    def todo():
        return plan.plan_stages(
            folder.path,
            ("evaluate",),
            {"evaluate": arguments.evaluate},
            folder.resume,
            folder.overwrite,
            arguments.device,
        )

    run(folder.path, todo, f"evaluate {folder.words}")
    print_summary(folder.path)


def iterate(arguments: Iterate) -> None:
    """All stages but the first, in rounds of rating, refitting and fine-tuning."""
    from minirlhf.reports.run_report import rounds_of
    from minirlhf.runs import plan, run_task
    from minirlhf.runs.folder import Run

    folder, settings = arguments.folder, arguments.finetune
    opened = Run.open(folder.path, arguments.device)
    given: dict[str, object] = {"finetune": settings}
    opened.config = dataclasses.replace(opened.config, finetune=settings)
    if not folder.resume:
        # As many samples of the pretrained policy are rated as in each later round.
        own_texts = settings.ratings_per_round
        given["reward"] = dataclasses.replace(opened.config.reward, own_texts=own_texts)

    def todo():
        return plan.plan_stages(
            folder.path,
            ("reward", "finetune", "evaluate"),
            given,
            folder.resume,
            folder.overwrite,
            arguments.device,
        )

    person = [] if arguments.person is None else ["--person", arguments.person]
    words = f"iterate {folder.words} {quoted(*person)}".strip()
    run(
        folder.path,
        todo,
        words,
        ask=lambda task: run_task.with_raters(opened, task, arguments.person),
    )
    for row in rounds_of(opened.read("metrics.jsonl")):
        print(
            f"round {row['round']}: judge {row['judge']:.3f}, reward {row['reward']:.3f}; "
            "reward model against the judge on the policy's own texts: "
            f"MSE {row['reward_judge_mse']:.4f}, r {row['reward_judge_pearson']:.2f}"
        )
    print_summary(folder.path)


def run(path: Path, make_plan, words: str, ask=lambda task: task) -> None:
    """Make a plan, check it, make room for it and carry it out, while the run is locked.

    Ctrl-C prints one line that says how to continue, and exits with code 130. A failure leaves the
    old results as they were, and of a run that could not begin nothing. `ask` may put other raters
    into the task. Of several processes, the first prepares the folder for all.
    """
    from minirlhf.runs import plan, workplace
    from minirlhf.runs.folder import finish_swap
    from minirlhf.runs.products import is_run
    from minirlhf.system import distributed
    from minirlhf.system.locks import locked

    command, is_writer = f"python -m minirlhf {words}", distributed.rank() == 0
    with ExitStack() as at_the_end:
        with distributed.rank_zero_first():
            if is_writer and is_run(path):
                finish_swap(path)
                at_the_end.enter_context(locked(path, command))
            todo, task = plan.check(make_plan())
            task = ask(task)
            if is_writer and todo.new:
                workplace.make_folder(path)
                at_the_end.callback(workplace.remove_if_empty, path)
                at_the_end.enter_context(locked(path, command))
            opened = workplace.prepare(todo)
        try:
            plan.carry_out(opened, task, todo.stages)
        except KeyboardInterrupt as stop:
            unchanged = " The old results are unchanged." if todo.redo else ""
            interrupted(stop, f"Interrupted.{unchanged} Go on with: {command} --resume")
        except (ValueError, OSError):
            workplace.undo(todo)
            raise
        workplace.finish(todo)


def report_done(path: Path, stage: str) -> None:
    """Print which file the stage has written, and which stage of the run comes next."""
    from minirlhf.runs.folder import run_words
    from minirlhf.runs.products import RESULT, is_done, stages_from

    print(f"done: {stage} -> {visible_line(str(path / RESULT[stage]))}")
    after = stages_from(stage)[1]
    # After `pretrain` that depends on the task: `sft` is there only with demonstrations.
    if stage != "pretrain" and not is_done(path, after):
        print(f"next: python -m minirlhf {after} {visible_line(run_words(path))}")


def print_summary(path: Path) -> None:
    """Print the results of a run in words."""
    from minirlhf.cli.summary_words import (
        comparison_lines,
        feedback_words,
        judged_lines,
        quality_lines,
    )

    summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))

    quality = summary["reward_model"]
    judge = f"Judge: {visible_line(summary['judge_name'])} (0 to 1; not used in training)."
    print(f"\n{judge} {feedback_words(summary['ratings'], quality)}")
    print("\n".join(quality_lines(quality)))
    for line in judged_lines(summary) + comparison_lines(summary):
        print(line)
    if summary["reward_hacking"]:
        by_dpo = summary["config"]["finetune"]["algorithm"] == "dpo"
        price = "--finetune.dpo.beta" if by_dpo else "--finetune.kl-weight"
        print(
            "REWARD HACKING: the reward rose and the judge fell. "
            f"Raise {price} or improve the reward model."
        )
    for note in summary["notes"]:
        print(f"Note: {visible(note)}")
    print(
        f"{summary['seconds']['total']:.0f} s in all, peak memory {summary['peak_rss_mb']} MB. "
        f"Report: {visible_line(str(path / 'report.html'))}"
    )
