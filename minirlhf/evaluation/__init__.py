"""Is the result any good? Judge before and after, baselines, perturbation tests, the report card.

Not here: pages and figures (reports/), the judges themselves (tasks/).
"""
