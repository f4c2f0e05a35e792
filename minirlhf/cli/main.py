"""The command line: python -m minirlhf demo | data | pretrain | reward | finetune | iterate | evaluate | sample | rate | ..."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from minirlhf.config import (
    Config,
    EvaluateConfig,
    FinetuneConfig,
    ModelConfig,
    PretrainConfig,
    RewardConfig,
    check_config,
)

if TYPE_CHECKING:
    from minirlhf.runs.folder import Run

# torch is imported only when a command runs, so that --help answers at once.


@dataclass(frozen=True)
class RunFolder:
    run: str = "demo"
    """Name of the run: a folder of that name is made under --runs."""
    runs: Path = Path("runs")
    """Where runs are kept."""
    resume: bool = False
    """Go on with an interrupted run, under the settings that it was started with."""
    overwrite: bool = False
    """Replace what is there."""

    @property
    def path(self) -> Path:
        from minirlhf.runs.folder import run_path

        return run_path(self.runs, self.run)

    @property
    def words(self) -> str:
        """The options that lead to this run, for a command line that is proposed."""
        return f"--run {self.run}" + ("" if self.runs == Path("runs") else f" --runs {self.runs}")


@dataclass(frozen=True)
class Demo:
    """The whole main job: pretrain, fit the reward model, fine-tune, let the judge decide, write the report."""

    folder: Annotated[RunFolder, tyro.conf.arg(name="")] = field(default_factory=RunFolder)
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)


@dataclass(frozen=True)
class Pretrain:
    """Start a run: train the tokenizer, then the policy on unscored texts."""

    folder: Annotated[RunFolder, tyro.conf.arg(name="")] = field(default_factory=RunFolder)
    task: Literal["openings", "reviews"] = "openings"
    seed: int = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products; weights are float32 always. auto: bfloat16 on CUDA and on CPUs that multiply it (AVX-512 BF16, AMX)."""
    feedback: Path | None = None
    """Your own scored texts (JSONL: topic, text, score) in place of the task's."""
    score_range: tuple[float, float] = (1.0, 5.0)
    """Lowest and highest score in that file."""
    model: ModelConfig = field(default_factory=ModelConfig)
    pretrain: Annotated[PretrainConfig, tyro.conf.arg(name="")] = field(
        default_factory=PretrainConfig
    )


@dataclass(frozen=True)
class Reward:
    """Fit the reward model of a run that is pretrained."""

    folder: Annotated[RunFolder, tyro.conf.arg(name="")] = field(default_factory=RunFolder)
    reward: Annotated[RewardConfig, tyro.conf.arg(name="")] = field(default_factory=RewardConfig)
    report: bool = False
    """Write the report card: is the reward model good enough to train on? One that is fitted already stays as it is."""
    curve: bool = True
    """Draw the card's learning curve, which fits three more reward models."""


@dataclass(frozen=True)
class Finetune:
    """Push the policy of a run up its reward model."""

    folder: Annotated[RunFolder, tyro.conf.arg(name="")] = field(default_factory=RunFolder)
    finetune: Annotated[FinetuneConfig, tyro.conf.arg(name="")] = field(
        default_factory=FinetuneConfig
    )


@dataclass(frozen=True)
class Iterate:
    """Fine-tune in rounds: each time the present policy's texts are rated and the reward model is refitted."""

    folder: Annotated[RunFolder, tyro.conf.arg(name="")] = field(default_factory=RunFolder)
    person: str | None = None
    """Your name, if you give the ratings yourself, one key each; otherwise the task's (simulated) raters do."""
    finetune: Annotated[FinetuneConfig, tyro.conf.arg(name="")] = field(
        default_factory=FinetuneConfig
    )


@dataclass(frozen=True)
class Evaluate:
    """Judge a run before and after; write summary.json and report.html."""

    folder: Annotated[RunFolder, tyro.conf.arg(name="")] = field(default_factory=RunFolder)
    evaluate: Annotated[EvaluateConfig, tyro.conf.arg(name="")] = field(
        default_factory=EvaluateConfig
    )


@dataclass(frozen=True)
class Sample:
    """Ask the tuned model for a text on a topic."""

    topic: tyro.conf.Positional[str]
    """For example "The benefits of exercise"."""
    run: str = "demo"
    runs: Path = Path("runs")
    count: int = 3
    best_of: int = 1
    """Write this many for each text shown, and show the one that the reward model likes best."""
    compare: bool = False
    """Show texts from before and after fine-tuning side by side."""
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Data:
    """Prepare data: `reviews` downloads real people's scores, `openings` rebuilds the shipped simulated feedback."""

    what: tyro.conf.Positional[Literal["reviews", "openings"]]
    output: Path | None = None
    """Where `openings` writes (default: the shipped file, data/openings.jsonl)."""


