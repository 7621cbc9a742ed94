"""Schedules: when jobs start by themselves. One fire is one run, over restarts and with any number of schedulers.

Belongs here: cron, calendars, windows, what a missed fire becomes, the claim of a fire. Does not: what a run does, or
whether it may overlap another (the job's concurrency).
"""
