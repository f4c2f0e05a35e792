"""Reads the files of a run folder for its report. A run that is not finished lacks some of them."""

from __future__ import annotations

from pathlib import Path

from minirlhf.look_inside.looks import TextLook, from_json
from minirlhf.system.files import read_json, read_jsonl


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
    metrics = read_jsonl(run / "metrics.jsonl")
    samples = read_jsonl(run / "samples.jsonl")
    summary = _read_object(run / "summary.json") or _read_object(run / "progress.json")
    return summary.get("config") or config, metrics, samples, summary


def read_looks(run: Path) -> list[TextLook]:
    """The samples that the evaluation has looked at token by token; [] if there are none.

    Raises ValueError if the file cannot be read.
    """
    path = run / "looks.jsonl"
    try:
        return [from_json(row) for row in read_jsonl(path)]
    except (KeyError, TypeError):
        raise ValueError(f"{path}: expected the tokens of samples, as `evaluate` writes") from None


def _read_object(path: Path) -> dict:
    """The JSON object of a file; {} if there is no such file, or nothing in it."""
    if not path.is_file() or not path.stat().st_size:
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def stage_of(metrics: list[dict], stage: str) -> list[dict]:
    """The rows of one stage."""
    return [record for record in metrics if record.get("stage") == stage]
