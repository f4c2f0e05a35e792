"""The task `openings`: the article's writing assistant, in small.

Hand-written knowledge of forty topics, texts composed from it, a rubric that judges them, and
simulated raters. No model is used here.
"""
