"""Pages and pictures of finished and unfinished runs.

Everything here reads files or plain dicts and writes HTML or images; nothing is trained, sampled or
judged.
"""
