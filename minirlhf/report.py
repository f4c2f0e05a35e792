"""The report: one page that shows whether a run worked, made from the files of its run folder alone.

The first thing it says is what the judge (评判) says, before and after, with intervals. The reward model (奖励模型) was
optimised, so its own score proves nothing: where it rose and the judge fell, a red banner says reward hacking.
`write_report` makes report.html. It loads nothing from outside: the style is inside, and each figure is inline SVG
whose colours are CSS variables, so that one file is legible in light and in dark browsers.
`write_plot` saves the main picture as a PNG. Both work on a run that has not finished and show what there is.
"""
from __future__ import annotations

import io
import json
import os
import re
import statistics
from html import escape
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # used without pyplot: no global state; savefig draws PNG with Agg
from matplotlib.ticker import MaxNLocator

from minirlhf.files import atomic_write, replacing

# name: (light, dark). Figures are drawn in the light colours; in the page each becomes the CSS variable of its name.
COLOURS = {"ink": ("#23272e", "#e4e6ea"), "muted": ("#667080", "#9ca5b2"), "grid": ("#dde1e7", "#3a414b"),
           "judge": ("#1d5fbe", "#7db2ff"), "reward": ("#c55f0b", "#ffa351"), "other": ("#2b8065", "#70cfa9")}
INK, MUTED, GRID, JUDGE, REWARD, OTHER = (light for light, _ in COLOURS.values())
STYLE = {"text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": MUTED, "xtick.color": MUTED,
         "ytick.color": MUTED, "xtick.labelcolor": INK, "ytick.labelcolor": INK, "grid.color": GRID, "axes.grid": True,
         "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10,
         "axes.titlelocation": "left", "font.size": 9.5, "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
         "figure.facecolor": "none", "axes.facecolor": "none",
         "legend.frameon": False, "lines.linewidth": 1.6, "svg.fonttype": "none", "svg.hashsalt": "minirlhf"}
STAGES = {"pretrain": "pretraining", "reward": "reward model", "finetune": "fine-tuning", "evaluate": "evaluation"}
SPLITS = {"train": "training topics", "heldout": "held-out topics"}
TOPICS_SHOWN = 8  # before/after samples, for each split
RATERS = {"simulated": "The raters are simulated: a program gave the scores that the reward model learned from, no person did.",
          "people": "The raters are people: the reward model learned from their scores.",
          "authors": "The authors of the texts gave the scores that the reward model learned from."}


def write_report(run: Path) -> Path:
    """Write `run`/report.html from config.json, metrics.jsonl, samples.jsonl and summary.json; return its path.

    A stage that is not there yet is left out, and the page says so; until there is a summary, progress.json stands in
    for it. Raises ValueError (file, line, what was expected) if a file cannot be read or none is there. Atomic.
    """
    run = Path(run)
    files = _read_run(run)
    with style.context(STYLE, after_reset=True):
        page = _page(*files)
    atomic_write(run / "report.html", page.encode("utf-8", "replace").decode())  # a lone surrogate becomes "?"
    return run / "report.html"


