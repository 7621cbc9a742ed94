"""The transactions of the book of runs: each module is functions of a Tx over the engine's tables.

Belongs here: what is written and read together, and the locks that this needs. Does not: what happens next in a run
(the decider), how it is carried out (the executor), or waiting for anything.

Rows are locked in this order, so that transactions cannot wait for each other in a circle: a run, its gates in order
of their names, other runs (only those that nobody holds: SKIP LOCKED), the audit trail.
"""
