"""Telegram: a bot that writes to a chat."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, cast

from dogwatch.core.units import Secret
from dogwatch.engine.http_types import shown_url
from dogwatch.engine.values import Json
from dogwatch.errors import PermanentError, TransientError
from dogwatch.notify.channel import Channel, Receipt, Tools
from dogwatch.notify.channels.answers import post, url_fault
from dogwatch.notify.message import Parcel
from dogwatch.notify.templates import cut
from dogwatch.words import words

_TOKEN = re.compile(r"\d+:[\w-]+")
_MARKS = {"info": "🔵", "warning": "🟡", "error": "🔴", "critical": "🔴"}
# A message may have 4096 characters, after its markup was read.
_MOST_TEXT = 3500
_MOST_TITLE = 250


class TelegramChannel(Channel, frozen=True, kw_only=True):
    """Sends as a bot of Telegram.

    token: of the bot, as BotFather gives it. chat: a number, or @name of a channel. thread: of a forum. silent: without
    a sound for all but errors. url: of the API, for a server of one's own.
    """

    kind: ClassVar[str] = "telegram"
    token: Secret
    chat: str
    thread: int | None = None
    silent: bool = False
    url: str = "https://api.telegram.org"

    def address(self) -> str:
        return f"{shown_url(self.url)} {self.chat}"

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if not _TOKEN.fullmatch(self.token):
            yield ("token",), "is no token of a bot", "BotFather gives one, as in 123456:ABC-DEF"
        if not self.chat.strip():
            yield ("chat",), "is empty", ""
        if wrong := url_fault(self.url):
            yield ("url",), wrong, ""

    async def send(self, parcel: Parcel, tools: Tools) -> Receipt:
        url = f"{self.url.rstrip('/')}/bot{self.token}/sendMessage"
        try:
            answer = await post(url, self.body(parcel), parcel, tools, secrets=[self.token], limited=_wait_s)
        except TransientError as error:
            # Blocked by the user, or thrown out of the chat: that does not pass by itself.
            if str(error).startswith("answered 403"):
                raise PermanentError(str(error), hint="is the bot in the chat?") from None
            raise
        return Receipt(detail=f"answered {answer.status}")

    def content(self, parcel: Parcel) -> Json:
        return cast("Json", self.body(parcel))

    def body(self, parcel: Parcel) -> dict[str, object]:
        message = parcel.message
        title = html.escape(cut(parcel.title, _MOST_TITLE), quote=False)
        if message.url:
            title = f'<a href="{html.escape(message.url)}">{title or words(parcel.language).say("Open")}</a>'
        head = f"{_MARKS[message.severity]} <b>{title}</b>" if title else ""
        text = html.escape(cut(parcel.text, _MOST_TEXT), quote=False)
        body: dict[str, object] = {
            "chat_id": self.chat,
            "text": "\n".join(part for part in (head, text) if part),
            "parse_mode": "HTML",
            "link_preview_options": {"is_disabled": True},
        }
        if self.thread is not None:
            body["message_thread_id"] = self.thread
        if self.silent and message.severity in ("info", "warning"):
            body["disable_notification"] = True
        return body


def _wait_s(answer: Mapping[str, Any]) -> float | None:
    found = answer.get("parameters")
    wait_s = found.get("retry_after") if isinstance(found, dict) else None
    return float(wait_s) if isinstance(wait_s, int | float) else None
