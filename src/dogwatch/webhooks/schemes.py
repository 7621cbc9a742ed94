"""The kinds of signatures, and the one list of them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import ClassVar, Literal

from dogwatch.core.component import Registry
from dogwatch.engine.values import Json
from dogwatch.notify import standard
from dogwatch.webhooks.request import RawRequest
from dogwatch.webhooks.scheme import (
    Identity,
    Rejected,
    Scheme,
    Verified,
    equal_to_any,
    header,
    proof_of,
    text_of,
    timestamp,
)

# Signatures that one header may list, for rotation; more is no rotation.
_MOST_SIGNATURES = 10
_PLACES = re.compile(r"\{(timestamp|id|body)\}")
_HEADER = re.compile(r"[A-Za-z0-9-]{1,100}")


class GithubScheme(Scheme, frozen=True, kw_only=True):
    """GitHub (Gitea, Forgejo): HMAC-SHA256 of the body in `X-Hub-Signature-256`.

    secrets: several while one is changed. It has no timestamp, and the delivery's id is not signed: the same body again
    is a replay, whatever its id.
    """

    kind: ClassVar[str] = "github"

    def verify(self, request: RawRequest, *, now_s: float, tolerance_s: float) -> Verified:  # noqa: ARG002
        given = _hex(header(request, "X-Hub-Signature-256"), "sha256=", 32)
        _match(given, [hmac.digest(secret.encode(), request.body, "sha256") for secret in self.secrets])
        return Verified(proof=proof_of(request.body))

    def identity(self, request: RawRequest, payload: Json) -> Identity:  # noqa: ARG002
        event = request.headers.get("x-github-event", "")
        return Identity(delivery_id=request.headers.get("x-github-delivery", ""), event=event, ping=event == "ping")


class GitlabScheme(Scheme, frozen=True, kw_only=True):
    """GitLab: the secret itself in `X-Gitlab-Token`. Where GitLab signs (webhook-signature), use `standard`.

    secrets: those that are accepted: two while one is changed.
    """

    kind: ClassVar[str] = "gitlab"

    def verify(self, request: RawRequest, *, now_s: float, tolerance_s: float) -> Verified:  # noqa: ARG002
        _match_secret(header(request, "X-Gitlab-Token").encode("latin-1"), self.secrets)
        return Verified()

    def identity(self, request: RawRequest, payload: Json) -> Identity:  # noqa: ARG002
        known = request.headers
        found = known.get("idempotency-key") or known.get("x-gitlab-event-uuid") or ""
        return Identity(delivery_id=found, event=known.get("x-gitlab-event", ""))


class StandardScheme(Scheme, frozen=True, kw_only=True):
    """Standard Webhooks (and Svix): `webhook-id`, `webhook-timestamp` and `webhook-signature`, HMAC-SHA256.

    secrets: `whsec_` and base64.
    """

    kind: ClassVar[str] = "standard"

    def verify(self, request: RawRequest, *, now_s: float, tolerance_s: float) -> Verified:
        prefix = "svix" if "svix-id" in request.headers and "webhook-id" not in request.headers else "webhook"
        message_id, stamp = header(request, f"{prefix}-id"), header(request, f"{prefix}-timestamp")
        listed = header(request, f"{prefix}-signature").split(" ")
        time_s = timestamp(stamp, now_s=now_s, tolerance_s=tolerance_s)
        signed = f"{message_id}.{stamp}.".encode("latin-1") + request.body
        wanted = [hmac.digest(standard.parse_secret(secret), signed, "sha256") for secret in self.secrets]
        given = [one.removeprefix("v1,") for one in listed[:_MOST_SIGNATURES] if one.startswith("v1,")]
        _match_any([_base64(one) for one in given], wanted)
        return Verified(proof=proof_of(signed), until_s=time_s + tolerance_s)

    def identity(self, request: RawRequest, payload: Json) -> Identity:
        known = request.headers
        return Identity(
            delivery_id=known.get("webhook-id") or known.get("svix-id") or "", event=text_of(payload, "type")
        )

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        yield from super().faults()
        for index, secret in enumerate(self.secrets):
            try:
                standard.parse_secret(secret)
            except ValueError as error:
                yield ("secrets", index), str(error), ""


class StripeScheme(Scheme, frozen=True, kw_only=True):
    """Stripe: `Stripe-Signature: t=…,v1=…`, HMAC-SHA256 of the timestamp, a point and the body.

    secrets: those that are accepted. header: for others who sign in the same way.
    """

    kind: ClassVar[str] = "stripe"
    header: str = "Stripe-Signature"

    def verify(self, request: RawRequest, *, now_s: float, tolerance_s: float) -> Verified:
        stamps, given = [], []
        for item in header(request, self.header).split(",")[: 2 * _MOST_SIGNATURES]:
            name, _, value = item.strip().partition("=")
            if name == "t":
                stamps.append(value)
            elif name == "v1":
                given.append(value)
        if len(stamps) != 1:
            raise Rejected("the signature has no timestamp, or several")
        time_s = timestamp(stamps[0], now_s=now_s, tolerance_s=tolerance_s)
        signed = f"{stamps[0]}.".encode() + request.body
        wanted = [hmac.digest(secret.encode(), signed, "sha256") for secret in self.secrets]
        _match_any([_unhex(one, 32) for one in given[:_MOST_SIGNATURES]], wanted)
        return Verified(proof=proof_of(signed), until_s=time_s + tolerance_s)

    def identity(self, request: RawRequest, payload: Json) -> Identity:  # noqa: ARG002
        return Identity(delivery_id=text_of(payload, "id"), event=text_of(payload, "type"))

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        yield from super().faults()
        yield from _header_faults(self, "header")


class HmacScheme(Scheme, frozen=True, kw_only=True):
    """Any HMAC in a header.

    secrets: those that are accepted.
    header: which. algorithm: sha1, sha256, sha384 or sha512. encoding: hex or base64. prefix: before the signature,
    such as `sha256=`. signed: what is signed, of `{body}`, `{timestamp}` and `{id}`; Slack has
    `v0:{timestamp}:{body}`. timestamp_header, id_header, event_header: where those are. repeats: whether the same
    signed text may come again; otherwise it is a replay.
    """

    kind: ClassVar[str] = "hmac"
    header: str
    algorithm: Literal["sha1", "sha256", "sha384", "sha512"] = "sha256"
    encoding: Literal["hex", "base64"] = "hex"
    prefix: str = ""
    signed: str = "{body}"
    timestamp_header: str = ""
    id_header: str = ""
    event_header: str = ""
    repeats: bool = False

    def verify(self, request: RawRequest, *, now_s: float, tolerance_s: float) -> Verified:
        size = hashlib.new(self.algorithm, usedforsecurity=False).digest_size
        text = header(request, self.header)
        if not text.startswith(self.prefix):
            raise Rejected(f"the header {self.header} does not begin with '{self.prefix}'")
        text = text[len(self.prefix) :]
        given = _unhex(text, size) if self.encoding == "hex" else _base64(text)
        until_s, values = None, {"body": request.body}
        if self.timestamp_header:
            stamp = header(request, self.timestamp_header)
            until_s = timestamp(stamp, now_s=now_s, tolerance_s=tolerance_s) + tolerance_s
            values["timestamp"] = stamp.encode("latin-1")
        if "{id}" in self.signed:
            values["id"] = header(request, self.id_header).encode("latin-1")
        signed = b"".join(
            values[part] if odd else part.encode() for odd, part in _alternately(_PLACES.split(self.signed))
        )
        _match(given, [hmac.digest(secret.encode(), signed, self.algorithm) for secret in self.secrets])
        in_it = "{timestamp}" in self.signed
        return Verified(proof="" if self.repeats else proof_of(signed), until_s=until_s if in_it else None)

    def identity(self, request: RawRequest, payload: Json) -> Identity:  # noqa: ARG002
        return _named(request, self.id_header, self.event_header)

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        yield from super().faults()
        yield from _header_faults(self, "header", "timestamp_header", "id_header", "event_header")
        if "{body}" not in self.signed:
            yield ("signed",), "does not hold {body}: anybody could change it", ""
        for place, option in (("timestamp", "timestamp_header"), ("id", "id_header")):
            if f"{{{place}}}" in self.signed and not getattr(self, option):
                yield (option,), f"is needed, because {{{place}}} is signed", ""
        if self.timestamp_header and "{timestamp}" not in self.signed:
            yield ("signed",), "does not hold {timestamp}: an old one could be sent with a new time", ""


class TokenScheme(Scheme, frozen=True, kw_only=True):
    """A secret that is sent as it is, in a header or, where the sender can do no better, in the query.

    secrets: those that are accepted.
    header: which. prefix: before the secret, such as `token `; in Authorization, `Bearer ` need not be said.
    query: the name in the query, in place of a header.
    id_header, event_header: where the sender says what it sends.
    """

    kind: ClassVar[str] = "token"
    header: str = "Authorization"
    prefix: str = ""
    query: str = ""
    id_header: str = ""
    event_header: str = ""

    def verify(self, request: RawRequest, *, now_s: float, tolerance_s: float) -> Verified:  # noqa: ARG002
        if self.query:
            given = request.query.get(self.query, "").encode("utf-8", "replace")
            if not given:
                raise Rejected(f"the query has no {self.query}")
        else:
            text = header(request, self.header)
            if not text.startswith(self.prefix):
                raise Rejected(f"the header {self.header} does not begin with '{self.prefix}'")
            bearer = not self.prefix and self.header.lower() == "authorization" and text[:7].lower() == "bearer "
            given = (text[7:].lstrip(" ") if bearer else text[len(self.prefix) :]).encode("latin-1")
        _match_secret(given, self.secrets)
        return Verified()

    def identity(self, request: RawRequest, payload: Json) -> Identity:  # noqa: ARG002
        return _named(request, self.id_header, self.event_header)

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        yield from super().faults()
        yield from _header_faults(self, "header", "id_header", "event_header")


class NoScheme(Scheme, frozen=True, kw_only=True):
    """No signature at all: everybody who reaches the address can start the job. It has to be said.

    secrets: none. unsafe: true, to say so. id_header, event_header: where the sender says what it sends.
    """

    kind: ClassVar[str] = "none"
    bare: ClassVar[bool] = True
    unsafe: bool = False
    id_header: str = ""
    event_header: str = ""

    def verify(self, request: RawRequest, *, now_s: float, tolerance_s: float) -> Verified:  # noqa: ARG002
        return Verified()

    def identity(self, request: RawRequest, payload: Json) -> Identity:  # noqa: ARG002
        return _named(request, self.id_header, self.event_header)

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        yield from _header_faults(self, "id_header", "event_header")
        if not self.unsafe:
            yield ("unsafe",), "must be true: everybody who reaches the address can start the job", ""
        if self.secrets:
            yield ("secrets",), "are not looked at", "name the kind of signature"


SCHEMES: Registry[Scheme] = Registry(
    "signature", GithubScheme, GitlabScheme, StandardScheme, StripeScheme, HmacScheme, TokenScheme, NoScheme
)


def _match(given: bytes, wanted: list[bytes]) -> None:
    if not equal_to_any(given, wanted):
        raise Rejected("the signature is not ours")


def _match_any(given: list[bytes], wanted: list[bytes]) -> None:
    if not given:
        raise Rejected("there is no signature of a version that we know")
    if not any([equal_to_any(one, wanted) for one in given]):  # noqa: C419 - all of them, for constant time
        raise Rejected("the signature is not ours")


def _match_secret(given: bytes, secrets: tuple[str, ...]) -> None:
    """Compare digests of equal length, so that not even a secret's length can be measured."""
    digest = hashlib.sha256(given).digest()
    if not equal_to_any(digest, [hashlib.sha256(secret.encode()).digest() for secret in secrets]):
        raise Rejected("the token is not ours")


