"""The command line: options, commands, error messages.

Not here: any of the work; each command calls runs/, feedback/ or evaluation/.
"""
