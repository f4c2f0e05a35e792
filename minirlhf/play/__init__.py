"""A local page on which one plays with a run: the server, what it answers, and the page itself.

What is computed of a text (scores per token and so on) lives in look_inside; nothing is trained.
"""
