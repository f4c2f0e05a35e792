"""What a run computes on: the device, the precision of its matrix products, the memory that it took."""

from __future__ import annotations

import ctypes
import functools
import platform
from contextlib import nullcontext

import torch

PRECISIONS = ("auto", "float32", "bfloat16")
_chosen: dict[
    str, str
] = {}  # kind of device ("cpu", "cuda", ...) to the precision that `use_precision` chose for it


def pick_device(name: str) -> torch.device:
    """ "auto" takes CUDA, then MPS, then the CPU. Raises ValueError if the device asked for is not there."""
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        name = "cuda" if available["cuda"] else "mps" if available["mps"] else "cpu"
    if not available.get(name):
        raise ValueError(f"--device {name}: not available on this machine; use --device auto")
    return torch.device(name)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for products of bfloat16 numbers; without them bfloat16 is slower than float32.

    CUDA counts as having them (cards before Ampere do not). A CPU has them with AVX-512 BF16 or AMX. PyTorch's own names for that
    question are not promised to stay; where they are gone the answer is no.
    """
    if device.type == "cpu":
        return any(
            getattr(torch.cpu, name, lambda: False)()
            for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        )
    return device.type == "cuda"


def use_precision(name: str, device: torch.device) -> None:
    """Choose the precision of matrix products on this kind of device, for this process and from now on.

    "float32", "bfloat16", or "auto": bfloat16 where the device multiplies it natively. Weights, losses and the moments of the
    optimizers are float32 in any case. Raises ValueError for another name.
    """
    if name not in PRECISIONS:
        raise ValueError(f"--precision: expected one of {', '.join(PRECISIONS)}, found {name!r}")
    if name == "auto":
        name = "bfloat16" if multiplies_bfloat16(device) else "float32"
    _chosen[device.type] = name


def precision_of(device: torch.device) -> str:
    """ "float32" or "bfloat16": what `use_precision` chose; before any choice bfloat16 on CUDA and float32 elsewhere."""
    return _chosen.get(device.type, "bfloat16" if device.type == "cuda" else "float32")


def autocast(device: torch.device):
    """A context in which matrix products on the device have the precision that `precision_of` says."""
    return (
        torch.autocast(device.type, torch.bfloat16)
        if precision_of(device) == "bfloat16"
        else nullcontext()
    )


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """The C library of this process if it is GNU's: only that one has the two calls below."""
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def keep_freed_memory() -> None:
    """Have glibc keep freed blocks for the next step. By default it hands large ones back at once and fetches them anew, page by
    page: on a CPU that is up to a tenth of a training step. `give_back_memory` still hands them back where a stage ends."""
    if libc := _glibc():
        trim_threshold, mmap_threshold = -1, -3  # mallopt(3)
        libc.mallopt(mmap_threshold, 2**30) or libc.mallopt(
            mmap_threshold, 2**25
        )  # older versions allow no more
        libc.mallopt(trim_threshold, 2**30)


def give_back_memory() -> None:
    """Hand freed memory back to the system: blocks of all sizes come and go in a stage, and glibc keeps what lies between."""
    if libc := _glibc():
        libc.malloc_trim(0)


def peak_rss_mb() -> float | None:
    """The most memory this process has held, in MB; None where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if platform.system() == "Darwin" else 1e3)
