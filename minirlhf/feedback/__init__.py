"""Language feedback: what people or programs said about texts.

Files of scores and comparisons, splitting them, agreement between raters, and collecting new
ratings. Nothing here knows a model, a task or a run.
"""
