"""AWS Signature Version 4, for requests whose body is known whole."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import quote, urlsplit

import msgspec


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """Who signs. session: of temporary ones, "" for none."""

    access_key: str
    secret_key: str
    session: str = ""


def signed(
    method: str, url: str, headers: Mapping[str, str], body: bytes, credentials: Credentials, region: str, at: datetime
) -> dict[str, str]:
    """Return all headers of a signed request to S3. url: without a query. at: UTC.

    Source: "Signature Version 4 signing process", AWS.
    """
    parts = urlsplit(url)
    stamp = at.strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(body).hexdigest()
    found = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
    found |= {"host": parts.netloc, "x-amz-date": stamp, "x-amz-content-sha256": digest}
    if credentials.session:
        found["x-amz-security-token"] = credentials.session
    names = ";".join(sorted(found))
    canonical = "\n".join(
        [method, parts.path or "/", "", *(f"{name}:{found[name]}" for name in sorted(found)), "", names, digest]
    )
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = b"AWS4" + credentials.secret_key.encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    found["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return found


def path_of(key: str) -> str:
    """Return an object's key as the path of a URL, as S3 wants it signed."""
    return quote(key, safe="/-_.~")
