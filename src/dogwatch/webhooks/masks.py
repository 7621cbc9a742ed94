"""Keeps secrets out of what is stored and shown of a request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

MASK = "***"
# By name: whatever proves or identifies somebody. Ids and timestamps of webhooks are no secrets and help to find one.
_SECRET_NAME = re.compile(
    r"auth|cookie|signature|token|secret|password|passwd|credential|session|api[-_]?key|access[-_]?key|csrf|jwt",
    re.IGNORECASE,
)
_MOST_HEADERS = 100
_MOST_CHARS = 1000


def masked_pairs(pairs: Mapping[str, str], secrets: Iterable[str]) -> dict[str, str]:
    """Return headers or query without secrets, bounded in number and length."""
    known = tuple(secrets)
    return {
        name[:_MOST_CHARS]: MASK if _SECRET_NAME.search(name) else masked_text(value, known)[:_MOST_CHARS]
        for name, value in list(pairs.items())[:_MOST_HEADERS]
    }


def masked_text(text: str, secrets: Iterable[str]) -> str:
    """Return text with every secret replaced; short ones would tear holes into ordinary words."""
    for secret in secrets:
        if len(secret) >= 4:
            text = text.replace(secret, MASK)
    return text
