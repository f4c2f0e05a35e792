"""benchmarks/engines.py: three engines, one gradient; FSDP2 splits what each process holds."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_engine_has_the_gradient_of_one_process_and_fsdp2_holds_half():
    sizes = ["--texts", "6", "--width", "64", "--layers", "2", "--vocab", "50", "--repeats", "1"]
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    printed = subprocess.run(
        [sys.executable, *start, "-m", "benchmarks.engines", *sizes],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    row = r"(\w+) +\d+ ms +gradient off by (\S+) +(\S+) bytes per weight"
    found = {name: (float(error), float(held)) for name, error, held in re.findall(row, printed)}
    assert list(found) == ["ours", "DDP", "FSDP2"]
    for name, (error, held) in found.items():
        assert error < 1e-4  # of the largest entry; one process's share alone would be off by 1
        # Weight, gradient and two moments in float32.
        assert held == (8.0 if name == "FSDP2" else 16.0)
