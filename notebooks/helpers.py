"""What every notebook uses: the package on the path, fast mode, one look for plots, source on show, checks of exercises."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
import re
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # a clone works without being installed

import minirlhf  # noqa: F401, I001 (before torch: see its __init__.py)
import matplotlib.pyplot as plt
import torch
from IPython.display import HTML, Markdown, display

from minirlhf.runs import pipeline, products
from minirlhf.runs.base import read_base
from minirlhf.config import (
    Config,
    EncoderPretrainConfig,
    EvaluateConfig,
    FinetuneConfig,
    ModelConfig,
    PretrainConfig,
    RewardConfig,
)
from minirlhf.reports.figures import INK, JUDGE, MUTED, REWARD, STYLE
from minirlhf.runs.folder import Run
from minirlhf.tasks.openings import task as openings
from minirlhf.tasks.task import Task

__all__ = [
    "CATEGORIES",
    "FAST",
    "LiveErrors",
    "LiveTraining",
    "coloured_html",
    "coloured_text",
    "draw_training",
    "exercise",
    "fork",
    "new_run",
    "pick",
    "run_stages",
    "scratch_config",
    "show_source",
    "small_config",
    "small_task",
    "still",
    "table",
]

FAST = (
    os.environ.get("MINIRLHF_FAST") == "1"
)  # fewer steps and samples: the code runs, the numbers mean little

# The figures stand on white of their own, so they are legible on a light and on a dark page.
plt.rcParams.update(
    {
        **STYLE,
        "figure.facecolor": "white",
        "axes.facecolor": "white",
        "savefig.facecolor": "white",
        "figure.constrained_layout.use": True,
        "figure.dpi": 100,
    }
)

# Things to compare (settings, methods): none has the judge's blue or the reward's orange.
CATEGORIES = ("#8a4fbf", "#2b8065", "#23272e", "#c2407a", "#9a7b1c")

_folders: list[tempfile.TemporaryDirectory] = []  # kept until the kernel ends


def pick(full, fast):
    """`full`, or in fast mode `fast`."""
    return fast if FAST else full


def show_source(*things, folded: bool = False) -> None:
    """The very source of functions or classes, as it runs, with the file that it stands in.

    folded: only its name is seen until the reader clicks on it.
    """
    for thing in things:
        thing = getattr(thing, "__wrapped__", thing)
        source = textwrap.dedent(inspect.getsource(thing)).rstrip()
        file = f"{thing.__module__.replace('.', '/')}.py"
        head, end = f"`{file}`", ""
        if folded:
            head = f"<details><summary>{thing.__name__} in {file}</summary>\n"
            end = "\n\n</details>"
        display(Markdown(f"{head}\n```python\n{source}\n```{end}"))


def still(widget) -> HTML:
    """A picture of a widget made of boxes, labels, texts and buttons, for readers of a page."""
    frame = "border:1px solid #999;border-radius:4px;padding:6px;max-width:52em"
    return HTML(f'<div style="{frame}">{_drawn(widget)}</div>')


def _drawn(widget) -> str:
    kind = type(widget).__name__
    if kind in ("VBox", "HBox"):
        style = "display:flex;gap:4px;flex-wrap:wrap" if kind == "HBox" else ""
        return f'<div style="{style}">{"".join(map(_drawn, widget.children))}</div>'
    if kind == "Button":
        style = "background:#eee;color:#111;padding:3px 18px;border-radius:2px"
        return f'<span style="{style}">{escape(widget.description)}</span>'
    if kind == "IntProgress":
        filled = "background:#2b8065;height:100%;width:"
        share = 100 * widget.value / widget.max
        bar = f'<div style="{filled}{share:.0f}%"></div>'
        return f'<div style="background:#eee;height:10px">{bar}</div>'
    border = "border:1px solid #ccc;" if kind == "Textarea" else ""
    return f'<div style="{border}padding:4px;margin:4px 0">{escape(widget.value) or "&nbsp;"}</div>'


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table; floats to three digits, whole numbers in thousands; columns of numbers to the right.

    A string that is a number, also with "%", an interval, a "k" or "M" or in bold, counts as one.
    """

    def words(cell: object) -> str:
        if isinstance(cell, float):
            return f"{cell:.3g}"
        return f"{cell:,}" if type(cell) is int else str(cell).replace("|", "\\|")

    body = [[words(cell) for cell in row] for row in rows]
    number = re.compile(
        r"(\*\*)?[-−+]?[\d,.]+(e[-+]\d+)?%?"
        r"( ± [\d.]+| \[[^a-z]+\]| [kMGT](FLOP/s)?)?(\*\*)?|-|–|"
    )
    right = [all(number.fullmatch(cell) for cell in column) for column in zip(*body)]
    rule = [" ---: " if one else " --- " for one in right or [False] * len(header)]
    lines = [f"|{'|'.join(rule)}|"] + [f"| {' | '.join(row)} |" for row in body]
    display(Markdown("\n".join([f"| {' | '.join(header)} |", *lines])))