def _hex(text: str, prefix: str, size: int) -> bytes:
    if not text.startswith(prefix):
        raise Rejected(f"the signature does not begin with '{prefix}'")
    return _unhex(text[len(prefix) :], size)


def _unhex(text: str, size: int) -> bytes:
    """Return bytes of exactly that size; zeros for what is no hex, which then match nothing."""
    try:
        found = bytes.fromhex(text) if len(text) == 2 * size else b""
    except ValueError:
        found = b""
    if len(found) != size:
        raise Rejected(f"the signature is not {2 * size} hexadecimal digits")
    return found


def _base64(text: str) -> bytes:
    text = text.strip().replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise Rejected("the signature is not base64") from None


def _alternately(parts: list[str]) -> Iterable[tuple[bool, str]]:
    """Yield (whether it is a place, text): re.split puts what it found at every second position."""
    return ((index % 2 == 1, part) for index, part in enumerate(parts))


def _named(request: RawRequest, id_header: str, event_header: str) -> Identity:
    known = request.headers
    return Identity(delivery_id=known.get(id_header.lower(), ""), event=known.get(event_header.lower(), ""))


def _header_faults(scheme: Scheme, *options: str) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
    for option in options:
        value = getattr(scheme, option)
        if (value or option == "header") and not _HEADER.fullmatch(value):
            yield (option,), f"'{value}' is not the name of a header", ""
