"""One file, read and written safely: a crash leaves the old file or the whole new one, and a malformed one is named in one line.

Whatever needs torch is imported where it is used: the tokenizer and the feedback files come through here too, and need none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to; what stands there when the block ends takes the place of `path` in one move.

    If the block raises, `path` stays as it was. Nothing is left beside it either way.
    """
    temporary = path.with_name(
        f".{path.name}.{os.getpid()}.tmp"
    )  # in the same folder: a move between disks is not atomic
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write(path: Path, text: str) -> None:
    """Write text so that a reader finds either the old file or the whole new one. Of several processes only rank 0 writes."""
    from minirlhf.system import distributed

    if distributed.rank() > 0:
        return
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def read_json(path: Path) -> object:
    """What a JSON file holds. Raises ValueError, one line, if it is malformed; FileNotFoundError is left to the caller."""

    def once(pairs: list[tuple[str, object]]) -> dict:
        content = dict(pairs)
        if len(content) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(
                f"{next(name for name in names if names.count(name) > 1)!r} more than once"
            )
        return content

    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, found: {str(error)[:100]}") from None


def save_tensors(path: Path, tensors: dict[str, Tensor], header: dict) -> None:
    """Write tensors and a JSON header as one safetensors file, atomically. Of several processes only rank 0 writes."""
    from safetensors.torch import save_file  # needs torch

    from minirlhf.system import distributed

    if distributed.rank() > 0:
        return
    try:
        with replacing(path) as temporary:
            save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
                temporary,
                metadata={"minirlhf": json.dumps(header)},
            )
    except SafetensorError as error:  # a full disk, for one
        raise OSError(None, str(error)[:100], str(path)) from None


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read what `save_tensors` wrote. Raises ValueError, one line, if the file is missing, cut off or something else."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("minirlhf", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, header
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{path}: expected a safetensors file, found: {str(error)[:100]}"
        ) from None
