"""Thresholds and, later, incidents, dependencies and remediation. Pure deciders: no clock, network, store.

Belongs here: what follows from a signal. Does not: how a signal was got, or the language of conditions (expressions).
"""
