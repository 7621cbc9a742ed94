"""Several Dogwatches watch one target from several places; it is down when enough of them say so.

Belongs here: what each place says, and what follows from it. Does not: how a place finds out (probes).
"""
