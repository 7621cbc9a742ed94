"""Collectors for CPU, memory, disk, network, processes and containers, under node_exporter's names.

Belongs here: reading this machine. Does not: probing others (probes/), history (store/).
"""
