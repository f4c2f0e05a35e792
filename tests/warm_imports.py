"""What the server of warm_process.py imports and reads once, so that its forks need not."""

import os

os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported: no progress bars

import ipykernel.kernelapp  # noqa: F401
import torch._dynamo  # noqa: F401 (every optimizer imports it when it is made)
from tiny_command import small_openings

import minirlhf.cli.main
import minirlhf.cli.train
import minirlhf.reports.run_report
import minirlhf.runs.pipeline  # noqa: F401

small_openings()
