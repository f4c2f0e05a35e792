"""What people or programs said about texts: records, splits, agreement, rating sessions.

Not here: models that learn from it (training/), the simulated raters of a task (tasks/).
"""
