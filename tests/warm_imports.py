"""What the server of warm_process.py imports and reads once, so that its forks need not."""

import io
import os
from functools import lru_cache

os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported: no progress bars

import ipykernel.kernelapp  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import matplotlib_inline.backend_inline  # noqa: F401
import quick_figures  # noqa: F401
import torch._dynamo  # noqa: F401 (every optimizer imports it when it is made)
from matplotlib.figure import Figure
from tiny_command import small_openings

import minirlhf.cli.main
import minirlhf.cli.train
import minirlhf.reports.run_report
import minirlhf.runs.pipeline  # noqa: F401
from minirlhf.reports import figures
from minirlhf.tasks.openings import task as openings

# The notebooks take the whole task, whose texts are composed from a seed: one time is enough.
openings.load = lru_cache(openings.load)
small_openings()

# The first figure imports what draws it, and reads the fonts.
drawn = Figure(layout="constrained")
drawn.subplots().set(xlabel="update", ylabel="reward")
figures.svg(drawn, "")
drawn.savefig(io.BytesIO(), format="png")
