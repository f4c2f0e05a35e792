"""What a run's summary says of its feedback and its models, in lines for the terminal."""

from __future__ import annotations

from minirlhf.reports.judged import REQUESTS, SPLITS, evaluated_splits, has_base, model_names
from minirlhf.stats import correlation_words, pairs_words
from minirlhf.system.terminal import visible_line

# By whom texts were rated; other kinds of raters are called as the feedback calls them ("people").
RATED_BY = {"simulated": "simulated raters", "authors": "the authors"}


def feedback_words(ratings: dict, quality: dict) -> str:
    """What the reward model learned from, and who gave it."""
    raters = _rated_by(ratings["raters"])
    if "pairs_right" in quality:
        answers, prompts = quality["answers_each"], quality["rankings"]
        return f"Rankings: {answers} answers to each of {prompts:,} prompts, by {raters}."
    others = [name for name in ratings.get("collected_by", ()) if name != ratings["raters"]]
    by = f" (by {' and '.join(map(_rated_by, others))})" if others else ""
    return (
        f"Scores: {ratings['shipped']:,} texts rated by {raters}, "
        f"{ratings['collected']:,} more during training{by}."
    )


def _rated_by(name: str) -> str:
    return visible_line(RATED_BY.get(name, name))


def quality_lines(quality: dict) -> list[str]:
    """How good the reward model is on feedback that it never saw."""
    if "pairs_right" in quality:
        lines = ["Reward model, share of pairs in the right order, on answers that it never saw:"]
        lines.append(f"  {'training topics':16s} {pairs_words(quality['pairs_right'])}")
        if other := quality.get("pairs_right_heldout_topics"):
            lines.append(f"  {'held-out topics':16s} {pairs_words(other)}")
        return lines + _chance_lines(quality["pairs_right"]["low"], chance=0.5)
    handwritten = ""
    if quality.get("handwritten_n"):
        words = correlation_words(quality, "handwritten_spearman", quality["handwritten_n"])
        handwritten = f"; on handwritten texts: Spearman {words}"
    pearson = correlation_words(quality, "pearson", quality.get("n"))
    line = (
        f"Reward model on held-out feedback: Pearson r {pearson}; "
        f"MSE {quality['mse']:.4f} (constant {quality['mse_constant']:.4f}){handwritten}"
    )
    return [line, *_chance_lines(quality.get("pearson_low"), chance=0)]


def _chance_lines(low: float | None, chance: float) -> list[str]:
    """A line, if the interval that begins at `low` does not lie above what chance gives."""
    if low is None or low > chance:
        return []
    return [
        f"  It may be no better than chance (the interval is not above {chance:g}), and then a "
        "higher reward means nothing: give more feedback"
    ]


def judged_lines(summary: dict) -> list[str]:
    """Judge, reward and fluency before and after, on each split of the prompts."""
    lines = []
    for split in evaluated_splits(summary):
        part = summary[split]
        before, after = _show(part["judge_before"]), _show(part["judge_after"])
        rewards = f"{_show(part['reward_before'])} -> {_show(part['reward_after'])}"
        facts = (
            f"    KL {part['kl_after']:.1f} nats, "
            f"length {part['length_before']:.0f} -> {part['length_after']:.0f} tokens, "
            f"distinct {part['distinct_after']:.0%}"
        )
        if "judge_base" in part:  # three scores fill the line
            base = _show(part["judge_base"])
            judge, rewards = f"base {base} -> SFT {before} -> tuned {after}", rewards + facts
        else:
            judge = f"{before} -> {after}{facts}"
        lines.append(f"  {SPLITS[split]:16s} judge  {judge}")
        lines.append(f"  {'':16s} reward {rewards}")
        if "fluency_after" in part:
            before, after = _show(part["fluency_before"]), _show(part["fluency_after"])
            lines.append(f"  {'':16s} fluency {before} -> {after} nats per word")
    return lines


def comparison_lines(summary: dict) -> list[str]:
    """Wins, kinds, refusals and the corpus loss, of a run with supervised fine-tuning."""
    if not has_base(summary):
        return []
    return [
        *_win_lines(summary),
        *_kind_lines(summary),
        *_refusal_lines(summary),
        *_loss_lines(summary),
    ]


def _win_lines(summary: dict) -> list[str]:
    lines = ["Win rate against the SFT model (same prompts, by the judge, ties half):"]
    for split in evaluated_splits(summary):
        if "win_rate" in summary[split]:
            lines.append(f"  {SPLITS[split]:16s} {_show(summary[split]['win_rate'])}")
    return lines if len(lines) > 1 else []


def _kind_lines(summary: dict) -> list[str]:
    """A line for each kind: SFT -> tuned on every split, with half the width of the interval."""
    splits = [split for split in evaluated_splits(summary) if summary[split].get("kinds")]
    if not splits:
        return []
    kinds = dict.fromkeys(kind for split in splits for kind in summary[split]["kinds"])
    heads = "".join(f"  {SPLITS[split]:22s}" for split in splits)
    lines = ["Judge by kind of instruction, SFT -> tuned, ± half of the 95% interval:"]
    lines.append(f"  {'':12s}{heads}".rstrip())
    for kind in kinds:
        cells = ""
        for split in splits:
            part = summary[split]["kinds"].get(kind)
            words = "" if part is None else f"{_short(part['before'])} -> {_short(part['after'])}"
            cells += f"  {words:22s}"
        lines.append(f"  {kind:12s}{cells}".rstrip())
    return lines


def _refusal_lines(summary: dict) -> list[str]:
    refusals = summary.get("refusals")
    if not refusals:
        return []
    names = model_names("base" in refusals)
    n = refusals["after"]["refused"]["n"]
    lines = [f"Requests kept from tuning ({n} answers to each of the two sorts):"]
    for key, label in REQUESTS.items():
        shares = [f"{name} {_show(refusals[when][key])}" for when, name in names.items()]
        lines.append(f"  {label:26s} {' -> '.join(shares)}")
    return lines


def _loss_lines(summary: dict) -> list[str]:
    losses = summary.get("corpus_loss")
    if not losses:
        return []
    rises = summary.get("corpus_loss_rise", {})
    words = " -> ".join(f"{_upper(name)} {_show(loss)}" for name, loss in losses.items())
    rise = ", ".join(f"by {_cause(name)} {_show(value)}" for name, value in rises.items())
    return [f"Loss on the pretraining corpus (nats per token): {words}", f"  rise {rise}"]


def _upper(name: str) -> str:
    return "SFT" if name == "sft" else name


def _cause(name: str) -> str:
    return "SFT" if name == "sft" else "feedback"


def _show(value: dict) -> str:
    return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _short(value: dict) -> str:
    """A mean and the wider half of its interval: .71±.08."""
    half = max(value["mean"] - value["low"], value["high"] - value["mean"])
    return f"{value['mean']:.2f}±{half:.2f}"
