"""minirlhf: fine-tuning a language model from language feedback, from scratch, in plain PyTorch."""

import os

# Threads that wait for each other should sleep. By default they spin, and if anything else wants a core, each of the many small
# operations of a step then waits for its turn: ten times slower. Read when PyTorch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
