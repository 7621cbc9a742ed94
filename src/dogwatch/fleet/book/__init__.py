"""What went over the fleet, on disk: runs, and what became of each of their hosts, written as it happens.

Belongs here: the tables and every query on them. Does not: how a command reaches a host (fleet/run.py), how results are
shown.
"""
