"""The report: one page that shows whether a run worked, made from its run folder alone.

The first thing it shows is what the judge (评判) says, before and after, with intervals. The reward
model (奖励模型) was optimised, so its own score proves nothing: where it rose and the judge fell, a
red banner says reward hacking. Nothing is loaded from outside: style and figures are in the page.
It also works on an unfinished run, and shows what there is.
"""

from __future__ import annotations

import statistics
from html import escape
from pathlib import Path

from matplotlib import style
from matplotlib.figure import Figure

from minirlhf.look_inside import html as token_view
from minirlhf.look_inside.looks import TextLook
from minirlhf.reports import comparisons, figures, html
from minirlhf.reports.judged import SPLITS, evaluated_splits
from minirlhf.reports.run_files import read_looks, read_run, stage_of
from minirlhf.stats import change
from minirlhf.system.files import atomic_write, replacing

RATERS = {
    "simulated": "The raters are simulated: the scores come from a program, not from people.",
    "people": "The raters are people: the reward model learned from their scores.",
    "authors": "The authors of the texts gave the scores that the reward model learned from.",
}
RANKERS = {
    "simulated": "The raters are simulated: the rankings come from a program, not from people.",
    "people": "The raters are people: the reward model learned from their rankings.",
}
ROUND_TAIL = 10  # updates at the end of a round that its row averages over

HOW_TO_READ = (
    "<b>Judge</b> (0 to 1): the measure of success. Its scores trained nothing here. But simulated "
    "raters may see the judge's own rubric, through bias and noise; then raters and judge are not "
    "independent.",
    "<b>Reward</b> (0 to 1): the reward model's score. It was optimised, so a rise alone proves "
    "nothing.",
    "<b>Reward hacking</b>: the reward rose and the judge fell.",
    "<b>KL</b> (nats per text): how far the policy has moved from the reference, the model before "
    "feedback; 0 means not at all. In the curves it is estimated from the sampled tokens, so it "
    "may dip below 0.",
    "<b>Length</b> (tokens): a reward that grows only with length is a warning.",
    "<b>Distinct</b> (share): different texts among those sampled; near 0 the policy always writes "
    "the same text.",
    "<b>Entropy</b> (nats per token): how undecided the policy is about the next token; near 0 it "
    "hardly varies.",
    "<b>Loss</b> (nats per token): how much the next token surprises the language model; lower is "
    "better.",
    "<b>Calibration</b>: texts grouped by predicted score. On the diagonal, prediction and mean "
    "score agree.",
    "<b>MSE</b>: mean squared error; compare it with that of a constant, which ignores the text.",
    "<b>Pearson and Spearman r</b>: agreement with the scores, in value and in rank; 1 is perfect, "
    "0 is none.",
    "<b>Pairs in the right order</b> (share): of two answers to one prompt of which one was ranked "
    "higher, how often the reward model says so too; 0.5 is chance.",
    "<b>[low, high]</b>: a 95% confidence interval of the mean. &ldquo;Rose&rdquo; and "
    "&ldquo;fell&rdquo; are said only where the 95% interval of the difference excludes 0.",
    "<b>Held-out topics</b>: in neither feedback nor fine-tuning, unless a note at the top says "
    "otherwise.",
)


def write_report(run: Path) -> Path:
    """Write `run`/report.html from the files of the run folder; return its path. Atomic.

    Reads config.json, metrics.jsonl, samples.jsonl, looks.jsonl and summary.json. A stage that is
    missing is left out, and the page says so; until there is a summary, progress.json is read
    instead. Raises ValueError (file, line, what was expected) if a file cannot be read or none is
    there.
    """
    run = Path(run)
    config, metrics, samples, summary = read_run(run)
    with style.context(figures.STYLE, after_reset=True):
        page = _page(config, metrics, samples, summary, read_looks(run))
    page = page.encode("utf-8", "replace").decode()  # half a surrogate pair becomes "?"
    atomic_write(run / "report.html", page)
    return run / "report.html"


def write_plot(run: Path, path: Path) -> Path:
    """Save the main picture as a PNG: before and after, and the scores during fine-tuning. Atomic.

    Returns `path`. Raises ValueError as `write_report` does, or if the run is not fine-tuned and
    evaluated.
    """
    _, metrics, _, summary = read_run(Path(run))
    finetune, path = stage_of(metrics, "finetune"), Path(path)
    if not finetune or not evaluated_splits(summary):
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


