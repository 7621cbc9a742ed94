"""Telling people and programs: a durable outbox, its channels, and the action that uses them.

Belongs here: how a message gets out, and what becomes of one that does not. Does not: when to notify (rules).
"""
