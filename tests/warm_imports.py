"""What the server of warm_process.py imports and reads once, so that its forks need not."""

import torch._dynamo  # every optimizer imports it when it is made

import minirlhf.cli.main
import minirlhf.cli.train
import minirlhf.reports.run_report
import minirlhf.runs.pipeline  # noqa: F401
from tiny_command import small_openings

small_openings()