@dataclass(frozen=True)
class Rate:
    """Give feedback yourself: score texts of a run, or compare them, one key each."""

    run: str = "demo"
    runs: Path = Path("runs")
    mode: Literal["single", "pair"] = "single"
    """Score one text from 1 to 5, or say which of two is better."""
    output: Path | None = None
    """JSONL file that the answers are added to (default: ratings.jsonl or comparisons.jsonl in the run folder)."""
    rater: str = "me"
    """Your name in the file."""
    count: int = 50
    """Questions."""
    repeats: float = 0.1
    """Share of the questions asked twice, to measure your own consistency."""
    seed: int = 0
    """Raters with the same seed get the same texts, each in an order of their own."""


@dataclass(frozen=True)
class Feedback:
    """What is in a file of scores or comparisons: counts, agreement between raters, noise ceiling."""

    what: tyro.conf.Positional[Literal["summary"]]
    file: tyro.conf.Positional[Path]
    score_range: tuple[float, float] = (1.0, 5.0)
    """Lowest and highest score in the file."""


def run_stages(arguments: Demo | Pretrain | Reward | Finetune | Evaluate) -> None:
    """Do the stages that the command stands for, from run folder to run folder."""
    from minirlhf.runs import pipeline
    from minirlhf.runs.folder import CHECKPOINT, Run
    from minirlhf.system import distributed
    from minirlhf.system.devices import give_back_memory

    folder = arguments.folder
    wanted = pipeline.STAGES if isinstance(arguments, Demo) else (type(arguments).__name__.lower(),)
    if isinstance(arguments, (Demo, Pretrain)):
        if isinstance(arguments, Demo):
            config = arguments.config
        else:
            config = Config(
                arguments.task,
                arguments.seed,
                arguments.device,
                arguments.precision,
                arguments.feedback,
                arguments.score_range,
                arguments.model,
                arguments.pretrain,
            )
        resuming = folder.resume and (folder.path / "config.json").exists()
        if not resuming:
            config.finetune.check()
            check_config(config)
            pipeline.task_from(config)  # bad data is told of before a folder is made
        run = Run.create(folder.path, config, folder.resume, folder.overwrite)
    else:
        distributed.leader_first()
        run = Run.open(folder.path)
        stage = wanted[0]
        missing = [
            s
            for s in pipeline.STAGES[: pipeline.STAGES.index(stage)]
            if not pipeline.is_done(run, s)
        ]
        if missing:
            raise ValueError(
                f"{run.path}: {stage} needs the stage before it; run: "
                f"python -m minirlhf {missing[0]} {folder.words}"
            )
        reports = isinstance(arguments, Reward) and arguments.report
        if not folder.resume and not (
            reports and pipeline.is_done(run, stage) and not folder.overwrite
        ):
            if isinstance(arguments, Finetune):
                arguments.finetune.check()
            later = [
                s
                for s in pipeline.STAGES[pipeline.STAGES.index(stage) :]
                if pipeline.is_done(run, s)
            ]
            if later and not folder.overwrite:
                raise ValueError(
                    f"{run.path}: {stage} is done already; redo it (and what follows) with --overwrite"
                )
            if (run.path / CHECKPOINT).exists() and not folder.overwrite:
                raise ValueError(
                    f"{run.path}: a stage was interrupted here; go on with --resume, or begin anew with --overwrite"
                )
            config = dataclasses.replace(run.config, **{stage: getattr(arguments, stage)})
            check_config(config)
            for s in later:
                (run.path / pipeline.RESULT[s]).unlink(missing_ok=True)
            if stage == "reward":
                forget_feedback(run)
            (run.path / CHECKPOINT).unlink(missing_ok=True)
            run.replace_config(config)
        distributed.leader_done()
    task = pipeline.task_of(run)
    try:
        for stage in wanted:
            if not pipeline.is_done(run, stage):
                pipeline.STAGE_FUNCTIONS[stage](run, task)
                give_back_memory()
    except KeyboardInterrupt:
        command = "demo" if isinstance(arguments, Demo) else wanted[0]
        print(
            f"\nStopped. Go on with: python -m minirlhf {command} {folder.words} --resume",
            file=sys.stderr,
        )
        sys.exit(130)
    if isinstance(arguments, Reward) and arguments.report:
        from minirlhf.evaluation.report_card import report_card

        for check in report_card(run, task, arguments.curve)["checks"]:
            print(f"{'yes' if check['passed'] else 'NO ':4s} {check['question']} {check['answer']}")
        print(f"Report card: {run.path / 'reward_card.html'}")
    elif "evaluate" in wanted:
        print_summary(run.path)
    elif distributed.rank() == 0:
        print(f"done: {wanted[0]} -> {run.path / pipeline.RESULT[wanted[0]]}")
    distributed.stop()


