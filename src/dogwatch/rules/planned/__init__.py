"""Maintenance windows and freezes that people make while Dogwatch runs, beside those of the configuration.

Belongs here: how they are kept, and who is told when they change. Does not: what a window means (rules/maintenance).
"""
