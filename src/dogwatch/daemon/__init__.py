"""The long-running process: sockets, signals, reload, restart, the admin socket, the stop order.

Belongs here: the life of the process. Does not: what the parts do.
"""
