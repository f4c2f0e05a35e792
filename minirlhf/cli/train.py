"""The commands that run stages: demo, pretrain, reward, finetune, iterate, evaluate."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from pathlib import Path

from minirlhf.cli.options import Demo, Evaluate, Finetune, Iterate, Pretrain, Reward
from minirlhf.config import SIZES, Config


def demo(arguments: Demo) -> None:
    """All stages of a new run."""
    from minirlhf.runs import pipeline, plan

    config, folder = arguments.config, arguments.folder
    if arguments.from_scratch:
        steps = config.pretrain.steps or Config().pretrain.steps
        pretrain = dataclasses.replace(config.pretrain, start="scratch", steps=steps)
        config = dataclasses.replace(config, pretrain=pretrain)

    def todo():
        return plan.plan_new(folder.path, config, pipeline.STAGES, folder.resume, folder.overwrite)

    run(todo, f"demo {folder.words}")
    print_summary(folder.path)


def pretrain(arguments: Pretrain) -> None:
    """The first stage of a new run; --export also writes the model as a base."""
    from minirlhf.runs import plan
    from minirlhf.runs.base import check_export, export_base
    from minirlhf.runs.folder import Run

    folder = arguments.folder
    preset = SIZES[arguments.common.size]
    # `pretrain` has no option for the length of texts: a small context shortens the preset's.
    longest = min(preset.finetune.max_new_tokens, arguments.common.model.context * 2 // 3)
    config = dataclasses.replace(
        preset,
        **vars(arguments.common),
        pretrain=arguments.pretrain,
        finetune=dataclasses.replace(preset.finetune, max_new_tokens=longest),
    )
    if arguments.export is not None:
        check_export(arguments.export)

    def todo():
        return plan.plan_new(folder.path, config, ("pretrain",), folder.resume, folder.overwrite)

    run(todo, f"pretrain {folder.words}")
    report_done(folder.path, "pretrain")
    if arguments.export is not None:
        words = " ".join(shlex.quote(word) for word in sys.argv[1:])
        base = export_base(Run.open(folder.path), arguments.export, f"python -m minirlhf {words}")
        print(f"exported: {base.folder}")


def reward(arguments: Reward) -> None:
    """Train the reward model of a run; with --report write its report card.

    For a report, a reward model that is already trained is kept.
    """
    from minirlhf.runs import pipeline, plan
    from minirlhf.runs.folder import Run

    folder = arguments.folder
    keep = arguments.report and pipeline.is_done(Run.open(folder.path), "reward")

    def todo():
        return plan.plan_stages(
            folder.path,
            ("reward",),
            {"reward": arguments.reward},
            folder.resume or (keep and not folder.overwrite),
            folder.overwrite,
        )

    run(todo, f"reward {folder.words}")
    if not arguments.report:
        report_done(folder.path, "reward")
        return
    from minirlhf.runs.reward_card import write_report_card

    opened = Run.open(folder.path)
    card = write_report_card(opened, pipeline.task_of(opened), arguments.curve)
    for check in card["checks"]:
        print(f"{'yes' if check['passed'] else 'NO ':4s} {check['question']} {check['answer']}")
    print(f"Report card: {folder.path / 'reward_card.html'}")


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
        )

    run(todo, f"finetune {folder.words}")
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
        )

    run(todo, f"evaluate {folder.words}")
    print_summary(folder.path)


def iterate(arguments: Iterate) -> None:
    """All stages but the first, in rounds of rating, refitting and fine-tuning."""
    from minirlhf.reports.run_report import rounds_of
    from minirlhf.runs import pipeline, plan
    from minirlhf.runs.folder import Run

    folder, settings = arguments.folder, arguments.finetune
    opened = Run.open(folder.path)
    # As many samples of the pretrained policy are rated as in each later round.
    reward = dataclasses.replace(opened.config.reward, own_texts=settings.ratings_per_round)

    def todo():
        return plan.plan_stages(
            folder.path,
            ("reward", "finetune", "evaluate"),
            {"finetune": settings, "reward": reward},
            folder.resume,
            folder.overwrite,
        )

    person = [] if arguments.person is None else ["--person", arguments.person]
    words = f"iterate {folder.words} {shlex.join(person)}".strip()
    run(todo, words, ask=lambda task: pipeline.with_raters(opened, task, arguments.person))
    for row in rounds_of(opened.read("metrics.jsonl")):
        print(
            f"round {row['round']}: judge {row['judge']:.3f}, reward {row['reward']:.3f}; "
            "reward model against the judge on the policy's own texts: "
            f"MSE {row['reward_judge_mse']:.4f}, r {row['reward_judge_pearson']:.2f}"
        )
    print_summary(folder.path)


def run(make_plan, words: str, ask=lambda task: task) -> None:
    """Make a plan, check it, delete what it replaces and carry it out.

    Ctrl-C prints one line that says how to continue, and exits with code 130. `ask` may put other
    raters into the task. Of several processes, the first prepares the folder for all.
    """
    from minirlhf.runs import plan
    from minirlhf.system import distributed

    with distributed.rank_zero_first():
        todo, task = plan.check(make_plan())
        task = ask(task)
        opened = plan.clear(todo)
    try:
        plan.carry_out(opened, task, todo.stages)
    except KeyboardInterrupt:
        print(f"\nInterrupted. Go on with: python -m minirlhf {words} --resume", file=sys.stderr)
        sys.exit(130)


def report_done(path: Path, stage: str) -> None:
    """Print which file the stage has written."""
    from minirlhf.runs.pipeline import RESULT

    print(f"done: {stage} -> {path / RESULT[stage]}")


def print_summary(path: Path) -> None:
    """Print the results of a run in words."""
    summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))

    def show(value: dict) -> str:
        return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"

    quality, raters = summary["reward_model"], summary["ratings"]
    print(
        f"\nJudge: {summary['judge_name']} (0 to 1; not used in training). "
        f"Scores: {raters['shipped']} texts rated by {raters['raters']} raters, "
        f"{raters['collected']} more during training."
    )
    handwritten = ""
    if quality["handwritten_spearman"] is not None:
        handwritten = f"; on handwritten texts: Spearman {quality['handwritten_spearman']:.2f}"
    print(
        f"Reward model on held-out feedback: Pearson r {quality['pearson']:.3f}, "
        f"MSE {quality['mse']:.4f} (constant {quality['mse_constant']:.4f}){handwritten}"
    )
    for split, words in (("train", "training topics"), ("heldout", "held-out topics")):
        part = summary[split]
        print(
            f"  {words:16s} judge  {show(part['judge_before'])} -> {show(part['judge_after'])}    "
            f"KL {part['kl_after']:.1f} nats, "
            f"length {part['length_before']:.0f} -> {part['length_after']:.0f} tokens, "
            f"distinct {part['distinct_after']:.0%}"
        )
        print(f"  {'':16s} reward {show(part['reward_before'])} -> {show(part['reward_after'])}")
        if "fluency_after" in part:
            before, after = show(part["fluency_before"]), show(part["fluency_after"])
            print(f"  {'':16s} fluency {before} -> {after} nats per word")
    if summary["reward_hacking"]:
        print(
            "REWARD HACKING: the reward rose and the judge fell. "
            "Raise --finetune.kl-weight or improve the reward model."
        )
    for note in summary["notes"]:
        print(f"Note: {note}")
    print(
        f"{summary['seconds']['total']:.0f} s in all, peak memory {summary['peak_rss_mb']} MB. "
        f"Report: {path / 'report.html'}"
    )
