"""The commands and their options, as dataclasses that tyro turns into a command line.

torch is imported only when a command runs, so that --help answers at once.
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
        from minirlhf.runs.folder import run_words

        return run_words(self.path)


@dataclass(frozen=True)
class Demo:
    """The whole main job: take the shipped pretrained model, fit the reward model, fine-tune, let the judge decide."""

    folder: Annotated[RunFolder, tyro.conf.arg(name="")] = field(default_factory=RunFolder)
    from_scratch: bool = False
    """Pretrain a model first instead of starting from the shipped one."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(
        default_factory=lambda: SIZES["small"]
    )


@dataclass(frozen=True)
class Pretrain:
    """Start a run: train the tokenizer, then the policy on unscored texts."""

    folder: Annotated[RunFolder, tyro.conf.arg(name="")] = field(default_factory=RunFolder)
    export: Path | None = None
    """Folder to which the pretrained model is written as well, for other runs to start from (demo --base FOLDER)."""
    task: Literal["openings", "reviews"] = "openings"
    size: Literal["tiny", "small", "gpu"] = "small"
    """Where the settings start from: `small` for any CPU, `tiny` for a quick look, `gpu` for one large GPU."""
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
