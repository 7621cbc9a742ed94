"""Inventories: what the sources say of hosts and groups, merged by a precedence that can be shown.

Belongs here: reading of inventory formats, ranges, merging. Does not: connecting (connections/), choosing (targets.py).
"""
