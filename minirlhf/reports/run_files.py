"""Reads the files of a run folder for its report. A run that is not finished lacks some of them."""

from __future__ import annotations

import json
from pathlib import Path


def read_run(run: Path) -> tuple[dict, list[dict], list[dict], dict]:
    """(config, metrics, samples, summary); a missing file reads as empty.

    Until there is a summary, progress.json is read instead. Raises ValueError (file, line, what was
    expected) if a file cannot be read or none is there.
    """
    names = ("config.json", "metrics.jsonl", "samples.jsonl", "summary.json")
    if not any((run / name).is_file() for name in names):
        raise ValueError(
            f"{run}: expected a run folder with one of {', '.join(names)}; found none of them"
        )
    config = _read_object(run / "config.json")
    metrics = _read_lines(run / "metrics.jsonl")
    samples = _read_lines(run / "samples.jsonl")
    summary = _read_object(run / "summary.json") or _read_object(run / "progress.json")
    return summary.get("config") or config, metrics, samples, summary


def _read_object(path: Path) -> dict:
    """The JSON object of a file."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return _parse(text, f"{path.name}, line 1") if text.strip() else {}


def _read_lines(path: Path) -> list[dict]:
    """The JSON object of each line; a last line that an interruption cut off is left out."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    objects = []
    # Not splitlines, which would also split at U+2028.
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        if line.strip():
            objects.append(_parse(line, f"{path.name}, line {number}"))
    return objects


def _parse(text: str, where: str) -> dict:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where}: expected JSON, found: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


def stage_of(metrics: list[dict], stage: str) -> list[dict]:
    """The rows of one stage."""
    return [record for record in metrics if record.get("stage") == stage]
