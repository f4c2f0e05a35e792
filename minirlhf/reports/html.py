"""The frame of a page and the tables of a run's report: HTML from numbers and texts.

Reads no files and draws no figures. Text that comes from a run is escaped here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from html import escape

from minirlhf.reports.figures import COLOURS
from minirlhf.reports.judged import SPLITS, evaluated_splits, model_names
from minirlhf.stats import correlation_words, pairs_words

STAGES = {
    "pretrain": "pretraining",
    "sft": "supervised fine-tuning",
    "reward": "reward model",
    "finetune": "fine-tuning",
    "evaluate": "evaluation",
}
TOPICS_SHOWN = 8  # samples before and after, for each split; with kinds, one topic of each
MISSING = "–"


# --- the frame ------------------------------------------------------------------------------------


def html_page(title: str, body: str) -> str:
    """A page that loads nothing from outside; `title` is text, `body` is HTML already."""
    light = "".join(f"--{name}:{pair[0]};" for name, pair in COLOURS.items())
    dark = "".join(f"--{name}:{pair[1]};" for name, pair in COLOURS.items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark"><title>{escape(title)}</title>
<style>:root{{{light}--page:#fff;--panel:#f4f6f8}}
@media (prefers-color-scheme:dark){{:root{{{dark}--page:#16191d;--panel:#1f2429}}}}
{CSS}</style></head><body>
<h1>{escape(title)}</h1>
{body}</body></html>
"""


def table(head: list[str], rows: list[list[str]], kind: str = "") -> str:
    """A table of the CSS class `kind`; `head` and `rows` are HTML already."""
    heads = ""
    if head:
        heads = f"<thead><tr>{_cells(head, 'th')}</tr></thead>"
    lines = "".join(f"<tr>{_cells(row, 'td')}</tr>" for row in rows)
    return f'<div class="wide"><table class="{kind}">{heads}{lines}</table></div>'


def _cells(cells: list[str], tag: str) -> str:
    return "".join(f"<{tag}>{cell}</{tag}>" for cell in cells)


def bullets(items: list[str] | tuple[str, ...]) -> str:
    """A list; the items are HTML already."""
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"


def number(value: float | None, digits: int = 2) -> str:
    """A number for a cell; what is not a number is shown as it is, escaped."""
    if value is None:
        return MISSING
    if isinstance(value, (int, float)):
        return f"{value:,.{digits}f}"
    return escape(str(value))


