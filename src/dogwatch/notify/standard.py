"""Standard Webhooks: how a message is signed. Source: the specification at standardwebhooks.com, version 1.

Signed is `id.timestamp.body`, with HMAC-SHA256; the header holds a signature for each secret, so that one
can be rotated.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets as secrets_module
from collections.abc import Sequence

_PREFIX = "whsec_"
# What the specification asks of a secret, in bytes.
LEAST_SECRET, MOST_SECRET = 24, 64


def parse_secret(text: str) -> bytes:
    """Return the key of `whsec_` and base64; the prefix may be absent.

    Raises: ValueError without the secret in it.
    """
    try:
        key = base64.b64decode(text.strip().removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not a Standard Webhooks secret: whsec_ and base64") from None
    if not key:
        raise ValueError("is an empty secret")
    return key


def new_secret() -> str:
    return _PREFIX + base64.b64encode(secrets_module.token_bytes(32)).decode()


def signature(key: bytes, message_id: str, timestamp: int | str, body: bytes) -> bytes:
    """Return the raw HMAC."""
    return hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)


def headers(keys: Sequence[bytes], message_id: str, time_s: float, body: bytes) -> list[tuple[str, str]]:
    """Return the three headers of a message. keys: the newest first; none leaves the signature out."""
    timestamp = int(time_s)
    signed = " ".join(f"v1,{base64.b64encode(signature(key, message_id, timestamp, body)).decode()}" for key in keys)
    found = [("webhook-id", message_id), ("webhook-timestamp", str(timestamp))]
    return [*found, ("webhook-signature", signed)] if signed else found