def print_summary(path: Path) -> None:
    """The verdict, in words."""
    import json

    summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))

    def show(value: dict) -> str:
        return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"

    quality, raters = summary["reward_model"], summary["ratings"]
    print(
        f"\nJudge: {summary['judge_name']} (0 to 1; it trained nothing). "
        f"Scores: {raters['shipped']} texts rated by {raters['raters']} raters, {raters['collected']} more on the way."
    )
    print(
        f"Reward model on held-out feedback: Pearson r {quality['pearson']:.3f}, MSE {quality['mse']:.4f} "
        f"(constant {quality['mse_constant']:.4f})"
        + (
            f"; on handwritten texts: Spearman {quality['handwritten_spearman']:.2f}"
            if quality["handwritten_spearman"] is not None
            else ""
        )
    )
    for split, words in (("train", "training topics"), ("heldout", "held-out topics")):
        part = summary[split]
        print(
            f"  {words:16s} judge  {show(part['judge_before'])} -> {show(part['judge_after'])}    "
            f"KL {part['kl_after']:.1f} nats, length {part['length_before']:.0f} -> {part['length_after']:.0f} tokens, "
            f"distinct {part['distinct_after']:.0%}"
        )
        print(f"  {'':16s} reward {show(part['reward_before'])} -> {show(part['reward_after'])}")
        if "fluency_after" in part:
            print(
                f"  {'':16s} fluency {show(part['fluency_before'])} -> {show(part['fluency_after'])} nats a word"
            )
    if summary["reward_hacking"]:
        print(
            "REWARD HACKING: the reward rose and the judge fell. Raise --finetune.kl-weight or improve the reward model."
        )
    for note in summary["notes"]:
        print(f"Note: {note}")
    print(
        f"{summary['seconds']['total']:.0f} s in all, peak memory {summary['peak_rss_mb']} MB. Report: {path / 'report.html'}"
    )


def sample(arguments: Sample) -> None:
    from minirlhf.runs import pipeline
    from minirlhf.runs.folder import Run, run_path
    from minirlhf.system.seeds import step_generator
    from minirlhf.tokenizer import Tokenizer
    from minirlhf.training.rollout import collect

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
            policy,
            policy,
            reward_model,
            tokenizer,
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


def data(arguments: Data) -> None:
    if arguments.what == "reviews":
        from minirlhf.tasks.reviews import task as reviews

        reviews.fetch()
    else:
        from minirlhf.tasks.openings import task as openings

        path = arguments.output or openings.DATA / "openings.jsonl"
        openings.build_feedback(path)
        print(f"wrote {path}")


def forget_feedback(run: Run) -> None:
    """Before the reward model is fitted anew: the policy's texts are rated again, an encoder is pretrained under the present
    settings, and the file of --feedback is read as it is now."""
    from minirlhf.runs import pipeline

    for name in (pipeline.FIRST_RATINGS, pipeline.ENCODER, pipeline.FEEDBACK):
        file = run.path / name
        if run.config.feedback is None or file.resolve() != run.config.feedback.resolve():
            file.unlink(missing_ok=True)


def iterate(arguments: Iterate) -> None:
    from minirlhf.reports.run_report import rounds_of
    from minirlhf.runs import pipeline
    from minirlhf.runs.folder import CHECKPOINT, Run

    folder = arguments.folder
    run = Run.open(folder.path)
    if not pipeline.is_done(run, "pretrain"):
        raise ValueError(
            f"{run.path}: iterate needs a pretrained policy; run: python -m minirlhf pretrain {folder.words}"
        )
    if arguments.finetune.rounds < 1 or arguments.finetune.ratings_per_round < 1:
        raise ValueError("--rounds and --ratings-per-round: expected at least 1")
    if not folder.resume:
        results = [pipeline.RESULT[stage] for stage in ("reward", "finetune", "evaluate")]
        later = [run.path / name for name in (*results, pipeline.FIRST_RATINGS, CHECKPOINT)]
        if any(path.exists() for path in later) and not folder.overwrite:
            raise ValueError(
                f"{run.path}: holds a reward model or more; redo all but pretraining with --overwrite"
            )
        config = dataclasses.replace(run.config, finetune=arguments.finetune)
        check_config(config)
        for path in later:
            path.unlink(missing_ok=True)
        forget_feedback(run)
        run.replace_config(config)
    try:
        pipeline.iterate(run, pipeline.task_of(run), arguments.person)
    except KeyboardInterrupt:
        words = "" if arguments.person is None else f" --person {arguments.person}"
        print(
            f"\nStopped. Go on with: python -m minirlhf iterate {folder.words}{words} --resume",
            file=sys.stderr,
        )
        sys.exit(130)
    for row in rounds_of(run.read("metrics.jsonl")):
        print(
            f"round {row['round']}: judge {row['judge']:.3f}, reward {row['reward']:.3f}; reward model against the judge on "
            f"the policy's own texts: MSE {row['reward_judge_mse']:.4f}, r {row['reward_judge_pearson']:.2f}"
        )
    print_summary(run.path)


