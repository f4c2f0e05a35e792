"""What each token of a text is worth and what the models think of it: numbers, and their page.

Takes models, not run folders; runs/look_inside.py loads those of a run and shows them.
Not here: the server of the page (play/), training, the judges themselves (tasks/).
"""
