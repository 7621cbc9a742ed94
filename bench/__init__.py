"""Benchmarks: us and the peer side by side in one run, in alternation. `python -m bench [NAME…]`."""
