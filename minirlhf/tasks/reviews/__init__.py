"""The task `reviews`: film-review sentences with scores that people gave.

Downloaded to the user's own machine, checked and joined; judged by two scorers that never saw the
scores. None of the text is part of this project.
"""