def write_plot(run: Path, path: Path) -> Path:
    """Save the main picture (before and after; reward and judge as fine-tuning went on) as a PNG; return `path`.

    Raises ValueError as `write_report` does, or if the run has not been fine-tuned and evaluated. Atomic.
    """
    _, metrics, _, summary = _read_run(Path(run))
    finetune, path = _stage(metrics, "finetune"), Path(path)
    if not finetune or not _evaluated(summary):
        raise ValueError(f"{run}: expected a run that is fine-tuned and evaluated; it is not yet")
    with style.context({**STYLE, "figure.facecolor": "white"}, after_reset=True):
        figure = Figure(figsize=(10, 3.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw_before_after(left, summary)
        left.set_title("Before and after, with 95% intervals")
        _draw_scores(right, finetune)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=160)
    return path


# --- reading -------------------------------------------------------------------------------------------------------

def _read_run(run: Path) -> tuple[dict, list[dict], list[dict], dict]:
    """(config, metrics, samples, summary); a file that is not there reads as empty."""
    names = "config.json", "metrics.jsonl", "samples.jsonl", "summary.json"
    if not any((run / name).is_file() for name in names):
        raise ValueError(f"{run}: expected a run folder with one of {', '.join(names)}; found none of them")
    config, metrics, samples, summary = (_read_objects(run / name) for name in names)
    summary = summary or _read_objects(run / "progress.json") or [{}]
    return summary[0].get("config") or (config or [{}])[0], metrics, samples, summary[0]


def _read_objects(path: Path) -> list[dict]:
    """The JSON object, or the JSON object of each line; a last line that an interruption cut off is left out."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    parts = [text] if path.suffix == ".json" else text.split("\n")[:-1]  # splitlines would also cut at U+2028
    objects = []
    for number, part in enumerate(parts, start=1):
        if not part.strip():
            continue
        try:
            value = json.loads(part)
        except ValueError as error:
            raise ValueError(f"{path.name}, line {number}: expected JSON, found: {error}") from None
        if not isinstance(value, dict):
            raise ValueError(f"{path.name}, line {number}: expected a JSON object, found {type(value).__name__}")
        objects.append(value)
    return objects


def _stage(metrics: list[dict], stage: str) -> list[dict]:
    return [record for record in metrics if record.get("stage") == stage]


def _series(records: list[dict], x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the records that have both, in the order of the file."""
    points = [(record[x], record[y]) for record in records if record.get(x) is not None and record.get(y) is not None]
    return tuple(np.array(points, dtype=float).reshape(-1, 2).T)


def rounds_of(metrics: list[dict]) -> list[dict]:
    """What each round came to, from metrics.jsonl: means over its last ten updates (or as many as there are)."""
    rounds: dict[int, list[dict]] = {}
    for row in metrics:
        if row.get("stage") == "finetune" and "reward_judge_mse" in row:
            rounds.setdefault(row["round"], []).append(row)
    keys = ("judge", "reward", "reward_judge_mse", "reward_judge_pearson", "kl_nats")
    return [{"round": number, "updates": len(rows)} | {key: statistics.fmean(row[key] for row in rows[-10:]) for key in keys}
            for number, rows in sorted(rounds.items())]


def _evaluated(summary: dict) -> list[str]:
    """The splits that were judged before and after."""
    return [split for split in SPLITS if "judge_after" in summary.get(split, {})]


# --- figures -------------------------------------------------------------------------------------------------------

def _draw_before_after(axis: Axes, summary: dict) -> None:
    """One row for each of judge and reward on each split: before (hollow) and after (filled), both with intervals."""
    rows = [(who, split) for who in ("judge", "reward") for split in _evaluated(summary)]
    for row, (who, split) in enumerate(rows):
        colour = JUDGE if who == "judge" else REWARD
        for when, face, offset in (("before", "none", 7), ("after", colour, -15)):
            score = summary[split].get(f"{who}_{when}")
            if score:
                axis.plot([score["low"], score["high"]], [row, row], color=colour, linewidth=1.2)
                axis.plot(score["mean"], row, "o", color=colour, markerfacecolor=face, markersize=6)
                axis.annotate(f"{when} {score['mean']:.2f}", (score["mean"], row), (0, offset),
                              textcoords="offset points", ha="center", fontsize=8)
    axis.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.6), xlabel="score (0 to 1)", yticks=range(len(rows)))
    axis.set_yticklabels([f"{'judge' if who == 'judge' else 'reward model'},\n{SPLITS[split]}" for who, split in rows])
    axis.grid(axis="y", visible=False)


def _draw_scores(axis: Axes, finetune: list[dict]) -> None:
    """Reward and judge, both 0 to 1, against minutes; the upper axis counts updates."""
    for key, label, colour in (("reward", "reward model (optimised)", REWARD), ("judge", "judge (never optimised)", JUDGE)):
        seconds, values = _series(finetune, "seconds", key)
        if values.size:
            axis.plot(seconds / 60, values, "-o", color=colour, label=label, markersize=2)
    _mark_rounds(axis, finetune, "new ratings, reward model refitted")
    axis.set(ylim=(0, 1), xlabel="minutes of fine-tuning", ylabel="mean score (0 to 1)")
    axis.set_xlim(left=0)
    axis.legend(loc="lower right", fontsize=8.5)
    seconds, _ = _series(finetune, "seconds", "step")
    steps, _ = _series(finetune, "step", "step")
    ticks = [tick for tick in MaxNLocator(6, integer=True).tick_values(steps[0], steps[-1]) if steps[0] <= tick <= steps[-1]]
    upper = axis.secondary_xaxis("top")
    upper.set_xticks(np.interp(ticks, steps, seconds / 60), [f"{tick:.0f}" for tick in ticks])
    upper.set_xlabel("updates")


