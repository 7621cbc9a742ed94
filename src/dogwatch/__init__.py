"""Dogwatch stands the watch for the people who run systems."""

__version__ = "0.1.0"
