"""The machine that a run was made on, in words, for summary.json and the report."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from minirlhf.system.devices import precision_of


def hardware(device: torch.device) -> dict[str, str]:
    """What this process runs on, in words."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {
        "device": name,
        "precision": f"{precision_of(device)} matrix products",
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def processor() -> str:
    """The name of the CPU; where Linux does not tell it, the kind of machine."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
