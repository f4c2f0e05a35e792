"""The weights of a published checkpoint: each is used, or its name stands in the refusal."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


class CheckpointWeights:
    """Tensors by name. Remembers which were taken, so that what is left over can be named.

    `what` stands at the head of each message; `current_name` gives the name under which a tensor
    is looked for. Raises ValueError if two tensors have the same one.
    """

    def __init__(self, what: str, state: Mapping[str, Tensor], current_name: Callable[[str], str]):
        self.what = what
        self.tensors: dict[str, Tensor] = {}
        self.taken: set[str] = set()
        for name, tensor in state.items():
            current = current_name(name)
            if current in self.tensors:
                raise self.fault(current, "expected one tensor, found two, with and without prefix")
            self.tensors[current] = tensor

    def fault(self, name: str, words: str) -> ValueError:
        return ValueError(f"{self.what}: {name}: {words}")

    def has(self, prefix: str) -> bool:
        """Whether a name begins so."""
        return any(name.startswith(prefix) for name in self.tensors)

    def take(self, name: str, dimensions: int | None = None) -> Tensor:
        """The tensor with this name, in float32.

        Raises ValueError if it is missing, holds anything but finite numbers, or has another
        number of dimensions than `dimensions`.
        """
        if name not in self.tensors:
            raise ValueError(f"{self.what}: {name} is missing")
        tensor = self.tensors[name]
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            found = getattr(tensor, "dtype", type(tensor).__name__)
            raise self.fault(name, f"expected a tensor of floating-point numbers, found {found}")
        if dimensions not in (None, tensor.dim()):
            shape = {1: "(width,)", 2: "(rows, width)"}[dimensions or 1]
            raise self.fault(name, f"expected shape {shape}, found {tuple(tensor.shape)}")
        tensor = tensor.float()
        if name not in self.taken and not tensor.isfinite().all():
            raise self.fault(name, "expected finite numbers, found NaN or inf")
        self.taken.add(name)
        return tensor

    def layers(self, prefix: str) -> int:
        """How many different numbers follow `prefix` in the names. Raises ValueError if none do."""
        rest = [name[len(prefix) :] for name in self.tensors if name.startswith(prefix)]
        if not rest:
            raise ValueError(f"{self.what}: {prefix}0 is missing")
        return len({name.split(".")[0] for name in rest})

    def merge(self, copy: str, name: str) -> None:
        """Forget the tensor `copy`, a second name of the tensor `name`.

        It takes the place of `name` if that is missing. Raises ValueError if the two differ.
        """
        if copy not in self.tensors:
            return
        if name in self.tensors and not torch.equal(self.take(copy), self.take(name)):
            raise self.fault(copy, f"expected the numbers of {name}, found others")
        tensor = self.tensors.pop(copy)
        self.tensors.setdefault(name, tensor)

    def fill(
        self, model: Model, source_of: Callable[[str], tuple[str, Tensor]], names: list[str]
    ) -> Model:
        """Fill the model's weights `names`; `source_of` gives each one's (name here, tensor)."""
        ours, loaded = model.state_dict(), {}
        for name in names:
            source, tensor = source_of(name)
            if tensor.shape != ours[name].shape:
                raise self.fault(
                    source,
                    f"expected shape {tuple(ours[name].shape)}, found {tuple(tensor.shape)}",
                )
            loaded[name] = tensor
        model.load_state_dict(loaded, strict=len(names) == len(ours))
        return model

    def check_all_taken(self, left_out: str) -> None:
        """Raise ValueError naming a tensor that was not taken.

        `left_out`: a pattern of the names that our models can do without.
        """
        unused = self.tensors.keys() - self.taken
        unused = {name for name in unused if not re.fullmatch(left_out, name)}
        if unused:
            first, rest = min(unused), len(unused) - 1
            others = f" (and {rest} more)" if rest else ""
            raise self.fault(first + others, "unknown weight: our model has no place for it")


@contextmanager
def naming(folder: Path) -> Iterator[None]:
    """Put the folder in front of the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
