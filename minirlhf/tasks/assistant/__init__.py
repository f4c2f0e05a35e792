"""The task `assistant`: a small chat world of questions, dialogue, translation and safety.

Instructions and answers of every quality are composed; each kind has an exact judge, and the raters
are simulated.
Not here: the data files themselves (data/), and the stages that train on this world.
"""
