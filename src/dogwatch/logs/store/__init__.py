"""The store of logs: a write-ahead file for what is new, columnar segments for the rest, queries over both.

No server: one agent writes, any number of processes read. What belongs to pages or commands does not belong here.
"""
