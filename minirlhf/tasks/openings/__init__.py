"""The default task: openings for a topic, composed from hand-written knowledge; nothing to
download.

The judge is the rubric in judge.py; the raters are simulated and apply it with bias and noise.
Not here: the data files themselves (data/).
"""
