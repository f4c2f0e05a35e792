"""The files of a run folder: which stage makes which.

Whatever deletes or replaces results goes by these lists. No other file in the folder is touched.
"""

from __future__ import annotations

from pathlib import Path

# The file by which the result of a stage is named to the user.
RESULT = {
    "pretrain": "pretrained.safetensors",
    "sft": "sft.safetensors",
    "reward": "reward.safetensors",
    "finetune": "policy.safetensors",
    "evaluate": "summary.json",
}
STAGES = tuple(RESULT)
SFT = "sft"  # the one stage that a run may lack: it needs demonstrations

CONFIG = "config.json"
CHECKPOINT = "checkpoint.safetensors"  # the state of the running stage
ENCODER = "encoder.safetensors"
REWARD_FINAL = "reward_final.safetensors"  # after the last refit of fine-tuning
REWARD_MODELS = (REWARD_FINAL, RESULT["reward"])  # the newest first
FIRST_RATINGS = "first_ratings.jsonl"
RANKINGS = "rankings.jsonl"  # of training prompts
HELDOUT_RANKINGS = "rankings_heldout_topics.jsonl"  # only to measure the reward model on
FEEDBACK = "feedback.jsonl"  # a copy of --feedback
DEMONSTRATIONS = "demonstrations.jsonl"  # a copy of --demonstrations
REPORT = "report.html"
LOOKS = "looks.jsonl"  # a few samples token by token, for the report
METRICS, SAMPLES, PROGRESS = "metrics.jsonl", "samples.jsonl", "progress.json"
# What people answered (rate, iterate --person). Nothing deletes these files.
ANSWERS = ("ratings.jsonl", "comparisons.jsonl")

# The files that belong to one stage, in the order in which they are written.
MADE_BY = {
    "pretrain": ("tokenizer.json", RESULT["pretrain"]),
    "sft": (DEMONSTRATIONS, RESULT["sft"]),
    "reward": (
        FIRST_RATINGS,
        RANKINGS,
        HELDOUT_RANKINGS,
        ENCODER,
        RESULT["reward"],
        "reward_card.json",
        "reward_card.html",
    ),
    "finetune": ("collected.jsonl", REWARD_FINAL, RESULT["finetune"]),
    "evaluate": (LOOKS, RESULT["evaluate"], REPORT),
}
# Files to which several stages add.
SHARED = (METRICS, SAMPLES, PROGRESS)
# The facts in progress.json that one stage leaves to those after it, beside its seconds.
FACTS = {
    "pretrain": (),
    "sft": (),
    "reward": ("reward_model", "collected_first"),
    "finetune": ("collected",),
    "evaluate": (),
}
# The stage to which rows of metrics.jsonl belong that carry another name.
ROWS_OF = {"base": "pretrain", "masked-lm": "reward"}
# All of them. config.json is last: a folder is a run as long as it holds that file.
PRODUCTS = (
    *(name for names in MADE_BY.values() for name in names),
    FEEDBACK,
    *SHARED,
    CHECKPOINT,
    CONFIG,
)


def is_run(path: Path) -> bool:
    """Whether there is a run at `path`."""
    return (path / CONFIG).exists()


def is_done(path: Path, stage: str) -> bool:
    """Whether the last product of the stage stands in the run folder at `path`."""
    last = (RESULT["evaluate"], REPORT) if stage == "evaluate" else (RESULT[stage],)
    return all((path / name).exists() for name in last)


def stages_from(first: str) -> tuple[str, ...]:
    """This stage and those after it."""
    return STAGES[STAGES.index(first) :]


def stages_before(stage: str) -> tuple[str, ...]:
    return STAGES[: STAGES.index(stage)]


def made_by(stages: tuple[str, ...]) -> list[str]:
    """The files that belong to these stages alone."""
    return [name for stage in stages for name in MADE_BY[stage]]


def command_of(stages: tuple[str, ...]) -> str:
    """The command that runs these stages."""
    if stages == STAGES:
        return "demo"
    return "iterate" if len(stages) > 1 else stages[0]
