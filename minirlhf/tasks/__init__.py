"""Tasks: what a run needs besides its settings.

Prompts, a corpus, feedback, raters and a judge for each. One folder or file per task; load.py finds
them by name. No model is trained or sampled here.
"""
