"""The curves of a run's fine-tuning, and the texts that it saved on the way."""

from __future__ import annotations

from pathlib import Path

from minirlhf.reports.run_files import read_run, stage_of

# What is drawn, if the run has it: the metric, its name, its unit.
DRAWN = (
    ("reward", "reward model", "0 to 1"),
    ("judge", "judge", "0 to 1"),
    ("kl_nats", "KL to the reference", "nats per text"),
    ("length_tokens", "length", "tokens"),
)
SHOWN = ("step", "topic", "turns", "text", "reward", "judge", "kl_nats", "length_tokens")


def curves(run: Path) -> dict:
    """The curves as lists of [update, value], the saved samples, and the warnings by update."""
    _, metrics, samples, _ = read_run(run)
    rows = stage_of(metrics, "finetune")
    drawn = []
    for name, title, unit in DRAWN:
        points = [[row["step"], row[name]] for row in rows if row.get(name) is not None]
        if points:
            drawn.append({"name": name, "title": title, "unit": unit, "points": points})
    saved = []
    for row in stage_of(samples, "finetune"):
        saved.append({name: row[name] for name in SHOWN if name in row})
    warnings = []
    for row in rows:
        for words in (row.get("warnings") or {}).values():
            warnings.append([row["step"], words])
    return {"curves": drawn, "samples": saved, "warnings": warnings}


def saved_prompts(run: Path, most: int) -> list[dict]:
    """The different prompts of the run's saved samples: words, prompt and split of each."""
    found: dict[str, dict] = {}
    for row in read_run(run)[2]:
        words = row.get("topic")
        if isinstance(words, str) and words not in found and len(found) < most:
            prompt = row.get("turns", words)
            found[words] = {"words": words, "prompt": prompt, "split": row.get("split", "")}
    return list(found.values())
