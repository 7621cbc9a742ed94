"""The signature seam: how a request proves who sent it."""

from __future__ import annotations

import abc
import hashlib
import hmac
from collections.abc import Iterable, Sequence
from typing import ClassVar

import msgspec

from dogwatch.core.component import Component
from dogwatch.core.units import Secret
from dogwatch.engine.values import Json
from dogwatch.errors import DogwatchError
from dogwatch.webhooks.request import RawRequest


class Rejected(DogwatchError):
    """The request does not prove who sent it. The text is for our own people; the sender is told nothing."""

    code = "not_allowed"


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """proof: a digest of what was signed; the same again is a replay. "" where the scheme cannot tell.

    until_s: after this the scheme refuses it by itself, and it need not be remembered; None where it never does.
    """

    proof: str = ""
    until_s: float | None = None


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What the sender calls a delivery, and what it is about. "" where it does not say."""

    delivery_id: str = ""
    event: str = ""
    ping: bool = False


class Scheme(Component, frozen=True, kw_only=True):
    """Checks a signature, in constant time, over the body as it came."""

    secrets: tuple[Secret, ...] = ()
    # Whether it can do without secrets.
    bare: ClassVar[bool] = False

    @abc.abstractmethod
    def verify(self, request: RawRequest, *, now_s: float, tolerance_s: float) -> Verified:
        """Raises: Rejected."""

    def identity(self, request: RawRequest, payload: Json) -> Identity:  # noqa: ARG002 - the seam's default
        """Return what the request says about itself; called once it has been verified."""
        return Identity()

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        """Find what types cannot say: (path below the options, message, hint)."""
        if not self.secrets and not self.bare:
            yield ("secrets",), "is empty: without a secret everybody could send", ""
        for index, secret in enumerate(self.secrets):
            if not secret.strip():
                yield ("secrets", index), "is empty", ""


def header(request: RawRequest, name: str) -> str:
    """Return a header that must be there exactly once: of two, we and a proxy before us might read different ones.

    Raises: Rejected.
    """
    value = request.headers.get(name.lower(), "").strip()
    if not value:
        raise Rejected(f"there is no header {name}")
    if name.lower() in request.repeated:
        raise Rejected(f"the header {name} is there more than once")
    return value


def equal_to_any(given: bytes, wanted: Sequence[bytes]) -> bool:
    """Compare with every one, whichever matches, in a time that does not tell which or how much of it did."""
    found = 0
    for one in wanted:
        found |= hmac.compare_digest(given, one)
    return bool(found)


def timestamp(text: str, *, now_s: float, tolerance_s: float) -> float:
    """Return the time of a timestamp, seconds since 1970, within the window.

    Raises: Rejected.
    """
    # Digits and a bounded number of them: int() takes much more, and slowly.
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise Rejected("the timestamp is not a number of seconds")
    time_s = float(text)
    if time_s < now_s - tolerance_s:
        raise Rejected(f"the timestamp is {now_s - time_s:.0f} s old")
    if time_s > now_s + tolerance_s:
        raise Rejected(f"the timestamp is {time_s - now_s:.0f} s in the future")
    return time_s


def proof_of(signed: bytes) -> str:
    return hashlib.sha256(signed).hexdigest()


def text_of(payload: Json, key: str) -> str:
    """Return a text at the top of a payload, or ""."""
    value = payload.get(key) if isinstance(payload, dict) else None
    return value if isinstance(value, str) else ""
