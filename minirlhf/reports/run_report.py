"""The report: one page that shows whether a run worked, made from the files of its run folder alone.

The first thing it says is what the judge (评判) says, before and after, with intervals. The reward model (奖励模型) was
optimised, so its own score proves nothing: where it rose and the judge fell, a red banner says reward hacking.
`write_report` makes report.html. It loads nothing from outside: style and figures are inside.
It works on a run that has not finished, too, and shows what there is. `write_plot` saves the main picture of a finished one as
a PNG (the README's: `write_plot("runs/demo", "benchmarks/results/demo.png")`).
"""

from __future__ import annotations

import json
import statistics
from html import escape
from pathlib import Path

from matplotlib import style
from matplotlib.figure import Figure

from minirlhf.reports import figures, html
from minirlhf.system.files import atomic_write, replacing

RATERS = {
    "simulated": "The raters are simulated: a program gave the scores that the reward model learned from, no person did.",
    "people": "The raters are people: the reward model learned from their scores.",
    "authors": "The authors of the texts gave the scores that the reward model learned from.",
}


def write_report(run: Path) -> Path:
    """Write `run`/report.html from config.json, metrics.jsonl, samples.jsonl and summary.json; return its path.

    A stage that is not there yet is left out, and the page says so; until there is a summary, progress.json stands in
    for it. Raises ValueError (file, line, what was expected) if a file cannot be read or none is there. Atomic.
    """
    run = Path(run)
    files = _read_run(run)
    with style.context(figures.STYLE, after_reset=True):
        page = _page(*files)
    atomic_write(
        run / "report.html", page.encode("utf-8", "replace").decode()
    )  # a lone surrogate becomes "?"
    return run / "report.html"


