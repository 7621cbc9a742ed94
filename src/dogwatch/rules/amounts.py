"""A number, or a share of several: `3` or `50%`. Pure."""

from __future__ import annotations


def at_least(value: int | str) -> tuple[int, float]:
    """Return a number and a share, one of which is meant. Raises: ValueError."""
    if isinstance(value, int):
        if value < 1:
            raise ValueError("must be 1 or more, or a share such as 50%")
        return value, 0.0
    digits = value.strip().removesuffix("%")
    try:
        share = float(digits) / 100
    except ValueError:
        share = 0.0
    if not value.strip().endswith("%") or not 0 < share <= 1:
        raise ValueError(f"'{value}' is neither a number nor a share from 0% to 100%")
    return 1, share
