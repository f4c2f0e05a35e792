"""Infrastructure: random seeds, devices, processes, files, locks.

Not here: anything specific to language models, feedback or training.
"""
