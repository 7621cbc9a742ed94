"""Everything that the library apprise knows, where it is installed (dogwatch[apprise])."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import ClassVar

from dogwatch.core.units import Secret
from dogwatch.engine.http_types import shown_url
from dogwatch.errors import PermanentError, TransientError
from dogwatch.notify.channel import Channel, Receipt, Tools
from dogwatch.notify.message import Parcel

_TYPES = {"info": "info", "warning": "warning", "error": "failure", "critical": "failure"}


class AppriseChannel(Channel, frozen=True, kw_only=True):
    """Sends by apprise, a library of a hundred services; it is an extra: pip install dogwatch[apprise].

    urls: as apprise writes them, `matrix://…`; secrets. What it says of a failure is only that there was one.
    """

    kind: ClassVar[str] = "apprise"
    short: ClassVar[str] = "urls"
    urls: tuple[Secret, ...]

    def address(self) -> str:
        return ", ".join(shown_url(url).partition("://")[0] for url in self.urls)

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if not self.urls:
            yield ("urls",), "names no service", ""
        for at, url in enumerate(self.urls):
            if "://" not in url:
                yield ("urls", at), "is no address of apprise", "as in ntfy://topic"

    async def send(self, parcel: Parcel, tools: Tools) -> Receipt:  # noqa: ARG002 - it makes its own requests
        # It blocks, and cannot be cancelled: its own time-outs (of some seconds) end it.
        try:
            async with asyncio.timeout(parcel.timeout_s):
                await asyncio.to_thread(self._send, parcel)
        except TimeoutError:
            raise TransientError("apprise did not send it in time") from None
        return Receipt(detail=f"sent to {len(self.urls)}")

    def _send(self, parcel: Parcel) -> None:
        try:
            import apprise
        except ImportError:
            raise PermanentError("apprise is not installed", hint="pip install dogwatch[apprise]") from None
        message = parcel.message
        text = f"{parcel.text}\n{message.url}" if message.url else parcel.text
        services = [apprise.Apprise.instantiate(url) for url in self.urls]
        if None in services:
            raise PermanentError(f"apprise does not know the address urls[{services.index(None)}]")
        # One by one: together it would start threads that outlive the message.
        failed = [
            at
            for at, service in enumerate(services)
            if service is None
            or not service.notify(
                body=text or parcel.title, title=parcel.title, notify_type=_TYPES[message.severity]
            )
        ]  # fmt: skip
        if failed:
            raise TransientError(f"apprise could not send it to urls[{failed[0]}]")
