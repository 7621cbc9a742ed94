"""Playbooks: YAML that says how hosts should be, and what of it holds for one host. It connects to nothing."""
