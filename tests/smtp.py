"""A small SMTP server for tests: it takes letters, or refuses as it is told."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Mailbox:
    """replies: verb → answer in place of the usual one; "hang" never answers. seen: the verbs, TLS included."""

    port: int = 0
    letters: list[str] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    credentials: list[str] = field(default_factory=list)
    replies: dict[str, str] = field(default_factory=dict)
    context: ssl.SSLContext | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def say(text: str) -> None:
            writer.write(text.encode() + b"\r\n")
            await writer.drain()

        await say(self.replies.get("CONNECT", "220 test ready"))
        while line := (await reader.readline()).decode().strip():
            verb = line.split()[0].upper()
            self.seen.append(verb)
            reply = self.replies.get(verb)
            if reply == "hang":
                await asyncio.Event().wait()
            if reply is not None:
                await say(reply)
            elif verb == "EHLO":
                more = "250-STARTTLS\r\n" if self.context is not None else ""
                await say(f"250-test\r\n{more}250 AUTH PLAIN")
            elif verb == "STARTTLS":
                await say("220 go on")
                await writer.start_tls(self.context)  # type: ignore[arg-type]
                self.seen.append("(tls)")
            elif verb == "AUTH":
                self.credentials.append(base64.b64decode(line.split()[2]).decode())
                await say("235 welcome")
            elif verb == "RCPT":
                address = line.partition("<")[2].partition(">")[0]
                if f"RCPT {address}" in self.replies:
                    await say(self.replies[f"RCPT {address}"])
                else:
                    self.recipients.append(address)
                    await say("250 ok")
            elif verb == "DATA":
                await say("354 go on")
                lines = []
                while (text := (await reader.readline()).decode()) != ".\r\n":
                    lines.append(text)
                self.letters.append("".join(lines))
                await say("250 taken")
            elif verb == "QUIT":
                await say("221 bye")
                return
            else:
                await say("250 ok")


@asynccontextmanager
async def mailbox(*, implicit: bool = False, **options: object) -> AsyncIterator[Mailbox]:
    box = Mailbox(**options)  # type: ignore[arg-type]
    tasks: set[asyncio.Task[None]] = set()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(
                ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError
            ):
                await box.serve(reader, writer)
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(take, "127.0.0.1", 0, ssl=box.context if implicit else None)
    box.port = server.sockets[0].getsockname()[1]
    try:
        yield box
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
