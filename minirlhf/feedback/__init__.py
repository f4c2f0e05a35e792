"""What people or programs said about texts: records, demonstrations, splits, agreement, ratings.

Not here: models that learn from it (training/), the simulated raters of a task (tasks/).
"""
