"""Is the result any good? Measures of samples and of reward models.

A judge that trained nothing scores texts before and after; a report card compares the reward model
with baselines. Nothing is trained here and no file is written.
"""
