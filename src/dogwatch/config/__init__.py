"""Strict loading of configuration: files and folders, substitution, precedence, errors with file and line, reload.

Belongs here: how a section is read, checked, shown and reloaded. Does not: what a section means.
"""
