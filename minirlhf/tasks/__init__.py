"""A task bundles what a run needs: prompts, a pretraining corpus, feedback, raters and a judge.

One folder or file per task; load.py finds it by name.
Not here: models and training. A task works without any.
"""
