"""Loops over models and data: pretraining, the reward model, fine-tuning.

A log and a checkpoint are handed in.
Not here: formulas (equations.py), networks (models/), run folders (runs/).
"""
