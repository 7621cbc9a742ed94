"""Durable runs: jobs as graphs of steps, queues, workers, locks, schedules; the registry of action kinds.

Belongs here: what must survive a crash about work that is done in steps. Does not: what a kind of step does to the
world beyond `exec` and `http`, or when a run should start because something broke (rules).
"""
