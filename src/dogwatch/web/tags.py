"""ETags of what the API shows: a caller asks only for what changed, and changes only what it has seen."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from dogwatch.web.encoding import encode_json


def tag(body: bytes) -> str:
    """Return the tag of an answer: another body has another."""
    return f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'


def steady(shown: msgspec.Struct, *moving: str) -> dict[str, str]:
    """Return the header with a (weak) tag that stays while only these fields change, which change by themselves."""
    fields: dict[str, Any] = {name: getattr(shown, name) for name in shown.__struct_fields__ if name not in moving}
    return {"ETag": f"W/{tag(encode_json(fields))}"}


def fits(wanted: str, known: str) -> bool:
    """Return whether one of the tags of If-Match or If-None-Match is that of what there is."""
    return wanted.strip() == "*" or known in (one.strip() for one in wanted.split(","))
