"""The probe engine, one file per probe kind, and the watch that schedules them.

Belongs here: asking a target how it is. Does not: thresholds (rules/), history (store/).
"""
