"""minirlhf: fine-tuning a language model from language feedback, from scratch, in plain PyTorch."""

import os

__version__ = "0.1.0"

# PyTorch's threads (GNU OpenMP) wait for each other by spinning. Where something else has one of the cores, that can take ten
# times as long as the work, so they spin for microseconds only and then sleep. It is read when torch is first imported.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"

# oneDNN keeps the code that it prepared for each shape of a product, 1,024 of them unless told otherwise. 64 of them take 150 MB
# less in a demo and cost a tenth of a pretraining step; on a CPU with AMX they save little and cost a quarter.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