def coloured_text(
    pieces: Sequence[str], values: Sequence[float], low: float, high: float, title: str = ""
) -> None:
    """Show `coloured_html`."""
    display(coloured_html(pieces, values, low, high, title))


def coloured_html(
    pieces: Sequence[str], values: Sequence[float], low: float, high: float, title: str = ""
) -> HTML:
    """Each piece on a colour from red (`low`) to green (`high`), its value under it."""
    colours = plt.get_cmap("RdYlGn")
    spans = []
    for piece, value in zip(pieces, values):
        full = colours(min(1.0, max(0.0, (value - low) / (high - low))))
        red, green, blue = (
            round(255 * (0.35 + 0.65 * part)) for part in full[:3]
        )  # paler, for dark letters on it
        spans.append(
            f'<span style="display:inline-block;text-align:center;margin:1px;padding:1px 3px;border-radius:3px;'
            f'background:rgb({red},{green},{blue});color:#111;white-space:pre">{escape(piece)}<br>'
            f'<small style="color:#111">{value:.2f}</small></span>'
        )
    head = f"{escape(title)}<br>" if title else ""
    return HTML(f'<div style="line-height:1.3">{head}{"".join(spans)}</div>')


class LiveTraining:
    """Curves that grow while a loop runs, and the newest sample texts under them, in place."""

    def __init__(self, title: str, updates: int):
        self.title, self.updates, self.rows, self.samples = title, updates, [], []
        self.figure, self.axes = plt.subplots(1, 3, figsize=(10, 2.7))
        self.picture = display(self.figure, display_id=True)
        self.texts = display(HTML(""), display_id=True)
        plt.close(self.figure)  # else it would be shown once more at the end of the cell

    def add(self, row: dict, sample: str) -> None:
        """One more update. row: reward, judge, kl_nats, length_tokens. Drawn every four updates."""
        self.rows.append(row)
        if len(self.rows) == 1 or len(self.rows) % 4 == 0 or len(self.rows) == self.updates:
            self.samples.append(f"<b>update {len(self.rows)}:</b> {escape(sample)}")
            self.draw()

    def draw(self) -> None:
        draw_training(self.axes, self.rows, self.updates)
        self.axes[0].set_title(self.title)
        self.picture.update(self.figure)
        self.texts.update(HTML("<br>".join(self.samples)))


class LiveErrors:
    """Error curves that grow while a model learns, in place, with levels to compare them with."""

    def __init__(self, title: str, xlabel: str, ylabel: str, levels: dict[str, float]):
        """levels: label to value, drawn as flat lines."""
        self.labels = {"title": title, "xlabel": xlabel, "ylabel": ylabel}
        self.levels, self.steps, self.curves = levels, [], {}
        self.figure, self.axes = plt.subplots(figsize=(8, 3.2))
        self.picture = display(self.figure, display_id=True)
        plt.close(self.figure)  # else it would be shown once more at the end of the cell

    def add(self, step: int, errors: dict[str, float]) -> None:
        """One more point of each curve."""
        self.steps.append(step)
        for name, error in errors.items():
            self.curves.setdefault(name, []).append(error)
        self.axes.clear()
        for (name, values), colour in zip(self.curves.items(), CATEGORIES):
            self.axes.plot(self.steps, values, "o-", color=colour, label=name)
        for (label, level), style in zip(self.levels.items(), ("--", ":")):
            self.axes.axhline(level, color=MUTED, linestyle=style, label=f"{label}: {level:.3f}")
        self.axes.set(**self.labels, ylim=(0, None))
        self.axes.legend(fontsize=8.5)
        self.picture.update(self.figure)


def draw_training(axes: Sequence[plt.Axes], rows: list[dict], updates: int) -> None:
    """Reward and judge, KL, and length over the updates, in three panels."""
    panels = (
        ("mean score", {"reward": REWARD, "judge": JUDGE}),
        ("KL (nats per text)", {"kl_nats": INK}),
        ("length (tokens)", {"length_tokens": INK}),
    )
    for axis, (label, curves) in zip(axes, panels):
        axis.clear()
        for name, colour in curves.items():
            values = [row[name] for row in rows]
            axis.plot(range(1, len(rows) + 1), values, ".-", color=colour, label=name)
        axis.set(xlabel="update", ylabel=label, xlim=(0, updates + 1), ylim=(0, None))
    axes[0].set_ylim(0, 1)
    axes[0].legend(loc="lower right")


