"""What a host says of itself to somebody who may only run a shell there: the script, the reading, the judgement.

Belongs here: pure functions of text. Does not: how the script reaches a host (fleet, probes bring it there).
"""
