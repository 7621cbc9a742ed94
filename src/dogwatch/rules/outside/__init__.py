"""Alerts that others raise, Prometheus' Alertmanager and Falco: they open incidents as our own rules do.

Belongs here: how they are read and kept. Does not: how they come in (webhooks), or what an incident is (rules/desk).
"""
