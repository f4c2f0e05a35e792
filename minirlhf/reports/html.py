"""The frame of a page and the tables of report.py: HTML from numbers and texts. Knows no files and draws nothing."""

from __future__ import annotations

import os
from html import escape

from minirlhf.reports.figures import COLOURS, SPLITS, evaluated_splits

STAGES = {
    "pretrain": "pretraining",
    "reward": "reward model",
    "finetune": "fine-tuning",
    "evaluate": "evaluation",
}
TOPICS_SHOWN = 8  # before/after samples, for each split


def html_page(title: str, body: str) -> str:
    """A page that loads nothing from outside; `body` is HTML already."""
    light, dark = (
        "".join(f"--{name}:{pair[mode]};" for name, pair in COLOURS.items()) for mode in (0, 1)
    )
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


def number(value: float | None, digits: int = 2) -> str:
    return (
        "–"
        if value is None
        else f"{value:,.{digits}f}"
        if isinstance(value, (int, float))
        else escape(str(value))
    )


def interval(score: dict | None) -> str:
    return f"{score['mean']:.2f} [{score['low']:.2f}, {score['high']:.2f}]" if score else "–"


def table(head: list[str], rows: list[list[str]], kind: str = "") -> str:
    """`head` and `rows` are HTML already."""
    lines = ("".join(f"<td>{cell}</td>" for cell in row) for row in rows)
    heads = (
        f"<thead><tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr></thead>" if head else ""
    )
    return f'<div class="wide"><table class="{kind}">{heads}{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


def before_after_table(summary: dict) -> str:
    splits = evaluated_splits(summary)
    known = [
        ("judge (0 to 1)", "judge"),
        ("reward model (0 to 1)", "reward"),
        ("fluency (nats per word)", "fluency"),
    ]
    scores = [
        (label, lambda part, when, key=key: interval(part.get(f"{key}_{when}")))
        for label, key in known
        if any(f"{key}_after" in summary[split] for split in splits)
    ]
    scores += [
        (
            "KL to the reference (nats per text)",
            lambda part, when: (
                "0 (is the reference)" if when == "before" else number(part.get("kl_after"))
            ),
        ),
        ("length (tokens per text)", lambda part, when: number(part.get(f"length_{when}"), 1)),
        ("distinct texts (share)", lambda part, when: number(part.get(f"distinct_{when}"))),
        ("texts judged", lambda part, when: number(part[f"judge_{when}"].get("n"), 0)),
    ]
    columns = [(split, when) for split in splits for when in ("before", "after")]
    return table(
        ["mean [95% interval]"] + [f"{SPLITS[split]}, {when}" for split, when in columns],
        [
            [label] + [show(summary[split], when) for split, when in columns]
            for label, show in scores
        ],
        "numbers",
    )


def rounds_table(rounds: list[dict]) -> str:
    """`rounds` is what `report.rounds_of` returns; nothing if there is but one."""
    if len(rounds) < 2:
        return ""
    heads = ["round", "judge", "reward", "reward model against the judge: MSE", "r"]
    rows = [
        [
            number(row["round"], 0),
            number(row["judge"]),
            number(row["reward"]),
            number(row["reward_judge_mse"], 4),
            number(row["reward_judge_pearson"]),
        ]
        for row in rounds
    ]
    return (
        f"<h3>By round</h3>{table(heads, rows, 'numbers')}<p class=small>On the policy's own texts, the last ten updates of "
        "each round. Before each further round such texts were rated and the reward model refitted.</p>"
    )


def _sample(row: dict | None) -> str:
    """A text and its numbers, in one cell."""
    if row is None:
        return "–"
    facts = [
        f"{label} {number(row[key], digits)}"
        for label, key, digits in (
            ("judge", "judge", 2),
            ("reward", "reward", 2),
            ("KL", "kl_nats", 1),
            ("tokens", "length_tokens", 0),
        )
        if row.get(key) is not None
    ]
    return f"<div class=text>{escape(row['text']) or '(empty)'}</div><small>{' · '.join(facts)}</small>"


def samples_tables(samples: list[dict]) -> str:
    """For each topic its first text before and its first after, as they were drawn: none is chosen."""
    html = ""
    for split, words in SPLITS.items():
        first: dict[str, dict[str, dict]] = {}
        for row in samples:
            if row.get("split") == split and row["when"] in ("before", "after"):
                first.setdefault(row["topic"], {}).setdefault(row["when"], row)
        rows = [
            [escape(topic), _sample(pair.get("before")), _sample(pair.get("after"))]
            for topic, pair in list(first.items())[:TOPICS_SHOWN]
        ]
        html += (
            f"<h3>{words.capitalize()}</h3>{table(['topic', 'before', 'after'], rows, 'samples')}"
            if rows
            else ""
        )
    return (
        html and html + "<p class=small>The first text drawn for each topic, not a chosen one.</p>"
    )


def over_time_table(samples: list[dict]) -> str:
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
    order = sorted(
        texts,
        key=lambda when: (
            when == "after",
            when != "before",
            int(when[5:]) if when[:5] == "step " else 0,
        ),
    )
    return f"<h3>One topic over time: {escape(topic)}</h3>" + table(
        ["when", "text"],
        [[escape(when.replace("step", "update")), _sample(texts[when])] for when in order],
        "samples",
    )


def reward_model_table(model: dict) -> str:
    labels = {
        "mse": "mean squared error (MSE) on held-out texts",
        "mse_constant": "MSE of a constant (always the mean score)",
        "pearson": "Pearson r with the scores",
        "spearman": "Spearman r with the scores",
        "handwritten_spearman": "Spearman r on handwritten texts",
    }
    return table(
        [],
        [
            [label, number(model[key], 4 if "mse" in key else 3)]
            for key, label in labels.items()
            if model.get(key) is not None
        ],
        "numbers",
    )


def stage_bars(seconds: dict) -> str:
    stages = {stage: value for stage, value in seconds.items() if stage != "total"}
    longest = max(stages.values(), default=0) or 1
    rows = [
        [
            escape(STAGES.get(stage, stage)),
            number(value, 1),
            f'<div class=bar style="width:{100 * value / longest:.1f}%"></div>',
        ]
        for stage, value in stages.items()
    ]
    rows.append(["total", number(seconds.get("total", sum(stages.values())), 1), ""])
    return table(["stage", "seconds", ""], rows, "bars")


def flat_rows(content: dict, prefix: str = "") -> list[list[str]]:
    """Rows of a table; of an absolute path only the name, for a page is passed on and folders are private."""
    rows = []
    for key, value in content.items():
        if isinstance(value, dict):
            rows += flat_rows(value, f"{prefix}{key}.")
        else:
            value = (
                os.path.basename(value)
                if isinstance(value, str) and os.path.isabs(value)
                else value
            )
            rows.append([escape(f"{prefix}{key}"), escape(str(value))])
    return rows


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
