"""The token view: prefix score, advantage, log-probability and KL of each token; its HTML.

Takes models, not run folders; runs/look_inside.py loads those of a run and shows them.
Not here: the server of the page (play/), training, the judges themselves (tasks/).
"""
