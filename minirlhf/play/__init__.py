"""A local page on which one plays with a run: the server, what it answers, and the page itself.

Reads runs and adds ratings to them; trains nothing.
Not here: what is computed of a text, such as a score per token (look_inside/).
"""
