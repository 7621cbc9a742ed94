"""Fleets of hosts: who they are, how they are reached, and commands run on many of them within bounds.

Belongs here: inventories and target expressions, connections (SSH, local, docker), batches and stop rules, gathering of
output. Does not: what a run of a job is (engine), how a terminal shows it (cli).
"""