def write_plot(run: Path, path: Path) -> Path:
    """Save the main picture (before and after; reward and judge as fine-tuning went on) as a PNG; return `path`.

    Raises ValueError as `write_report` does, or if the run has not been fine-tuned and evaluated. Atomic.
    """
    _, metrics, _, summary = _read_run(Path(run))
    finetune, path = _stage(metrics, "finetune"), Path(path)
    if not finetune or not figures.evaluated_splits(summary):
        raise ValueError(f"{run}: expected a run that is fine-tuned and evaluated; it is not yet")
    with style.context({**figures.STYLE, "figure.facecolor": "white"}, after_reset=True):
        figure = Figure(figsize=(10, 3.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        figures.draw_before_after(left, summary)
        left.set_title("Before and after, with 95% intervals")
        figures.draw_scores(right, finetune)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=160)
    return path


# --- reading -------------------------------------------------------------------------------------------------------


def _read_run(run: Path) -> tuple[dict, list[dict], list[dict], dict]:
    """(config, metrics, samples, summary); a file that is not there reads as empty."""
    names = "config.json", "metrics.jsonl", "samples.jsonl", "summary.json"
    if not any((run / name).is_file() for name in names):
        raise ValueError(
            f"{run}: expected a run folder with one of {', '.join(names)}; found none of them"
        )
    config, metrics, samples, summary = (_read_objects(run / name) for name in names)
    summary = summary or _read_objects(run / "progress.json") or [{}]
    return summary[0].get("config") or (config or [{}])[0], metrics, samples, summary[0]


def _read_objects(path: Path) -> list[dict]:
    """The JSON object, or the JSON object of each line; a last line that an interruption cut off is left out."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    parts = (
        [text] if path.suffix == ".json" else text.split("\n")[:-1]
    )  # splitlines would also cut at U+2028
    objects = []
    for number, part in enumerate(parts, start=1):
        if not part.strip():
            continue
        try:
            value = json.loads(part)
        except ValueError as error:
            raise ValueError(f"{path.name}, line {number}: expected JSON, found: {error}") from None
        if not isinstance(value, dict):
            raise ValueError(
                f"{path.name}, line {number}: expected a JSON object, found {type(value).__name__}"
            )
        objects.append(value)
    return objects


def _stage(metrics: list[dict], stage: str) -> list[dict]:
    return [record for record in metrics if record.get("stage") == stage]


def rounds_of(metrics: list[dict]) -> list[dict]:
    """What each round came to, from metrics.jsonl: means over its last ten updates (or as many as there are)."""
    rounds: dict[int, list[dict]] = {}
    for row in metrics:
        if row.get("stage") == "finetune" and "reward_judge_mse" in row:
            rounds.setdefault(row["round"], []).append(row)
    keys = ("judge", "reward", "reward_judge_mse", "reward_judge_pearson", "kl_nats")
    return [
        {"round": number, "updates": len(rows)}
        | {key: statistics.fmean(row[key] for row in rows[-10:]) for key in keys}
        for number, rows in sorted(rounds.items())
    ]


# --- the page ------------------------------------------------------------------------------------------------------


def _change(part: dict, who: str) -> str:
    from minirlhf.evaluation.judge import change  # needs torch

    return change(part[f"{who}_before"], part[f"{who}_after"])


def _verdict(summary: dict, finetune: list[dict]) -> str:
    sentences = []
    for split in figures.evaluated_splits(summary):
        part = summary[split]
        sentences.append(
            f"On {figures.SPLITS[split]} the judge says <b>{html.interval(part['judge_before'])}</b> before and "
            f"<b>{html.interval(part['judge_after'])}</b> after fine-tuning: it {_change(part, 'judge')}. The reward model, "
            f"which was optimised, says {html.interval(part['reward_before'])} before and "
            f"{html.interval(part['reward_after'])} after."
        )
    if not sentences and finetune:
        first, last = (
            f"{html.number(record.get('judge'))} at update {record['step']}"
            for record in (finetune[0], finetune[-1])
        )
        sentences = [
            f"Not evaluated yet. On the texts of fine-tuning the judge says {first} and {last}."
        ]
    verdict = "".join(
        f"<p>{sentence}</p>"
        for sentence in sentences or ["Not fine-tuned yet: there is nothing to judge."]
    )
    if summary.get("reward_hacking"):
        verdict = (
            '<p class="banner" role="alert"><b>Reward hacking.</b> The reward model\'s score rose and the judge\'s score '
            "fell: the policy found texts that the reward model overrates.</p>"
        ) + verdict
    return verdict


def _page(config: dict, metrics: list[dict], samples: list[dict], summary: dict) -> str:
    pretrain, reward, finetune = (
        _stage(metrics, stage) for stage in ("pretrain", "reward", "finetune")
    )
    task, model = (
        str(summary.get("task", config.get("task", "run"))),
        summary.get("reward_model") or {},
    )
    ratings = summary.get("ratings")
    evaluated = figures.evaluated_splits(summary)
    title = (
        f"{task}: the judge {_change(summary[evaluated[0]], 'judge')}"
        if evaluated
        else f"{task}: not judged yet"
    )
    who = "<p>The run does not say yet who gave the scores.</p>"
    if ratings:
        raters = str(ratings.get("raters"))
        who = (
            f"<p><b>{escape(RATERS.get(raters, 'Raters: ' + raters + '.'))}</b> "
            f"{html.number(ratings.get('shipped'), 0)} texts came with scores, {html.number(ratings.get('collected'), 0)} "
            f"more were rated during the run. Judge: {escape(str(summary.get('judge_name', 'not named')))}.</p>"
        )
    notes = "".join(f"<li>{escape(str(note))}</li>" for note in summary.get("notes") or [])
    before_after = Figure(figsize=(9, 3.2), layout="constrained")
    if evaluated:
        figures.draw_before_after(before_after.subplots(), summary)
    sections = [  # (title, what must be there, how to make the HTML)
        (
            "Before and after",
            evaluated,
            lambda: (
                figures.svg(before_after, "Judge and reward before and after")
                + html.before_after_table(summary)
            ),
        ),
        (
            "Fine-tuning",
            finetune,
            lambda: (
                figures.svg(
                    figures.finetune_figure(finetune),
                    "Reward, judge, KL, length, distinct share and entropy against "
                    "minutes of fine-tuning",
                )
                + html.rounds_table(rounds_of(metrics))
            ),
        ),
        ("Samples", samples, lambda: html.samples_tables(samples) + html.over_time_table(samples)),
        (
            "Reward model",
            reward or model,
            lambda: (
                figures.svg(
                    figures.reward_figure(reward, model),
                    "Calibration and error of the reward model",
                )
                + html.reward_model_table(model)
            ),
        ),
        (
            "Pretraining",
            pretrain,
            lambda: figures.svg(
                figures.pretrain_figure(pretrain), "Pretraining loss against steps"
            ),
        ),
        ("Time", summary.get("seconds"), lambda: html.stage_bars(summary["seconds"])),
        (
            "Hardware",
            summary.get("hardware"),
            lambda: html.table(
                [],
                html.flat_rows(
                    {
                        **summary["hardware"],
                        "device used": summary.get("device"),
                        "peak memory (MB)": summary.get("peak_rss_mb"),
                    }
                ),
            ),
        ),
        (
            "Configuration",
            config,
            lambda: html.table([], html.flat_rows({"seed": summary.get("seed"), **config})),
        ),
    ]
    missing = ", ".join(name.lower() for name, there, _ in sections if not there)
    body = "".join(f"<h2>{name}</h2>{make()}" for name, there, make in sections if there)
    who += f"<ul>{notes}</ul>" if notes else ""
    return html.html_page(
        title,
        f"""<section class="verdict">{_verdict(summary, finetune)}{who}
{f"<p>Not in this run yet: {missing}.</p>" if missing else ""}</section>
{body}<h2>How to read this page</h2><ul>{HOW_TO_READ}</ul>""",
    )


HOW_TO_READ = "".join(
    f"<li>{line}</li>"
    for line in (
        "<b>Judge</b> (0 to 1): the measure of success. Its scores trained nothing here. But simulated raters may see the judge's "
        "own rubric, through bias and noise; then raters and judge are not independent.",
        "<b>Reward</b> (0 to 1): the reward model's own opinion. It was optimised, so a rise alone proves nothing.",
        "<b>Reward hacking</b>: the reward rose and the judge fell.",
        "<b>KL</b> (nats per text): how far the policy has moved from the pretrained reference; 0 is no move. In the curves it is "
        "estimated from the sampled tokens, so it may dip below 0.",
        "<b>Length</b> (tokens): a reward that grows with length alone is a warning.",
        "<b>Distinct</b> (share): different texts among those sampled; near 0 the policy says always the same.",
        "<b>Entropy</b> (nats per token): how undecided the policy is about the next token; near 0 it hardly varies.",
        "<b>Loss</b> (nats per token): how much the next token surprises the language model; lower is better.",
        "<b>Calibration</b>: texts grouped by predicted score. On the diagonal, prediction and mean score agree.",
        "<b>MSE</b>: the mean squared error; compare it with that of a constant, which knows nothing about the text.",
        "<b>Pearson and Spearman r</b>: agreement with the scores, in value and in rank; 1 is perfect, 0 is none.",
        "<b>[low, high]</b>: a 95% confidence interval of the mean. &ldquo;Rose&rdquo; and &ldquo;fell&rdquo; are said only where "
        "the 95% interval of the difference leaves out 0.",
        "<b>Held-out topics</b>: in neither feedback nor fine-tuning, unless a note at the top says otherwise.",
    )
)
