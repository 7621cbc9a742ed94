"""Text from outside, made fit to be kept: bounded, and valid UTF-8."""

from __future__ import annotations


def clean(text: str, most: int) -> str:
    """Return the text cut to `most` characters, with what cannot be encoded replaced."""
    text = text[:most]
    # isascii is a flag of the string: the common case costs nothing.
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
