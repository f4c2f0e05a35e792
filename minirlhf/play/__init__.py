"""The local web page of `play`: its server, the requests it answers, and the page itself.

Reads runs and adds ratings to them; trains nothing.
Not here: the numbers themselves, such as a score per token (look_inside/).
"""
