"""HTTP API, exposition and console.

Belongs here: how things are shown and asked for over HTTP. Does not: decisions.
"""
