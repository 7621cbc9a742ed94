"""The expression language, CEL: parsed, checked, and run as Python closures; the reference runs what is beyond them.

Belongs here: compiling and evaluating an expression over given values. Does not: which values there are, or what
follows from an answer (probes, rules, jobs).
"""
