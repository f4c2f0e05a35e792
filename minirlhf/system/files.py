"""Safe reading and writing of one file: text, JSON, JSONL, tensors.

A crash leaves either the old file or the whole new one; a malformed file raises a one-line error
that names it. Of several processes only rank 0 writes. torch is imported only where it is needed:
the tokenizer and the feedback files use this module too, and do not need it.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

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
        # Names of files may hold what UTF-8 cannot encode (half of a surrogate pair); written as
        # \udcff, JSON reads it back.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


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
    content: dict = {}
    for name, value in pairs:
        if name in content:
            raise _DuplicateKey(name)
        content[name] = value
    return content


class _DuplicateKey(ValueError):
    """A key that occurs twice in one JSON object."""

    def __init__(self, key: str):
        super().__init__(f"{key!r} more than once")
        self.key = key


# JSONL: one JSON object per line ------------------------------------------------------------------


MAX_LINE_BYTES = 1_000_000  # no more of a line is ever held in memory
MAX_SHOWN = 60  # characters shown of a wrong value
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # some editors write it at the start of a file
TOO_LONG = f"expected at most {MAX_LINE_BYTES} bytes, found more"


_copies: list[IO[bytes]] = []  # of pipes; they are deleted when the process ends


@functools.cache
def reopenable(path: Path) -> Path:
    """The path itself, or a temporary copy of what comes out of a pipe, which is read only once."""
    if path.is_file() or path.is_dir() or not path.exists():
        return path
    copy = tempfile.NamedTemporaryFile(suffix=".jsonl")  # noqa: SIM115 (kept to the end)
    with open(path, "rb") as pipe:
        shutil.copyfileobj(pipe, copy)
    copy.flush()
    _copies.append(copy)
    return Path(copy.name)


class JsonLine(NamedTuple):
    """One line of a JSONL file."""

    number: int  # from 1
    start: int  # position of its first byte
    record: dict  # empty if there is a fault
    fault: str  # "expected ..., found ..."; "" for a JSON object
    ended: bool  # False for a last line without a newline


def json_lines(path: str | os.PathLike[str]) -> Iterator[JsonLine]:
    """The lines of a JSONL file, blank ones left out: the one reader of all such files.

    It may be a pipe, also one that is asked for again. A line of more than MAX_LINE_BYTES is a
    fault. OSError is left to the caller.
    """
    with open(reopenable(Path(path)), "rb") as file:
        number = start = 0
        # The limit, and two bytes more for the end of the line.
        while raw := file.readline(MAX_LINE_BYTES + 2):
            number += 1
            size = len(raw)
            too_long = len(raw.rstrip(b"\r\n")) > MAX_LINE_BYTES
            while too_long and raw and not raw.endswith(b"\n"):  # skip the rest of the line
                raw = file.readline(MAX_LINE_BYTES)
                size += len(raw)
            ended = raw.endswith(b"\n")
            if number == 1:
                raw = raw.removeprefix(BYTE_ORDER_MARK)
            if too_long:
                yield JsonLine(number, start, {}, TOO_LONG, ended)
            elif raw.strip():
                record, fault = parse_line(raw)
                yield JsonLine(number, start, record, fault, ended)
            start += size


def parse_line(raw: bytes) -> tuple[dict, str]:
    """One line of bytes to (its JSON object, ""), or to ({}, fault)."""
    try:
        line = raw.decode("utf-8").rstrip("\r\n")
        record = json.loads(line, object_pairs_hook=_without_duplicates)
    except _DuplicateKey as error:
        return {}, f"{shown(error.key, quote=False)}: expected each key once, found it twice"
    except UnicodeDecodeError as error:
        wrong = raw[error.start : error.start + 1].hex()
        return {}, f"expected UTF-8, found byte 0x{wrong} at byte {error.start + 1}"
    except (ValueError, RecursionError) as error:  # ValueError: also a number of too many digits
        reason = str(error)
        if isinstance(error, json.JSONDecodeError):
            reason = f"{error.msg} at column {error.colno}"
        return {}, f"expected a JSON object, found {shown(line.strip(), quote=False)} ({reason})"
    if not isinstance(record, dict):
        return {}, f"expected a JSON object, found {shown(record)}"
    return record, ""


def shown(value: object, quote: bool = True) -> str:
    """A value for an error message: short, on one line, without control characters."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    text = json.dumps(value, ensure_ascii=False) if quote else str(value)
    start = text[: MAX_SHOWN + 1]
    text = "".join(character if character.isprintable() else "?" for character in start)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def read_jsonl(path: Path) -> list[dict]:
    """The objects of a JSONL file that the product wrote; [] if there is no such file.

    A last line without a newline was cut off by an interruption and is dropped. Blank lines are
    skipped. Raises ValueError, one line, if the file cannot be read, or naming the line that is no
    JSON object.
    """
    objects = []
    try:
        for line in json_lines(path):
            if not line.ended:
                break
            if line.fault:
                raise ValueError(f"{path}: line {line.number}: {line.fault}")
            objects.append(line.record)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreadable(path, error) from None
    return objects


def append_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """Add one line per row to a JSONL file."""
    if not _is_writer():
        return
    with open(path, "a", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
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


@contextmanager
def _utf8_name(path: Path) -> Iterator[str]:
    """A name for an existing file in UTF-8, which safetensors asks for."""
    name = str(path)
    # In a path half of a surrogate pair stands for a byte that is not UTF-8.
    if not any("\ud800" <= character <= "\udfff" for character in name):
        yield name
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield f"/dev/fd/{descriptor}"
    finally:
        os.close(descriptor)


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
        with _utf8_name(path) as name, safe_open(name, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("minirlhf", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, header
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{path}: expected a safetensors file, found: {str(error)[:100]}"
        ) from None
