"""What a run's summary.json says was judged: which splits of the prompts, and which models."""

from __future__ import annotations

SPLITS = {
    "train": "training topics",
    "heldout": "held-out topics",
    "phrasings": "unseen phrasings",
}
REQUESTS = {"refused": "harmful requests refused", "answered": "harmless requests answered"}


def evaluated_splits(summary: dict) -> list[str]:
    """The splits that were judged before and after."""
    return [split for split in SPLITS if "judge_after" in summary.get(split, {})]


def has_base(summary: dict) -> bool:
    """Whether "before" is a model after supervised fine-tuning, and its base was judged too."""
    return any("judge_base" in summary[split] for split in evaluated_splits(summary))


def model_names(with_base: bool) -> dict[str, str]:
    """The models in order, by their names in the summary: what each is called on a page."""
    if with_base:
        return {"base": "base", "before": "SFT", "after": "tuned"}
    return {"before": "pretrained", "after": "tuned"}
