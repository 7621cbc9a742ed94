"""Backtests of a month in a minute: history as columns, conditions over all of a column at once.

Belongs here: how recorded signals are gone through fast, read, kept as files. Does not: what rules and incidents
decide (rules/decider, rules/desk): those run as they run live, on the same answers at the same times.
"""