def _mark_rounds(axis: Axes, finetune: list[dict], label: str | None = None) -> None:
    """Shade the time between two rounds, in which no update is made."""
    seconds, rounds = _series(finetune, "seconds", "round")
    for place in np.flatnonzero(np.diff(rounds)):
        axis.axvspan(seconds[place] / 60, seconds[place + 1] / 60, color=MUTED, alpha=0.25, linewidth=0, label=label)
        label = None


def _figure_finetune(finetune: list[dict]) -> Figure:
    figure = Figure(figsize=(9, 7.4), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1)
    grid = figure.add_gridspec(3, 2, height_ratios=(2.1, 1, 1))
    scores = figure.add_subplot(grid[0, :])
    _draw_scores(scores, finetune)
    panels = (("kl_nats", "KL to the reference (nats per text)"), ("length_tokens", "length (tokens per text)"),
              ("distinct", "distinct texts (share, 0 to 1)"), ("entropy_nats_per_token", "entropy (nats per token)"))
    for place, (key, title) in enumerate(panels):
        axis = figure.add_subplot(grid[1 + place // 2, place % 2], sharex=scores)
        seconds, values = _series(finetune, "seconds", key)
        axis.plot(seconds / 60, values, "-o", color=OTHER, markersize=2)
        _mark_rounds(axis, finetune)
        axis.set_title(title)
        top = 1 if key == "distinct" else max(values[np.isfinite(values)], default=0) * 1.1 or 1
        axis.set(ylim=(min(0, *values[np.isfinite(values)], 0), top), xlabel="minutes" if place > 1 else None)
    return figure


def _figure_pretrain(pretrain: list[dict]) -> Figure:
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axis = figure.subplots()
    _draw_losses(axis, pretrain, (("loss_nats_per_token", "training batch"), ("heldout_loss_nats_per_token", "held-out")))
    axis.set(xlabel="step", ylabel="loss (nats per token)")
    return figure


def _draw_losses(axis: Axes, records: list[dict], keys: tuple) -> None:
    for (key, label), colour, marker in zip(keys, (MUTED, JUDGE), ("-", "-o")):
        steps, values = _series(records, "step", key)
        axis.plot(steps, values, marker, color=colour, label=label, markersize=3, linewidth=1 if marker == "-" else 1.6)
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8.5)


def _figure_reward(reward: list[dict], model: dict) -> Figure:
    """Calibration on the left; the error as the reward model learned, with the constant baseline, on the right."""
    figure = Figure(figsize=(9, 3.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1, label="perfect calibration")
    bins = model.get("calibration") or []
    for number, group in enumerate(bins):
        left.plot([group["predicted"]] * 2, [group["low"], group["high"]], color=REWARD, linewidth=1.2)
        left.plot(group["predicted"], group["observed"], "o", color=REWARD, markersize=5,
                  label=None if number else "held-out texts, 95% interval")
    left.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="predicted score", ylabel="mean observed score")
    left.set_title("Calibration")
    left.legend(fontsize=8.5, loc="lower right")
    if model.get("mse_constant") is not None:
        right.axhline(model["mse_constant"], color=MUTED, linestyle="--", linewidth=1, label="always the mean score")
    _draw_losses(right, reward, (("loss_mse", "training batch"), ("heldout_mse", "held-out")))
    right.set(xlabel="step", ylabel="mean squared error")
    right.set_title("Error while learning")
    return figure


def _svg(figure: Figure, description: str) -> str:
    """The figure as inline SVG: no XML header, ids or style of its own; colours are the page's CSS variables."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    text = re.sub(r"(?s)<(style|metadata).*?</\1>|<!--.*?-->", "", text[text.index("<svg"):])
    text = re.sub(r' (xmlns(:\w+)?|version|width|height)="[^"]*"', "", text, count=5).replace("xlink:href", "href")
    text = re.sub(r' id="(figure|axes|patch|text|legend|line2d|matplotlib\.axis|xtick|ytick|PathCollection)_\d+"', "", text)
    for name, (light, _) in COLOURS.items():
        text = text.replace(light, f"var(--{name})")
    return f'<div class="figure"><svg role="img" aria-label="{escape(description)}"{text.removeprefix("<svg")}</div>'


# --- the page ------------------------------------------------------------------------------------------------------

def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:,.{digits}f}" if isinstance(value, (int, float)) else escape(str(value))


def _interval(score: dict | None) -> str:
    return f"{score['mean']:.2f} [{score['low']:.2f}, {score['high']:.2f}]" if score else "–"


def _change(part: dict, who: str) -> str:
    """In words; "rose" and "fell" only where the two 95% intervals do not overlap."""
    before, after = part[f"{who}_before"], part[f"{who}_after"]
    return "rose" if after["low"] > before["high"] else "fell" if after["high"] < before["low"] else "did not clearly change"


def _table(head: list[str], rows: list[list[str]], kind: str = "") -> str:
    """`head` and `rows` are HTML already."""
    lines = ("".join(f"<td>{cell}</td>" for cell in row) for row in rows)
    heads = f"<thead><tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr></thead>" if head else ""
    return f'<div class="wide"><table class="{kind}">{heads}{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


def _verdict(summary: dict, finetune: list[dict]) -> str:
    sentences = []
    for split in _evaluated(summary):
        part = summary[split]
        sentences.append(
            f"On {SPLITS[split]} the judge says <b>{_interval(part['judge_before'])}</b> before and "
            f"<b>{_interval(part['judge_after'])}</b> after fine-tuning: it {_change(part, 'judge')}. The reward model, which "
            f"was optimised, says {_interval(part['reward_before'])} before and {_interval(part['reward_after'])} after.")
    if not sentences and finetune:
        first, last = (f"{_number(record.get('judge'))} at update {record['step']}" for record in (finetune[0], finetune[-1]))
        sentences = [f"Not evaluated yet. On the texts of fine-tuning the judge says {first} and {last}."]
    verdict = "".join(f"<p>{sentence}</p>" for sentence in sentences or ["Not fine-tuned yet: there is nothing to judge."])
    if summary.get("reward_hacking"):
        verdict = ('<p class="banner" role="alert"><b>Reward hacking.</b> The reward model\'s score rose and the judge\'s score '
                   "fell: the policy found texts that the reward model overrates.</p>") + verdict
    return verdict


def _before_after(summary: dict) -> str:
    splits = _evaluated(summary)
    scores = [(label, lambda part, when, key=key: _interval(part.get(f"{key}_{when}")))
              for label, key in (("judge (0 to 1)", "judge"), ("reward model (0 to 1)", "reward"))]
    scores += [("KL to the reference (nats per text)",
                lambda part, when: "0 (is the reference)" if when == "before" else _number(part.get("kl_after"))),
               ("length (tokens per text)", lambda part, when: _number(part.get(f"length_{when}"), 1)),
               ("distinct texts (share)", lambda part, when: _number(part.get(f"distinct_{when}"))),
               ("texts judged", lambda part, when: _number(part[f"judge_{when}"].get("n"), 0))]
    columns = [(split, when) for split in splits for when in ("before", "after")]
    return _table(["mean [95% interval]"] + [f"{SPLITS[split]}, {when}" for split, when in columns],
                  [[label] + [show(summary[split], when) for split, when in columns] for label, show in scores], "numbers")


def _rounds(metrics: list[dict]) -> str:
    rounds = rounds_of(metrics)
    if len(rounds) < 2:
        return ""
    heads = ["round", "judge", "reward", "reward model against the judge: MSE", "r"]
    rows = [[_number(row["round"], 0), _number(row["judge"]), _number(row["reward"]), _number(row["reward_judge_mse"], 4),
             _number(row["reward_judge_pearson"])] for row in rounds]
    return (f"<h3>By round</h3>{_table(heads, rows, 'numbers')}<p class=small>On the policy's own texts, the last ten updates of "
            "each round. Before each further round such texts were rated and the reward model refitted.</p>")


def _sample(row: dict | None) -> str:
    """A text and its numbers, in one cell."""
    if row is None:
        return "–"
    facts = [f"{label} {_number(row[key], digits)}" for label, key, digits in
             (("judge", "judge", 2), ("reward", "reward", 2), ("KL", "kl_nats", 1), ("tokens", "length_tokens", 0))
             if row.get(key) is not None]
    return f"<div class=text>{escape(row['text']) or '(empty)'}</div><small>{' · '.join(facts)}</small>"


def _samples(samples: list[dict]) -> str:
    """For each topic its first text before and its first after, as they were drawn: none is chosen."""
    html = ""
    for split, words in SPLITS.items():
        first: dict[str, dict[str, dict]] = {}
        for row in samples:
            if row.get("split") == split and row["when"] in ("before", "after"):
                first.setdefault(row["topic"], {}).setdefault(row["when"], row)
        rows = [[escape(topic), _sample(pair.get("before")), _sample(pair.get("after"))]
                for topic, pair in list(first.items())[:TOPICS_SHOWN]]
        html += f"<h3>{words.capitalize()}</h3>{_table(['topic', 'before', 'after'], rows, 'samples')}" if rows else ""
    return html and html + "<p class=small>The first text drawn for each topic, not a chosen one.</p>"


def _over_time(samples: list[dict]) -> str:
    """Texts for the topic that was written most often as fine-tuning went on, from before to after."""
    steps = [row for row in samples if row["when"].startswith("step ")]
    if not steps:
        return ""
    topics = [row["topic"] for row in steps]
    topic = max(dict.fromkeys(topics), key=topics.count)
    texts: dict[str, dict] = {}
    for row in samples:
        if row["topic"] == topic:
            texts.setdefault(row["when"], row)
    order = sorted(texts, key=lambda when: (when == "after", when != "before", int(when[5:]) if when[:5] == "step " else 0))
    return f"<h3>One topic over time: {escape(topic)}</h3>" + _table(
        ["when", "text"], [[escape(when.replace("step", "update")), _sample(texts[when])] for when in order], "samples")


def _reward_model(model: dict) -> str:
    labels = {"mse": "mean squared error (MSE) on held-out texts", "mse_constant": "MSE of a constant (always the mean score)",
              "pearson": "Pearson r with the scores", "spearman": "Spearman r with the scores",
              "handwritten_spearman": "Spearman r on handwritten texts"}
    return _table([], [[label, _number(model[key], 4 if "mse" in key else 3)] for key, label in labels.items()
                       if model.get(key) is not None], "numbers")


def _stage_bars(seconds: dict) -> str:
    stages = {stage: value for stage, value in seconds.items() if stage != "total"}
    longest = max(stages.values(), default=0) or 1
    rows = [[escape(STAGES.get(stage, stage)), _number(value, 1),
             f'<div class=bar style="width:{100 * value / longest:.1f}%"></div>'] for stage, value in stages.items()]
    rows.append(["total", _number(seconds.get("total", sum(stages.values())), 1), ""])
    return _table(["stage", "seconds", ""], rows, "bars")


def _flat(content: dict, prefix: str = "") -> list[list[str]]:
    """Rows of a table; of an absolute path only the name, for a page is passed on and folders are private."""
    rows = []
    for key, value in content.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            value = os.path.basename(value) if isinstance(value, str) and os.path.isabs(value) else value
            rows.append([escape(f"{prefix}{key}"), escape(str(value))])
    return rows


def _page(config: dict, metrics: list[dict], samples: list[dict], summary: dict) -> str:
    pretrain, reward, finetune = (_stage(metrics, stage) for stage in ("pretrain", "reward", "finetune"))
    task, model = str(summary.get("task", config.get("task", "run"))), summary.get("reward_model") or {}
    ratings = summary.get("ratings")
    evaluated = _evaluated(summary)
    title = f"{task}: the judge {_change(summary[evaluated[0]], 'judge')}" if evaluated else f"{task}: not judged yet"
    who = "<p>The run does not say yet who gave the scores.</p>"
    if ratings:
        raters = str(ratings.get("raters"))
        who = (f"<p><b>{escape(RATERS.get(raters, 'Raters: ' + raters + '.'))}</b> "
               f"{_number(ratings.get('shipped'), 0)} texts came with scores, {_number(ratings.get('collected'), 0)} more were "
               f"rated during the run. Judge: {escape(str(summary.get('judge_name', 'not named')))}.</p>")
    notes = "".join(f"<li>{escape(str(note))}</li>" for note in summary.get("notes") or [])
    before_after = Figure(figsize=(9, 3.2), layout="constrained")
    if evaluated:
        _draw_before_after(before_after.subplots(), summary)
    sections = [  # (title, what must be there, how to make the HTML)
        ("Before and after", evaluated, lambda: _svg(before_after, "Judge and reward before and after") + _before_after(summary)),
        ("Fine-tuning", finetune, lambda: _svg(_figure_finetune(finetune), "Reward, judge, KL, length, distinct share and "
                                               "entropy against minutes of fine-tuning") + _rounds(metrics)),
        ("Samples", samples, lambda: _samples(samples) + _over_time(samples)),
        ("Reward model", reward or model, lambda: _svg(_figure_reward(reward, model), "Calibration and error of the reward "
                                                       "model") + _reward_model(model)),
        ("Pretraining", pretrain, lambda: _svg(_figure_pretrain(pretrain), "Pretraining loss against steps")),
        ("Time", summary.get("seconds"), lambda: _stage_bars(summary["seconds"])),
        ("Hardware", summary.get("hardware"), lambda: _table([], _flat(
            {**summary["hardware"], "device used": summary.get("device"), "peak memory (MB)": summary.get("peak_rss_mb")}))),
        ("Configuration", config, lambda: _table([], _flat({"seed": summary.get("seed"), **config}))),
    ]
    missing = ", ".join(name.lower() for name, there, _ in sections if not there)
    body = "".join(f"<h2>{name}</h2>{make()}" for name, there, make in sections if there)
    return html_page(title, f"""<section class="verdict">{_verdict(summary, finetune)}{who}{f"<ul>{notes}</ul>" if notes else ""}
{f"<p>Not in this run yet: {missing}.</p>" if missing else ""}</section>
{body}<h2>How to read this page</h2><ul>{HOW_TO_READ}</ul>""")


def html_page(title: str, body: str) -> str:
    """A page that loads nothing from outside; `body` is HTML already."""
    light, dark = ("".join(f"--{name}:{pair[mode]};" for name, pair in COLOURS.items()) for mode in (0, 1))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark"><title>{escape(title)}</title>
<style>:root{{{light}--page:#fff;--panel:#f4f6f8}}
@media (prefers-color-scheme:dark){{:root{{{dark}--page:#16191d;--panel:#1f2429}}}}
{CSS}</style></head><body>
<h1>{escape(title)}</h1>
{body}</body></html>
"""


CSS = """body{margin:0 auto;padding:1rem 1.2rem 3rem;max-width:62rem;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
h1{font-size:1.8rem;margin:.6rem 0}h2{margin:2.2rem 0 .6rem;font-size:1.3rem;border-bottom:1px solid var(--grid)}
h3{margin:1.2rem 0 .4rem;font-size:1.05rem}.verdict{background:var(--panel);padding:.4rem 1.1rem;border-radius:6px}
.banner{background:#b3141f;color:#fff;padding:.7rem 1rem;border-radius:6px;font-size:1.1rem}
.wide,.figure{overflow-x:auto;margin:.6rem 0}.figure svg{width:100%;min-width:38rem;height:auto;display:block;
stroke-linejoin:round}table{border-collapse:collapse;font-size:.9rem}
td,th{min-width:4.5rem;padding:.35rem .7rem;text-align:left;vertical-align:top;border-bottom:1px solid var(--grid);
unicode-bidi:isolate;overflow-wrap:anywhere}th,small,.small{color:var(--muted)}.small{font-size:.85rem}
.numbers td:first-child{min-width:11rem}.numbers td:not(:first-child){font-variant-numeric:tabular-nums;white-space:nowrap}
.samples{width:100%;min-width:38rem;table-layout:fixed}.samples td:first-child,.samples th:first-child{width:18%}
.text{white-space:pre-wrap}.bars{width:100%}.bars td:last-child{width:70%}.bars td:nth-child(2){text-align:right}
.bar{background:var(--other);height:1.1em;border-radius:2px}"""

HOW_TO_READ = "".join(f"<li>{line}</li>" for line in (
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
    "the intervals do not overlap.",
    "<b>Held-out topics</b>: in neither feedback nor fine-tuning, unless a note at the top says otherwise."))
