"""Figures and HTML pages: reads what a run has written, writes pages.

Not here: anything that trains, samples or judges.
"""
