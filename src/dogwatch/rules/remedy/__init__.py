"""Remediation: what is done when a rule holds, within which bounds, and the proof that it helped.

Belongs here: the pure decider, budgets, evidence, explanations. Does not: how an action is carried out (engine).
"""
