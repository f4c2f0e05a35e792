"""The run folder: settings, metrics, checkpoints, and the stages that fill it.

The stages load, call and store; the work is done in training/ and evaluation/.
Not here: the command line (cli/).
"""
