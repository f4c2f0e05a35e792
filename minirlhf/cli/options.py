"""The commands and their options, as dataclasses that tyro turns into a command line.

torch is imported only when a command runs, so that --help is fast.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from minirlhf.config import (
    SIZES,
    CommonConfig,
    Config,
    EvaluateConfig,
    FinetuneConfig,
    PretrainConfig,
    RewardConfig,
    SFTConfig,
)
from minirlhf.settings import Count, Finite, NotNegative, Range, Seed, Settings

MOST_SAMPLES = 4096  # that `sample` draws at once

Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True)
class RunFolder(Settings):
    run: str = "demo"
    """Name of the run, which is also the name of its folder under --runs."""
    runs: Path = Path("runs")
    """Folder that holds the runs."""
    resume: bool = False
    """Continue an interrupted run with the settings that it was started with."""
    overwrite: bool = False
    """Replace existing results."""

    @property
    def path(self) -> Path:
        from minirlhf.runs.folder import run_path

        return run_path(self.runs, self.run)

    @property
    def words(self) -> str:
        """The options that select this run, for a command line suggested to the user."""
        from minirlhf.runs.folder import run_words

        return run_words(self.path)


@dataclass(frozen=True)
class Demo(Settings):
    """Run all stages: load the shipped model, train the reward model, fine-tune, judge."""

    folder: Annotated[RunFolder, tyro.conf.arg(name="")] = field(default_factory=RunFolder)
    from_scratch: bool = False
    """Pretrain a model instead of starting from the shipped one."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(
        default_factory=lambda: SIZES["small"]
    )


@dataclass(frozen=True)
class Pretrain(Settings):
    """Start a run: train the tokenizer, then the policy on unscored texts."""

    folder: Annotated[RunFolder, tyro.conf.arg(name="")] = field(default_factory=RunFolder)
    export: Path | None = None
    """Also write the pretrained model to this folder, for other runs (demo --base FOLDER)."""
    common: Annotated[CommonConfig, tyro.conf.arg(name="")] = field(default_factory=CommonConfig)
    pretrain: Annotated[PretrainConfig, tyro.conf.arg(name="")] = field(
        default_factory=PretrainConfig
    )


@dataclass(frozen=True)
class SFT(Settings):
    """Supervised fine-tuning: the pretrained model of a run imitates demonstrations."""

    folder: Annotated[RunFolder, tyro.conf.arg(name="")] = field(default_factory=RunFolder)
    sft: Annotated[SFTConfig, tyro.conf.arg(name="")] = field(default_factory=SFTConfig)
    device: Device = "auto"


@dataclass(frozen=True)
class Reward(Settings):
    """Train the reward model of a pretrained run."""

    folder: Annotated[RunFolder, tyro.conf.arg(name="")] = field(default_factory=RunFolder)
    reward: Annotated[RewardConfig, tyro.conf.arg(name="")] = field(default_factory=RewardConfig)
    report: bool = False
    """Write the report card: is the reward model good enough to train on?
    An already trained model is kept as it is."""
    curve: bool = True
    """Draw the card's learning curve, which trains three more reward models."""
    device: Device = "auto"


@dataclass(frozen=True)
class Finetune(Settings):
    """Fine-tune the policy of a run on its reward model's scores."""

    folder: Annotated[RunFolder, tyro.conf.arg(name="")] = field(default_factory=RunFolder)
    finetune: Annotated[FinetuneConfig, tyro.conf.arg(name="")] = field(
        default_factory=FinetuneConfig
    )
    device: Device = "auto"


@dataclass(frozen=True)
class Iterate(Settings):
    """Iterated RLHF: rate current samples, refit the reward model, fine-tune, repeat."""

    folder: Annotated[RunFolder, tyro.conf.arg(name="")] = field(default_factory=RunFolder)
    person: str | None = None
    """Your name, to give the ratings yourself; otherwise the task's simulated raters do."""
    finetune: Annotated[FinetuneConfig, tyro.conf.arg(name="")] = field(
        default_factory=FinetuneConfig
    )
    device: Device = "auto"


@dataclass(frozen=True)
class Evaluate(Settings):
    """Judge samples from before and after fine-tuning; write summary.json and report.html."""

    folder: Annotated[RunFolder, tyro.conf.arg(name="")] = field(default_factory=RunFolder)
    evaluate: Annotated[EvaluateConfig, tyro.conf.arg(name="")] = field(
        default_factory=EvaluateConfig
    )
    device: Device = "auto"