@contextlib.contextmanager
def exercise(number: int, *answers) -> Iterator[None]:
    """Check an exercise: the body asserts. Says "right" or "not yet" and why; never stops the notebook."""
    try:
        yield
    except (
        Exception
    ) as error:  # whatever a half-finished answer raises is news to the reader, not a crash
        reason = (
            str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        )
        if any(answer is ... for answer in answers):
            reason = "no answer yet"
        print(
            f"Exercise {number}: not yet ({reason.splitlines()[0] if reason else 'the check failed'})."
        )
    else:
        print(f"Exercise {number}: right.")


def small_config(**finetune) -> Config:
    """Settings for `small_task`, from the shipped base. `finetune`: its settings to change."""
    return Config(
        device="cpu",
        precision="float32",  # the numbers that are saved in the notebooks, on every machine
        model=read_base().model,
        pretrain=PretrainConfig(start="base", steps=0),
        reward=RewardConfig(
            steps=pick(120, 4),
            batch_size=pick(64, 16),
            learning_rate=3e-3,
            warmup=pick(20, 2),
            evaluate_every=pick(40, 4),
            own_texts=pick(400, 24),
            heldout_share=0.1,
            encoder=EncoderPretrainConfig(steps=pick(1500, 20)),
        ),
        finetune=FinetuneConfig(
            **{
                "updates": pick(60, 3),
                "learning_rate": 7e-4,  # smaller steps than the demo's, for curves to watch
                "batch_size": pick(96, 8),
                "max_new_tokens": pick(56, 24),
                "rounds": 1,
                **finetune,
            }
        ),
        evaluate=EvaluateConfig(samples=pick(256, 8)),
    )


def scratch_config(**finetune) -> Config:
    """As `small_config`, but with a smaller model that is pretrained here, from random weights."""
    config = small_config(**finetune)
    return dataclasses.replace(
        config,
        model=ModelConfig(
            vocab_size=pick(2048, 512), width=pick(128, 32), layers=pick(2, 1), heads=4
        ),
        pretrain=PretrainConfig(
            steps=pick(500, 10), warmup=pick(50, 2), evaluate_every=pick(100, 5)
        ),
        reward=dataclasses.replace(
            config.reward,
            steps=pick(300, 10),
            batch_size=64,
            warmup=pick(30, 2),
            evaluate_every=pick(50, 5),
        ),
    )


def small_task(topics: int = 8, seed: int = 0) -> Task:
    """The task `openings` cut down to a few training topics and two held-out ones, so that all takes seconds, not minutes.

    As in the whole task, the policy reads about the held-out topics in pretraining, but nobody scores texts on them.
    """
    task = openings.load(seed)
    chosen, heldout = task.train_prompts[:topics], task.heldout_prompts[:2]

    def on_topic(pairs):
        return [pair for pair in pairs if pair[0] in chosen + heldout]

    def on_topic_triples(triples):
        return [triple for triple in triples if triple.topic in chosen]

    most = pick(None, 160)  # texts of each kind
    return dataclasses.replace(
        task,
        train_prompts=chosen,
        heldout_prompts=heldout,
        corpus=on_topic(task.corpus)[:most],
        corpus_heldout=on_topic(task.corpus_heldout)[:most],
        feedback=on_topic_triples(task.feedback)[:most],
        authors_feedback=on_topic_triples(task.authors_feedback)[:most],
        handwritten=on_topic_triples(task.handwritten)[:most],
    )


def new_run(config: Config) -> Run:
    """A run in a folder that goes away when the kernel ends."""
    torch.manual_seed(config.seed)
    _folders.append(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
    return Run.create(Path(_folders[-1].name) / "run", config)


def fork(run: Run, config: Config, without: str = "") -> Run:
    """A new run with other settings, from the same tokenizer, pretrained policy and reward model.

    without="reward": the reward model is trained anew.
    """
    other = new_run(config)
    kept = ["tokenizer.json", products.RESULT["pretrain"], products.FIRST_RATINGS]
    if without != "reward":
        kept.append(products.RESULT["reward"])
    for name in kept:
        if (run.path / name).exists():
            shutil.copy(run.path / name, other.path / name)
    return other


def run_stages(run: Run, task: Task, *names: str) -> None:
    """Do stages of a run ("pretrain", "reward", "finetune", "evaluate"). What training warns of stands in the output."""
    with contextlib.redirect_stderr(sys.stdout):
        for name in names:
            pipeline.STAGE_FUNCTIONS[name](run, task)
