"""The channel seam: how a message reaches one kind of destination."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from typing import ClassVar, Protocol

import msgspec

from dogwatch.core.component import Component
from dogwatch.engine.http_types import HttpRequest, HttpResponse
from dogwatch.engine.launch.command import Command, ExitStatus, Output
from dogwatch.engine.values import Json
from dogwatch.errors import TransientError
from dogwatch.notify.message import Parcel


class Held(TransientError):
    """The destination itself is not well (unreachable, overloaded): everything to it waits, and the order is kept.

    Any other TransientError is one message's own trouble: others go on.
    """

    code = "held"


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What the destination said. detail: one line, no secrets."""

    detail: str = ""


class Tools(Protocol):
    """What a channel may use. None of it belongs to the channel."""

    async def request(self, request: HttpRequest) -> HttpResponse:
        """Make an HTTP request; see engine.http_client."""
        ...

    async def run(self, command: Command, output: Output) -> ExitStatus:
        """Run a program to its end, under a guard that ends it when this process cannot; see engine.launch."""
        ...


class Channel(Component, frozen=True, kw_only=True):
    """Sends a message. An attempt may be repeated after it arrived (a crash, a lost answer): what is sent must say by
    its message id that it is the same.
    """

    # Whether the channel shows title and text, and so a destination may have templates for them.
    texts: ClassVar[bool] = True

    @abc.abstractmethod
    def address(self) -> str:
        """Return where it goes, without what is secret in it."""

    @abc.abstractmethod
    async def send(self, parcel: Parcel, tools: Tools) -> Receipt:
        """Send once, within parcel.timeout_s; cancelled, it leaves nothing behind.

        Raises: Held, TransientError, PermanentError (the same message will never be taken).
        """

    def content(self, parcel: Parcel) -> Json:
        """Return what is sent, for a preview; secrets in it are masked by whoever shows it."""
        return {"title": parcel.title, "text": parcel.text}

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        """Find what types cannot say: (path below the options, message, hint). No I/O."""
        return ()
