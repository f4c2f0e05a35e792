"""The training loops: pretraining, the reward model, fine-tuning. finetune.py is the article's loop.

They take models, data, settings, a log and checkpoints, and none of them knows of a run folder.
"""
