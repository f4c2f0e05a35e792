"""Device, matmul precision and memory helpers."""

from __future__ import annotations

import ctypes
import functools
import platform
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
PRECISIONS = ("auto", "float32", "bfloat16")
# Kind of device ("cpu", "cuda", ...) -> the precision that `use_precision` chose for it.
_chosen: dict[str, str] = {}


def available_devices() -> list[str]:
    """The kinds of device on this machine, the preferred one first."""
    found = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    return [kind for kind, is_there in found.items() if is_there]


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" takes CUDA, then MPS, then the CPU.

    Raises ValueError if the device asked for is not there.
    """
    available = available_devices()
    if name == "auto":
        name = available[0]
    if name not in available:
        raise ValueError(f"--device {name}: not available on this machine; use --device auto")
    return torch.device(name)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for products of bfloat16 numbers.

    Without them bfloat16 is slower than float32. CUDA counts as having them (cards before Ampere do
    not). A CPU has them with AVX-512 BF16 or AMX.
    """
    if device.type != "cpu":
        return device.type == "cuda"
    # These are private names of PyTorch and may change; where they are gone, the answer is no.
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        is_supported = getattr(torch.cpu, name, None)
        if is_supported is not None and is_supported():
            return True
    return False


def use_precision(name: str, device: torch.device) -> None:
    """Choose the precision of matrix products on this kind of device, for this process from now on.

    "float32", "bfloat16", or "auto": bfloat16 where the device multiplies it natively. Weights,
    losses and the optimizers' moments are float32 in any case. Raises ValueError for another name.
    """
    if name not in PRECISIONS:
        raise ValueError(f"--precision: expected one of {', '.join(PRECISIONS)}, found {name!r}")
    if name == "auto":
        name = "bfloat16" if multiplies_bfloat16(device) else "float32"
    _chosen[device.type] = name


def precision_of(device: torch.device) -> str:
    """What `use_precision` chose; by default "bfloat16" on CUDA and "float32" elsewhere."""
    default = "bfloat16" if device.type == "cuda" else "float32"
    return _chosen.get(device.type, default)


def autocast(device: torch.device) -> AbstractContextManager:
    """A context in which matrix products on the device have the precision of `precision_of`."""
    if precision_of(device) == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


# Memory -------------------------------------------------------------------------------------------


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """This process's C library if it is GNU's, the only one that has the two calls below."""
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def keep_freed_memory() -> None:
    """Have glibc keep freed blocks for the next step.

    By default it returns large blocks to the system at once and fetches them again page by page: on
    a CPU that is up to a tenth of a training step. `release_freed_memory` returns them at a stage's
    end.
    """
    if libc := _glibc():
        trim_threshold, mmap_threshold = -1, -3  # parameter numbers of mallopt(3)
        # Older versions refuse 1 GiB (mallopt returns 0); they allow no more than 32 MiB.
        libc.mallopt(mmap_threshold, 2**30) or libc.mallopt(mmap_threshold, 2**25)
        libc.mallopt(trim_threshold, 2**30)


def release_freed_memory() -> None:
    """Return freed memory to the system; glibc otherwise keeps the fragments."""
    if libc := _glibc():
        libc.malloc_trim(0)


def peak_rss_mb() -> float | None:
    """The most memory this process has held, in MB; None on Windows, which does not say."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    units_per_mb = 1e6 if platform.system() == "Darwin" else 1e3  # macOS counts bytes, Linux kB
    return peak / units_per_mb
