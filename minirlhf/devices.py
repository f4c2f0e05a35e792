"""What a run computes on: the device, the precision of its matrix products, the memory that it took."""
from __future__ import annotations

import platform
from contextlib import nullcontext

import torch


def pick_device(name: str) -> torch.device:
    """ "auto" takes CUDA, then MPS, then the CPU. Raises ValueError if the device asked for is not there."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = "cuda" if available["cuda"] else "mps" if available["mps"] else "cpu"
    if not available[name]:
        raise ValueError(f"--device {name}: not available on this machine; use --device auto")
    return torch.device(name)


def autocast(device: torch.device):
    """bf16 matrix products on CUDA; full float32 elsewhere."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def peak_rss_mb() -> float | None:
    """The most memory this process has held, in MB; None where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if platform.system() == "Darwin" else 1e3)
