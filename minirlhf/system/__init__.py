"""What a run stands on: random seeds, devices, processes, files, locks.

Not here: anything that knows of language models, feedback or training.
"""
