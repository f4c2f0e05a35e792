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
    Config,
    EvaluateConfig,
    FinetuneConfig,
    ModelConfig,
    PretrainConfig,
    RewardConfig,
)

Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True)
class RunFolder:
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
class Demo:
    """Run all stages: load the shipped model, train the reward model, fine-tune, judge."""

    folder: Annotated[RunFolder, tyro.conf.arg(name="")] = field(default_factory=RunFolder)
    from_scratch: bool = False
    """Pretrain a model instead of starting from the shipped one."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(
        default_factory=lambda: SIZES["small"]
    )


@dataclass(frozen=True)
class Pretrain:
    """Start a run: train the tokenizer, then the policy on unscored texts."""

    folder: Annotated[RunFolder, tyro.conf.arg(name="")] = field(default_factory=RunFolder)
    export: Path | None = None
    """Also write the pretrained model to this folder, for other runs (demo --base FOLDER)."""
    task: Literal["openings", "reviews"] = "openings"
    size: Literal["tiny", "small", "gpu"] = "small"
    """Preset of all settings: `small` for any CPU, `tiny` for a quick look, `gpu` for a GPU."""
    seed: int = 0
    device: Device = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of matrix products; weights are always float32.
    auto: bfloat16 on CUDA and on CPUs with instructions for it (AVX-512 BF16, AMX)."""
    feedback: Path | None = None
    """Your own scored texts (JSONL: topic, text, score) instead of the task's."""
    score_range: tuple[float, float] = (1.0, 5.0)
    """Lowest and highest score in that file."""
    model: ModelConfig = field(default_factory=ModelConfig)
    pretrain: Annotated[PretrainConfig, tyro.conf.arg(name="")] = field(
        default_factory=PretrainConfig
    )


@dataclass(frozen=True)
class Reward:
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
class Finetune:
    """Fine-tune the policy of a run on its reward model's scores."""

    folder: Annotated[RunFolder, tyro.conf.arg(name="")] = field(default_factory=RunFolder)
    finetune: Annotated[FinetuneConfig, tyro.conf.arg(name="")] = field(
        default_factory=FinetuneConfig
    )
    device: Device = "auto"


@dataclass(frozen=True)
class Iterate:
    """Iterated RLHF: rate current samples, refit the reward model, fine-tune, repeat."""

    folder: Annotated[RunFolder, tyro.conf.arg(name="")] = field(default_factory=RunFolder)
    person: str | None = None
    """Your name, to give the ratings yourself; otherwise the task's simulated raters do."""
    finetune: Annotated[FinetuneConfig, tyro.conf.arg(name="")] = field(
        default_factory=FinetuneConfig
    )
    device: Device = "auto"


@dataclass(frozen=True)
class Evaluate:
    """Judge samples from before and after fine-tuning; write summary.json and report.html."""

    folder: Annotated[RunFolder, tyro.conf.arg(name="")] = field(default_factory=RunFolder)
    evaluate: Annotated[EvaluateConfig, tyro.conf.arg(name="")] = field(
        default_factory=EvaluateConfig
    )
    device: Device = "auto"


@dataclass(frozen=True)
class Sample:
    """Sample texts on a topic from the fine-tuned model."""

    topic: tyro.conf.Positional[str]
    """For example "The benefits of exercise"."""
    run: str = "demo"
    runs: Path = Path("runs")
    count: int = 3
    best_of: int = 1
    """Sample this many per text shown, and show the one that the reward model scores highest."""
    compare: bool = False
    """Show texts from before and after fine-tuning side by side."""
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    device: Device = "auto"


@dataclass(frozen=True)
class Data:
    """Prepare data.

    `reviews` downloads scores by real people; `openings` rebuilds the shipped simulated feedback.
    """

    what: tyro.conf.Positional[Literal["reviews", "openings"]]
    output: Path | None = None
    """Where `openings` writes (default: the shipped file, data/openings.jsonl)."""


@dataclass(frozen=True)
class Rate:
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
    count: int = 50
    """Number of questions."""
    repeats: float = 0.1
    """Fraction of the questions asked twice, to measure your consistency."""
    seed: int = 0
    """Raters with the same seed get the same texts, each in a different order."""
    device: Device = "auto"


@dataclass(frozen=True)
class Feedback:
    """Summarize a file of scores or comparisons: counts, rater agreement, noise ceiling."""

    what: tyro.conf.Positional[Literal["summary"]]
    file: tyro.conf.Positional[Path]
    score_range: tuple[float, float] = (1.0, 5.0)
    """Lowest and highest score in the file."""
