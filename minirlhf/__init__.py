"""minirlhf: fine-tuning a language model from language feedback, from scratch, in plain PyTorch."""

import os

__version__ = "0.1.0"

# PyTorch's threads (GNU OpenMP) wait for each other by spinning. When something else uses one of
# the cores, that can take ten times as long as the work, so they spin for microseconds only and
# then sleep. The setting is read when torch is first imported.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"

# oneDNN caches the kernel that it compiled for each shape of a product, by default 1,024 of them.
# With 64 a demo needs 150 MB less and a pretraining step takes a tenth longer; on a CPU with AMX it
# saves little and costs a quarter.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
