"""The transactions of the book of runs: each module is functions of a Tx over the engine's tables.

Belongs here: what is written and read together, and the locks that this needs. Does not: what happens next in a run
(the decider), how it is carried out (the executor), or waiting for anything.

Locks are taken in this order, so that transactions seldom wait for each other in a circle: the audit trail; runs,
children before their parents; gates, in order of their names; other runs, only those that nobody has (SKIP LOCKED).
Since transactions are committed in groups, one that has a gate ends its group (Tx.hurry).
"""
