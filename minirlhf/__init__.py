"""minirlhf: fine-tuning a language model from language feedback, from scratch, in plain PyTorch."""

import os

__version__ = "0.1.0"

# Two settings that libraries read when torch is first imported. Set them yourself and they stay.

# Threads of GNU OpenMP wait for each other by spinning. If another program uses one of the cores,
# a step of many small operations can take thirty times as long. So they spin for a fraction
# of a millisecond only and then sleep. Shorter, and each of many small operations has to wake them.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "5000"

# oneDNN caches the code that it compiled for each shape of a matrix product: 1,024 shapes by
# default. Caching 64 saves 150 MB in a demo and makes a pretraining step a tenth slower. On a CPU
# with AMX it saves little memory and costs a quarter: raise it there.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
