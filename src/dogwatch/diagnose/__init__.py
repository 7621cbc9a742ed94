"""Live diagnosis of this process, and the watch over its own health.

Belongs here: what tasks, descriptors, threads and memory there are, who holds them, whether they grow. Does not: what a
watched host or service does (hosts/, probes/), and showing it (web/, cli/).
"""