def rounds_of(metrics: list[dict]) -> list[dict]:
    """Results of each round from metrics.jsonl: means over its last ten updates (all if fewer)."""
    rounds: dict[int, list[dict]] = {}
    for row in stage_of(metrics, "finetune"):
        if "reward_judge_mse" in row:
            rounds.setdefault(row["round"], []).append(row)
    results = []
    for number, rows in sorted(rounds.items()):
        result: dict[str, float] = {"round": number, "updates": len(rows)}
        for key in ("judge", "reward", "reward_judge_mse", "reward_judge_pearson", "kl_nats"):
            result[key] = statistics.fmean(row[key] for row in rows[-ROUND_TAIL:])
        results.append(result)
    return results


# --- the page -------------------------------------------------------------------------------------


def _page(
    config: dict,
    metrics: list[dict],
    samples: list[dict],
    summary: dict,
    looks: list[TextLook],
) -> str:
    finetune = stage_of(metrics, "finetune")
    sections = {
        "Before and after": _before_after(summary),
        **comparisons.sections(summary),  # those that the evaluation has measured
        "Fine-tuning": _finetuning(finetune, metrics),
        "Samples": html.samples_tables(samples) + html.over_time_table(samples),
        **_token_by_token(looks),
        "Reward model": _reward_model(stage_of(metrics, "reward"), summary),
        "Pretraining": _pretraining(stage_of(metrics, "base"), stage_of(metrics, "pretrain")),
        "Time": html.stage_bars(summary["seconds"]) if summary.get("seconds") else "",
        "Hardware": _hardware(summary),
        "Configuration": _configuration(config, summary),
    }
    if sft := stage_of(metrics, "sft"):  # not every run has demonstrations
        sections["Supervised fine-tuning"] = _demonstrations(sft)
    missing = ", ".join(name.lower() for name, section in sections.items() if not section)
    top = _verdict(summary, finetune) + _raters(summary)
    if missing:
        top += f"<p>Not in this run yet: {missing}.</p>"
    body = f'<section class="verdict">{top}</section>'
    for name, section in sections.items():
        if section:
            body += f"<h2>{name}</h2>{section}"
    body += f"<h2>How to read this page</h2>{html.bullets(HOW_TO_READ)}"
    return html.html_page(_title(config, summary), body)


def _title(config: dict, summary: dict) -> str:
    task = str(summary.get("task", config.get("task", "run")))
    evaluated = evaluated_splits(summary)
    if not evaluated:
        return f"{task}: not judged yet"
    return f"{task}: the judge {_change(summary[evaluated[0]], 'judge')}"


def _change(part: dict, who: str) -> str:
    return change(part[f"{who}_before"], part[f"{who}_after"])


def _verdict(summary: dict, finetune: list[dict]) -> str:
    """What the judge says, in sentences; above them a banner if the reward was hacked."""
    banner = ""
    if summary.get("reward_hacking"):
        banner = (
            '<p class="banner" role="alert"><b>Reward hacking.</b> The reward model\'s score rose '
            "and "
            "the judge's score fell: the policy found texts that the reward model overrates.</p>"
        )
    role = "did not take part" if figures.is_dpo(finetune) else "was optimised"
    sentences = []
    for split in evaluated_splits(summary):
        part = summary[split]
        sentences.append(
            f"On {SPLITS[split]} the judge says "
            f"<b>{html.interval(part['judge_before'])}</b> before and "
            f"<b>{html.interval(part['judge_after'])}</b> after fine-tuning: it "
            f"{_change(part, 'judge')}. The reward model, which {role}, says "
            f"{html.interval(part['reward_before'])} before and "
            f"{html.interval(part['reward_after'])} after."
        )
    judged = [row for row in finetune if "judge" in row] or finetune  # of DPO, only some are
    if not sentences and judged:
        first, last = _judged(judged[0]), _judged(judged[-1])
        sentences.append(
            f"Not evaluated yet. On the samples of fine-tuning the judge says {first} and {last}."
        )
    elif not sentences:
        sentences.append("Not fine-tuned yet: there is nothing to judge.")
    return banner + "".join(f"<p>{sentence}</p>" for sentence in sentences)


def _judged(record: dict) -> str:
    return f"{html.number(record.get('judge'))} at update {record['step']}"