def rate(arguments: Rate) -> None:
    from minirlhf.feedback.screens import rate_in_terminal
    from minirlhf.runs.folder import Run, run_path
    from minirlhf.runs.rating import open_session

    if not 1 <= arguments.count <= 10_000:
        raise ValueError(f"--count: expected 1 to 10000, found {arguments.count}")
    run = Run.open(run_path(arguments.runs, arguments.run))
    pairs = arguments.mode == "pair"
    path = arguments.output or run.path / ("comparisons.jsonl" if pairs else "ratings.jsonl")
    session = open_session(
        run, path, pairs, arguments.count, arguments.rater, arguments.repeats, arguments.seed
    )
    rate_in_terminal(session)


def feedback(arguments: Feedback) -> None:
    from minirlhf.feedback import summary as summaries
    from minirlhf.feedback.records import holds_comparisons, read_comparisons, read_triples

    if holds_comparisons(arguments.file):
        summary = summaries.summarise_comparisons(read_comparisons(arguments.file))
    else:
        summary = summaries.summarise_scores(
            read_triples(arguments.file, arguments.score_range), arguments.score_range
        )
    print(summaries.in_words(summary))


def join_processes(command) -> None:
    """Meet the other processes that torchrun started. Only fine-tuning knows how to share its work."""
    if not isinstance(command, Finetune):
        print(
            "error: torchrun: expected the command finetune, which alone can use more than one process",
            file=sys.stderr,
        )
        sys.exit(2)
    if os.environ["RANK"] != "0":
        os.environ["TQDM_DISABLE"] = "1"  # one progress bar is enough
    from minirlhf.system import distributed

    distributed.start()


# Settings that the text argues about have a short name in `demo` too, where all others carry their stage's name.
SHORT = {
    "--algorithm": "--finetune.algorithm",
    "--credit": "--finetune.credit",
    "--baseline": "--finetune.baseline",
    "--gae-lambda": "--finetune.gae-lambda",
    "--target": "--reward.target",
    "--loss": "--reward.loss",
    "--ensemble": "--reward.ensemble",
}
COMMANDS = {
    "demo": Demo,
    "data": Data,
    "pretrain": Pretrain,
    "reward": Reward,
    "finetune": Finetune,
    "evaluate": Evaluate,
    "sample": Sample,
    "rate": Rate,
    "feedback": Feedback,
    "iterate": Iterate,
}


def spelled_out(arguments: list[str]) -> list[str]:
    """Names as tyro knows them: the short ones of `demo` made long, and elsewhere a stage's own prefix taken off.

    So `--finetune.kl-weight`, the name that warnings give, is understood by demo, finetune and iterate.
    """
    command, found = "".join(arguments[:1]), []
    prefix = f"--{ {'iterate': 'finetune'}.get(command, command) }."
    for word in arguments:
        name, equals, value = word.partition("=")
        if command == "demo":
            name = SHORT.get(name, name)
        elif name.startswith(prefix):
            name = "--" + name.removeprefix(prefix)
        found.append(name + equals + value)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Parse and run. Bad input: one line on standard error (or one a fault), exit code 2."""
    arguments = spelled_out(sys.argv[1:] if arguments is None else arguments)
    command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        args=arguments,
        prog="minirlhf",
        config=(tyro.conf.AvoidSubcommands,),
        description="Fine-tune a small language model from language feedback, from scratch, and let a judge decide.",
    )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # started by torchrun
        join_processes(command)
    try:
        {Sample: sample, Data: data, Rate: rate, Feedback: feedback, Iterate: iterate}.get(
            type(command), run_stages
        )(command)
    except (ValueError, OSError) as error:
        words = str(error)
        if isinstance(error, OSError) and error.strerror:
            words = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        print(f"error: {words}", file=sys.stderr)
        if os.environ.get("MINIRLHF_DEBUG"):
            raise
        sys.exit(2)
