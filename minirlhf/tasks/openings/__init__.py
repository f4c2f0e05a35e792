"""The default task: openings for a topic, composed from hand-written knowledge; nothing to
download.

The rubric in judge.py is the judge; the raters are simulated and see it through noise.
Not here: the data files themselves (data/).
"""
