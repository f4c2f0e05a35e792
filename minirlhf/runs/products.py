"""The files of a run folder: which stage makes which.

Whatever deletes or replaces results goes by these lists. No other file in the folder is touched.
"""

from __future__ import annotations

from pathlib import Path

# The file that shows that a stage is done, and by which its result is named to the user.
RESULT = {
    "pretrain": "pretrained.safetensors",
    "reward": "reward.safetensors",
    "finetune": "policy.safetensors",
    "evaluate": "summary.json",
}
STAGES = tuple(RESULT)

CONFIG = "config.json"
CHECKPOINT = "checkpoint.safetensors"  # the state of the running stage
ENCODER = "encoder.safetensors"
REWARD_FINAL = "reward_final.safetensors"  # after the last refit of fine-tuning
FIRST_RATINGS = "first_ratings.jsonl"
FEEDBACK = "feedback.jsonl"  # a copy of --feedback
# What people answered (rate, iterate --person). Nothing deletes these files.
ANSWERS = ("ratings.jsonl", "comparisons.jsonl")

# The files that belong to one stage.
MADE_BY = {
    "pretrain": ("tokenizer.json", RESULT["pretrain"]),
    "reward": (FIRST_RATINGS, ENCODER, RESULT["reward"], "reward_card.html", "reward_card.json"),
    "finetune": ("collected.jsonl", REWARD_FINAL, RESULT["finetune"]),
    "evaluate": (RESULT["evaluate"], "report.html"),
}
# Files to which several stages add.
SHARED = ("metrics.jsonl", "samples.jsonl", "progress.json")
# All of them. config.json is last: a folder is a run as long as it holds that file.
PRODUCTS = (
    *(name for names in MADE_BY.values() for name in names),
    FEEDBACK,
    *SHARED,
    CHECKPOINT,
    CONFIG,
)


def is_done(path: Path, stage: str) -> bool:
    """Whether the stage's result stands in the run folder at `path`."""
    return (path / RESULT[stage]).exists()