@dataclass(frozen=True)
class Sample(Settings):
    """Sample texts on a topic, or answers to a question, from the fine-tuned model."""

    topic: tyro.conf.Positional[str]
    """For example "The benefits of exercise"; a question for a run with conversations."""
    run: str = "demo"
    runs: Path = Path("runs")
    count: Annotated[int, Range(at_least=1, at_most=1000)] = 3
    best_of: Count = 1
    """Sample this many per text shown, and show the one that the reward model scores highest."""
    compare: bool = False
    """Show texts from before and after fine-tuning side by side."""
    soft_prompt: str | None = None
    """Runs (under --runs, with commas between them) that have soft prompts for the base of this
    one: the texts of each, written in one batch by the body of this run."""
    temperature: NotNegative = 1.0
    """Divides the logits; 0: always the likeliest token."""
    top_k: Count | None = None
    top_p: Annotated[float, Range(above=0, at_most=1)] | None = None
    seed: Seed = 0
    device: Device = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        few = self.count * self.best_of <= MOST_SAMPLES
        self.require(few, "best_of", f"at most {MOST_SAMPLES} texts in all")
        alone = not self.soft_prompt or not self.compare
        self.require(alone, "compare", "no comparison with --soft-prompt")


@dataclass(frozen=True)
class Chat(Settings):
    """Talk with the models of a run, over several turns; /help lists what else can be typed."""

    run: str = "demo"
    runs: Path = Path("runs")
    model: Literal["tuned", "sft", "base"] | None = None
    """Who answers: the fine-tuned model, the one after supervised fine-tuning, or the base.
    Default: the model of the run's latest stage."""
    soft_prompt: str | None = None
    """A run (under --runs) that has a soft prompt for the base of this one: the body of this run
    answers behind that prompt. /compare shows its other models, too."""
    max_new_tokens: Count | None = None
    """Longest answer in tokens. Default: as in the run's fine-tuning."""
    temperature: NotNegative = 1.0
    """Divides the logits; 0: always the likeliest token."""
    top_k: Count | None = None
    top_p: Annotated[float, Range(above=0, at_most=1)] | None = None
    seed: Seed = 0
    device: Device = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        alone = self.soft_prompt is None or self.model is None
        self.require(alone, "model", "no other model with --soft-prompt, which says who answers")


@dataclass(frozen=True)
class Play(Settings):
    """Open a page in the browser on which you play with a run: write, edit, look at each token."""

    run: str = "demo"
    runs: Path = Path("runs")
    port: Annotated[int, Range(at_least=1, at_most=65535)] | None = None
    """Port of this machine on which the page is served. Default: a free one."""
    browser: bool = True
    """Open the page in the browser."""
    rater: str = "me"
    """Your name, stored with each rating that you give on the page."""
    device: Device = "auto"


@dataclass(frozen=True)
class Data(Settings):
    """Prepare data: `reviews` downloads scores by real people, `openings` rebuilds the shipped
    simulated feedback.
    """

    what: tyro.conf.Positional[Literal["reviews", "openings"]]
    output: Path | None = None
    """Where `openings` writes (default: the shipped file, data/openings.jsonl)."""


@dataclass(frozen=True)
class Rate(Settings):
    """Give feedback yourself: score or compare texts of a run, with one key each."""

    run: str = "demo"
    runs: Path = Path("runs")
    mode: Literal["single", "pair"] = "single"
    """single: score one text from 1 to 5; pair: choose the better of two."""
    output: Path | None = None
    """JSONL file that the answers are appended to.
    Default: ratings.jsonl or comparisons.jsonl in the run folder."""
    rater: str = "me"
    """Your name, stored with each answer."""
    count: Annotated[int, Range(at_least=1, at_most=10_000)] = 50
    """Number of different questions; some come twice (--repeats)."""
    repeats: Annotated[float, Range(at_least=0, at_most=0.5)] = 0.1
    """Fraction of the questions that are asked a second time, to measure your consistency."""
    seed: Seed = 0
    """Raters with the same seed get the same texts, each in a different order."""
    device: Device = "auto"


@dataclass(frozen=True)
class Feedback(Settings):
    """Summarize a file of scores or comparisons: counts, rater agreement, noise ceiling."""

    what: tyro.conf.Positional[Literal["summary"]]
    file: tyro.conf.Positional[Path]
    score_range: tuple[Finite, Finite] = (1.0, 5.0)
    """Lowest and highest score in the file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.score_range
        self.require(low < high, "score_range", "the lowest and then the highest score")