def interval(score: dict | None, digits: int = 2) -> str:
    """A mean and its 95% interval, as `stats.interval` gives them."""
    if not score:
        return MISSING
    mean, low, high = (f"{score[key]:.{digits}f}" for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


# --- the tables -----------------------------------------------------------------------------------


def before_after_table(summary: dict) -> str:
    """One column for each split before and after, one row for each measure of summary.json."""
    splits = evaluated_splits(summary)
    columns = [(split, when) for split in splits for when in ("before", "after")]
    heads = ["mean [95% interval]"] + [f"{SPLITS[split]}, {when}" for split, when in columns]

    rows: list[list[str]] = []

    def add(label: str, cell: Callable[[dict, str], str]) -> None:
        rows.append([label] + [cell(summary[split], when) for split, when in columns])

    def mean(key: str) -> Callable[[dict, str], str]:
        return lambda part, when: interval(part.get(f"{key}_{when}"))

    add("judge (0 to 1)", mean("judge"))
    add("reward model (0 to 1)", mean("reward"))
    if any("fluency_after" in summary[split] for split in splits):
        add("fluency (nats per word)", mean("fluency"))
    add("KL to the reference (nats per text)", _kl_cell)
    add("length (tokens per text)", lambda part, when: number(part.get(f"length_{when}"), 1))
    add("distinct texts (share)", lambda part, when: number(part.get(f"distinct_{when}")))
    add("texts judged", lambda part, when: number(part[f"judge_{when}"].get("n"), 0))
    return table(heads, rows, "numbers")


def _kl_cell(part: dict, when: str) -> str:
    return "0 (is the reference)" if when == "before" else number(part.get("kl_after"))


def rounds_table(rounds: list[dict]) -> str:
    """`rounds` is what `run_report.rounds_of` returns; empty if there is only one."""
    if len(rounds) < 2:
        return ""
    heads = ["round", "judge", "reward", "reward model against the judge: MSE", "r"]
    rows = []
    for row in rounds:
        cells = [number(row["round"], 0), number(row["judge"]), number(row["reward"])]
        cells += [number(row["reward_judge_mse"], 4), number(row["reward_judge_pearson"])]
        rows.append(cells)
    return (
        f"<h3>By round</h3>{table(heads, rows, 'numbers')}"
        "<p class=small>Samples of the policy in the last ten updates of each round. Between two "
        "rounds, such samples were rated and the reward model was refitted.</p>"
    )


def samples_tables(samples: list[dict]) -> str:
    """For each topic its first sample of each model: none is selected. Of each kind one topic."""
    html = ""
    for split, label in SPLITS.items():
        first: dict[str, dict[str, dict]] = {}  # topic -> base, before or after -> row
        for row in samples:
            if row.get("split") == split and row["when"] in ("base", "before", "after"):
                first.setdefault(row["topic"], {}).setdefault(row["when"], row)
        heads = {"before": "before", "after": "after"}
        if any("base" in found for found in first.values()):
            heads = model_names(with_base=True)
        rows = []
        for found in _shown(list(first.values())):
            cells = [_sample(found.get(when)) for when in heads]
            rows.append([_prompt(next(iter(found.values()))), *cells])
        if rows:
            html += f"<h3>{label.capitalize()}</h3>"
            html += table(["topic", *heads.values()], rows, "samples")
    if html:
        html += "<p class=small>The first sample for each topic, not a selected one.</p>"
    return html


def _shown(topics: list[dict[str, dict]]) -> list[dict[str, dict]]:
    """The first topics; where each has a kind of instruction, the first topic of each kind."""
    kinds: dict[str, dict[str, dict]] = {}
    for found in topics:
        kind = next(iter(found.values())).get("kind")
        if kind is None:
            return topics[:TOPICS_SHOWN]
        kinds.setdefault(kind, found)
    return list(kinds.values())


def _prompt(row: dict) -> str:
    """The topic of a sample; of a conversation each turn, with who says it, and its kind."""
    if not row.get("turns"):
        return escape(row["topic"])
    turns = ""
    for turn in row["turns"]:
        role, text = escape(str(turn["role"])), escape(str(turn["text"]))
        turns += f'<div class="turn {role}"><small>{role}</small> {text}</div>'
    kind = f"<small>{escape(str(row['kind']))}</small>" if row.get("kind") else ""
    return turns + kind


def over_time_table(samples: list[dict]) -> str:
    """Samples on the most frequent topic of fine-tuning: before, at some updates, after."""
    topics = [row["topic"] for row in samples if row["when"].startswith("step ")]
    if not topics:
        return ""
    topic = max(dict.fromkeys(topics), key=topics.count)
    first: dict[str, dict] = {}  # "before", "step 1", ..., "after" -> row
    for row in samples:
        if row["topic"] == topic:
            first.setdefault(row["when"], row)
    rows = []
    for when in sorted(first, key=_time):
        rows.append([escape(when.replace("step", "update")), _sample(first[when])])
    heading = f"<h3>One topic over time: {escape(topic)}</h3>"
    row = next(iter(first.values()))
    if row.get("turns"):
        heading = f"<h3>One conversation over time</h3>{_prompt(row)}"
    return heading + table(["when", "text"], rows, "samples")


def _time(when: str) -> tuple[int, int]:
    """A sort key: base, before, then the steps by number, then after."""
    if when in ("base", "before"):
        return (0, int(when == "before"))
    if when == "after":
        return (2, 0)
    return (1, int(when.removeprefix("step ")) if when.startswith("step ") else 0)


def _sample(row: dict | None) -> str:
    """A sample and its numbers, in one cell."""
    if row is None:
        return MISSING
    facts = []
    for label, key, digits in (
        ("judge", "judge", 2),
        ("reward", "reward", 2),
        ("KL", "kl_nats", 1),
        ("tokens", "length_tokens", 0),
    ):
        if row.get(key) is not None:
            facts.append(f"{label} {number(row[key], digits)}")
    text = escape(row["text"]) or "(empty)"
    return f"<div class=text>{text}</div><small>{' · '.join(facts)}</small>"


def reward_model_table(model: dict) -> str:
    """The quality of the reward model, as summary.json holds it."""
    rows = []
    for key, label in (
        ("mse", "mean squared error (MSE) on held-out texts"),
        ("mse_constant", "MSE of a constant (always the mean score)"),
    ):
        if model.get(key) is not None:
            rows.append([label, number(model[key], 4)])
    for key, label, count in (
        ("pearson", "Pearson r with the scores", "n"),
        ("spearman", "Spearman r with the scores", "n"),
        ("own_texts_pearson", "Pearson r on the policy's own texts", "own_texts_n"),
        ("handwritten_spearman", "Spearman r on handwritten texts", "handwritten_n"),
    ):
        if key in model and (model[key] is not None or model.get(count)):
            rows.append([label, correlation_words(model, key, model.get(count))])
    for key, label in (
        ("pairs_right", "pairs in the right order (share), training topics"),
        ("pairs_right_heldout_topics", "pairs in the right order (share), held-out topics"),
    ):
        if model.get(key):
            rows.append([label, pairs_words(model[key])])
    if model.get("ranking_nats") is not None:
        rows.append(["ranking loss (nats per pair)", number(model["ranking_nats"], 4)])
    return table([], rows, "numbers")


def stage_bars(seconds: dict) -> str:
    """Seconds of each stage, with a bar, and their total."""
    stages = {stage: value for stage, value in seconds.items() if stage != "total"}
    longest = max(stages.values(), default=0) or 1
    rows = []
    for stage, value in stages.items():
        bar = f'<div class=bar style="width:{100 * value / longest:.1f}%"></div>'
        rows.append([escape(STAGES.get(stage, stage)), number(value, 1), bar])
    rows.append(["total", number(seconds.get("total", sum(stages.values())), 1), ""])
    return table(["stage", "seconds", ""], rows, "bars")


def settings_table(content: dict) -> str:
    """Settings, one per row; nested names are joined by dots."""
    return table([], _setting_rows(content, prefix=""))


def _setting_rows(content: dict, prefix: str) -> list[list[str]]:
    rows = []
    for key, value in content.items():
        if isinstance(value, dict):
            rows += _setting_rows(value, f"{prefix}{key}.")
            continue
        if isinstance(value, str) and os.path.isabs(value):
            value = os.path.basename(value)  # a page is passed on, and folder names are private
        rows.append([escape(f"{prefix}{key}"), escape(str(value))])
    return rows


CSS = """\
body{margin:0 auto;padding:1rem 1.2rem 3rem;max-width:62rem;
background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
h1{font-size:1.8rem;margin:.6rem 0}
h2{margin:2.2rem 0 .6rem;font-size:1.3rem;border-bottom:1px solid var(--grid)}
h3{margin:1.2rem 0 .4rem;font-size:1.05rem}
.verdict{background:var(--panel);padding:.4rem 1.1rem;border-radius:6px}
.banner{background:#b3141f;color:#fff;padding:.7rem 1rem;border-radius:6px;font-size:1.1rem}
.wide,.figure{overflow-x:auto;margin:.6rem 0}
.figure svg{width:100%;min-width:38rem;height:auto;display:block;stroke-linejoin:round}
table{border-collapse:collapse;font-size:.9rem}
td,th{min-width:4.5rem;padding:.35rem .7rem;text-align:left;vertical-align:top;
border-bottom:1px solid var(--grid);unicode-bidi:isolate;overflow-wrap:anywhere}
th,small,.small{color:var(--muted)}
.small{font-size:.85rem}
.numbers td:first-child{min-width:11rem}
.numbers td:not(:first-child){font-variant-numeric:tabular-nums;white-space:nowrap}
.samples{width:100%;min-width:38rem;table-layout:fixed}
.samples td:first-child,.samples th:first-child{width:18%}
.samples th:first-child:nth-last-child(4){width:28%}
.text{white-space:pre-wrap}
.turn{margin:0 0 .3rem;padding:.1rem .5rem;border-left:3px solid var(--grid)}
.turn.assistant{margin-left:.8rem;border-left-color:var(--muted)}
.bars{width:100%}
.bars td:last-child{width:70%}
.bars td:nth-child(2){text-align:right}
.bar{background:var(--other);height:1.1em;border-radius:2px}"""