def _raters(summary: dict) -> str:
    """Who gave the scores or rankings, who judges, and the notes of the task."""
    ratings, model = summary.get("ratings"), summary.get("reward_model") or {}
    judge = escape(str(summary.get("judge_name", "not named")))
    if not ratings:
        words = "<p>The run does not say yet who gave the scores.</p>"
    else:
        raters, is_ranked = str(ratings.get("raters")), "pairs_right" in model
        known = RANKERS if is_ranked else RATERS
        who = escape(known.get(raters, f"Raters: {raters}."))
        if is_ranked:
            what = (
                f"{html.number(model.get('answers_each'), 0)} answers to each of "
                f"{html.number(model.get('rankings'), 0)} prompts were ranked."
            )
        else:
            others = [str(name) for name in ratings.get("collected_by") or () if name != raters]
            by = f" ({escape(', '.join(others))})" if others else ""
            what = (
                f"{html.number(ratings.get('shipped'), 0)} texts came with scores, "
                f"{html.number(ratings.get('collected'), 0)} more were rated during the run{by}."
            )
        words = f"<p><b>{who}</b> {what} Judge: {judge}.</p>"
    notes = [escape(str(note)) for note in summary.get("notes") or []]
    return words + (html.bullets(notes) if notes else "")


# Each section is HTML, or empty if the run has nothing to show in it yet.


def _before_after(summary: dict) -> str:
    if not evaluated_splits(summary):
        return ""
    height = 1.6 * len(evaluated_splits(summary))
    figure = Figure(figsize=(9, max(3.2, height)), layout="constrained")
    figures.draw_before_after(figure.subplots(), summary)
    picture = figures.svg(figure, "Judge and reward before and after")
    return picture + html.before_after_table(summary)


def _finetuning(finetune: list[dict], metrics: list[dict]) -> str:
    if not finetune:
        return ""
    description = (
        "Reward, judge, KL, length, distinct share and entropy against minutes of fine-tuning"
    )
    picture = figures.svg(figures.finetune_figure(finetune), description)
    if figures.is_dpo(finetune):
        figure = figures.dpo_figure(finetune)
        picture += figures.svg(figure, "Loss and accuracy on comparisons against steps")
    return picture + html.rounds_table(rounds_of(metrics))


def _token_by_token(looks: list[TextLook]) -> dict[str, str]:
    """Its section, for a run that was evaluated since there is one."""
    if not looks:
        return {}
    note = (
        "<p class=small>The first sample of each kind, not a selected one. Advantage: the weight "
        "that training would give to the token if this text were alone, without the mean over a "
        "batch. Log ratio: to the reference; their sum estimates the KL.</p>"
    )
    views = "".join(token_view.view(look, f"look{number}") for number, look in enumerate(looks))
    return {"Token by token": f"<style>{token_view.CSS}</style>{note}{views}"}


def _reward_model(reward: list[dict], summary: dict) -> str:
    model = summary.get("reward_model") or {}
    if not reward and not model:
        return ""
    figure = figures.reward_figure(reward, model)
    what = "Right pairs and loss" if "pairs_right" in model else "Calibration and error"
    picture = figures.svg(figure, f"{what} of the reward model")
    return picture + html.reward_model_table(model)


def _pretraining(base: list[dict], pretrain: list[dict]) -> str:
    """The loss of the base that the run started from, and of what the run itself pretrained."""
    parts = []
    if base:
        note = "<p>The run started from a model that was pretrained before; this is its loss.</p>"
        picture = figures.svg(figures.pretrain_figure(base), "Loss of the base against steps")
        parts += [note, picture]
    if pretrain:
        picture = figures.svg(figures.pretrain_figure(pretrain), "Pretraining loss against steps")
        parts.append(picture)
    return "".join(parts)


def _demonstrations(sft: list[dict]) -> str:
    """The loss of the answers in the demonstrations."""
    note = "<p>Before any feedback the model imitated good answers; this is their loss.</p>"
    return note + figures.svg(figures.pretrain_figure(sft), "Loss of the answers against steps")


def _hardware(summary: dict) -> str:
    if not summary.get("hardware"):
        return ""
    used = {"device used": summary.get("device"), "peak memory (MB)": summary.get("peak_rss_mb")}
    return html.settings_table({**summary["hardware"], **used})


def _configuration(config: dict, summary: dict) -> str:
    return html.settings_table({"seed": summary.get("seed"), **config}) if config else ""
