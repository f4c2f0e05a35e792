"""Safe reading and writing of one file: text, JSON, JSONL, tensors.

A crash leaves either the old file or the whole new one; a malformed file raises a one-line error
that names it. Of several processes only rank 0 writes. torch is imported only where it is needed:
the tokenizer and the feedback files use this module too, and do not need it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to; when the block ends, it replaces `path` in one move.

    If the block raises, `path` stays as it was. No temporary file is left either way.
    """
    # In the same folder, since a move between disks is not atomic.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _is_writer() -> bool:
    """Whether this process writes files: rank 0 does."""
    from minirlhf.system import distributed

    return distributed.rank() == 0


def atomic_write(path: Path, text: str) -> None:
    """Write text so that a reader finds either the old file or the whole new one."""
    if not _is_writer():
        return
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


# JSON ---------------------------------------------------------------------------------------------


def read_json(path: Path) -> object:
    """What a JSON file holds.

    Raises ValueError, one line, if it is malformed or an object has a name twice. FileNotFoundError
    is left to the caller.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(path, error) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, found: {str(error)[:100]}") from None


def unreadable(path: Path, error: OSError) -> ValueError:
    """The error of a file that is there, or may be, but cannot be read: what the system said."""
    return ValueError(f"{path}: cannot be read: {error.strerror or str(error)[:100]}")


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict:
    """The object of these pairs. json.loads would silently keep the last of two values."""
    content = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"{name!r} more than once")
        content[name] = value
    return content


# JSONL: one JSON object per line ------------------------------------------------------------------


def read_jsonl(path: Path) -> list[dict]:
    """The objects of a JSONL file; [] if there is no such file.

    A last line without a newline was cut off by an interruption and is dropped. Blank lines are
    skipped. Raises ValueError, one line, if the file cannot be read, or naming the line that is no
    JSON object.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreadable(path, error) from None
    # Split the bytes, not the text: the cut may lie inside a character, and str.splitlines() would
    # also split at U+2028, which may stand in a JSON string.
    lines = content.split(b"\n")[:-1]
    objects = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode("utf-8"))
        except ValueError:  # no UTF-8, or no JSON
            found = line.decode("utf-8", "replace")[:60]
            raise ValueError(f"{path}: line {number}: expected JSON, found {found!r}") from None
        if not isinstance(value, dict):
            raise ValueError(
                f"{path}: line {number}: expected a JSON object, found {type(value).__name__}"
            )
        objects.append(value)
    return objects


def append_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """Add one line per row to a JSONL file."""
    if not _is_writer():
        return
    with open(path, "a", encoding="utf-8", newline="\n") as file:
        file.write(_as_jsonl(rows))


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """Write a JSONL file, atomically, in place of the old one."""
    atomic_write(path, _as_jsonl(rows))


def _as_jsonl(rows: Iterable[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


# Tensors ------------------------------------------------------------------------------------------


def save_tensors(path: Path, tensors: dict[str, Tensor], header: dict) -> None:
    """Write tensors and a JSON header as one safetensors file, atomically.

    Raises OSError if it cannot be written.
    """
    if not _is_writer():
        return
    from safetensors.torch import save_file  # needs torch

    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with replacing(path) as temporary:
            save_file(on_cpu, temporary, metadata={"minirlhf": json.dumps(header)})
            os.chmod(temporary, _usual_mode())  # safetensors lets only the owner read its file
    except SafetensorError as error:  # a full disk, for example
        raise OSError(None, str(error)[:100], str(path)) from None


def _usual_mode() -> int:
    """The permissions that the umask gives a new file."""
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read what `save_tensors` wrote: tensors and header.

    Raises ValueError, one line, if the file is missing, cannot be read, is cut off or something
    else.
    """
    try:
        with open(path, "rb"):
            pass  # safetensors calls any file that it cannot open missing; Python tells the reason
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except OSError as error:
        raise unreadable(path, error) from None
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("minirlhf", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, header
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{path}: expected a safetensors file, found: {str(error)[:100]}"
        ) from None
