"""One connection: versions, key exchanges, the login by key, and messages to and from channels (RFC 4253, 4252)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import cast

from dogwatch.errors import DogwatchError
from dogwatch.fleet.connections.lean import wire
from dogwatch.fleet.connections.lean.channel import LeanChannel
from dogwatch.fleet.connections.lean.exchange import Exchange, Keys
from dogwatch.fleet.connections.lean.keys import Signer, signature_of
from dogwatch.fleet.connections.lean.packets import Opener, Sealer
from dogwatch.fleet.connections.lean.wire import Broken, Reader, Unusual, boolean, string, uint32

_VERSION = b"SSH-2.0-dogwatch"
_LINE_BYTES = 8192
_LINES = 1024
# Keys are made anew after so much under one (RFC 4253 §9), long before AES-GCM would be worn out.
_REKEY_BYTES = 1 << 30
_BY_APPLICATION, _PROTOCOL_ERROR = 11, 2
_NO_MORE_METHODS = 14
# So many unanswered questions whether the other side is there, and it is taken to be gone.
_MISSED = 3
_TRANSPORT_KINDS = frozenset({wire.IGNORE, wire.DEBUG, wire.UNIMPLEMENTED})


class NotTaken(Exception):
    """The other side takes none of the keys."""


class Gone(Exception):
    """The other side ended the connection. code: of its last word, 0 where there was none."""

    def __init__(self, reason: str = "", code: int = 0) -> None:
        super().__init__(reason)
        self.code = code


class Transport(asyncio.Protocol):
    """Logs in by itself; `ready` is done then, or fails. phase: what it waits for.

    kinds: of host keys that are asked for. trust: is given the host's key and raises where it is not to be trusted;
    both are worked out when the address of the other side is known. more: keys that are asked for when the first ones
    are not taken.
    """

    def __init__(
        self,
        user: str,
        signers: Sequence[Signer],
        judged: Callable[[str], tuple[Sequence[str], Callable[[bytes], None]]],
        *,
        keepalive_s: float,
        more: Callable[[], Awaitable[Sequence[Signer]]] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.phase = "connecting"
        self.lost = False
        self.error: BaseException | None = None
        self._user = user.encode()
        self._signers = list(signers)
        self._more = more
        self._offered: tuple[Signer, str] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._judged = judged
        self._keepalive_s = keepalive_s
        self._sealer, self._opener = Sealer(), Opener()
        self._version_there = b""
        self._lines = 0
        self._session_id = b""
        self._strict = False
        self._exchange: Exchange | None = None
        self._agreed = False
        self._incoming: Keys | None = None
        self._held: list[bytes] | None = []
        self._out: list[bytes] = []
        self._in_turn = self._flushes = False
        self._taken_kinds: list[str] | None = None
        self._waits_for_kinds = False
        self._logged_in = False
        self._channels: dict[int, LeanChannel] = {}
        self._number = 0
        self._heard = True
        self._missed = 0
        self._timer: asyncio.TimerHandle | None = None
        self.writable = asyncio.Event()
        self.writable.set()

    # -- asyncio ----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.phase = "waiting for its banner and key"
        address = transport.get_extra_info("peername")
        try:
            self._kinds, self._trust = self._judged(address[0] if address else "")
        except (Unusual, DogwatchError) as error:
            self._fail(error)
            return
        # Together, without waiting for the other side's: one round trip less (RFC 4253 §4.2 and 5).
        self._out.append(_VERSION + b"\r\n")
        self._begin_exchange()

    def data_received(self, data: bytes) -> None:
        self._heard = True
        self._in_turn = True
        try:
            self._opener.feed(data)
            if not self._version_there and not self._read_version():
                return
            while not self.lost and self.error is None and (message := self._opener.next()) is not None:
                self._take(message)
        except (Broken, Unusual, NotTaken, Gone, DogwatchError) as error:
            self._fail(error)
        finally:
            self._in_turn = False
            self._flush()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self.writable.set()
        if self._timer is not None:
            self._timer.cancel()
        if self.error is None:
            self.error = error or Gone()
        if not self.ready.done():
            self.ready.set_exception(self.error)
        for channel in list(self._channels.values()):
            channel.end()
        self._channels.clear()
        if self._asking is not None and not self._asking.done():
            self._asking.cancel()
            self._asking.add_done_callback(lambda _task: self._end())
        else:
            self._end()

    def _end(self) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    # -- for the owner ----------------------------------------------------------------------------------------------

    def open_channel(self) -> LeanChannel:
        channel = self._channels[self._number] = LeanChannel(self, self._number)
        self._number += 1
        channel.begin()
        return channel

    def forget(self, number: int) -> None:
        self._channels.pop(number, None)

    def close(self) -> None:
        """Say good-bye and close; `closed` tells when."""
        if not self.lost:
            if self.error is None and self._logged_in:
                self._say_goodbye(_BY_APPLICATION, "")
            self._flush()
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def send(self, message: bytes) -> None:
        """Send a message; under a key exchange it waits for the new keys."""
        if self._held is not None:
            self._held.append(message)
            return
        self._out.append(self._sealer.seal(message))
        if not self._in_turn and not self._flushes:
            # What is sent in one turn of the loop leaves together: each write wakes the other side.
            self._flushes = True
            self._loop.call_soon(self._flush)
        if self._sealer.bytes > _REKEY_BYTES and self._exchange is None:
            self._begin_exchange()

    # -- transport layer --------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        self._flushes = False
        if self._out and not self.lost:
            self._transport.write(b"".join(self._out) if len(self._out) > 1 else self._out[0])
        self._out.clear()

    def _now(self, message: bytes) -> None:
        """Send a message of the key exchange itself."""
        self._out.append(self._sealer.seal(message))

    def _fail(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error
            if isinstance(error, Broken):
                self._say_goodbye(_PROTOCOL_ERROR, "")
        if not self.ready.done():
            self.ready.set_exception(self.error)
        self._flush()
        self._transport.close()

    def _say_goodbye(self, code: int, reason: str) -> None:
        self._out.append(
            self._sealer.seal(bytes((wire.DISCONNECT,)) + uint32(code) + string(reason.encode()) + string(b""))
        )

    def _read_version(self) -> bool:
        while (line := self._opener.line(_LINE_BYTES)) is not None:
            if line.startswith((b"SSH-2.0-", b"SSH-1.99-")):
                self._version_there = line
                return True
            self._lines += 1
            if line.startswith(b"SSH-") or self._lines > _LINES:
                raise Broken("it does not speak SSH 2")
        return False

    def _begin_exchange(self) -> None:
        self._exchange = Exchange(_VERSION, self._kinds, self._trust, first=not self._session_id)
        self._agreed = False
        self._now(self._exchange.begin())
        self._held = self._held or []
        self._flush()

    def _take(self, message: bytes) -> None:
        kind = message[0]
        if 20 <= kind <= 49:
            self._take_exchange(kind, message)
        elif kind == wire.DISCONNECT:
            read = Reader(message)
            code, reason = read.uint32(), read.text()
            if not self._logged_in and code != _NO_MORE_METHODS and "too many authentication" in reason.lower():
                # It counts every key. The other lane begins with an agent's.
                raise Unusual("it was shown more keys than it takes")
            raise NotTaken if code == _NO_MORE_METHODS and not self._logged_in else Gone(reason[:300], code)
        elif kind in _TRANSPORT_KINDS:
            if self._strict and self._opener.cipher is None:
                raise Broken("it sent something else in the key exchange")
        elif not self._session_id or self._opener.cipher is None:
            raise Broken("it sent something else in the key exchange")
        elif self._logged_in:
            self._take_connection(kind, message)
        else:
            self._take_login(kind, message)

    def _take_exchange(self, kind: int, message: bytes) -> None:
        if kind == wire.KEXINIT:
            if self._exchange is None:
                self._begin_exchange()
            if self._agreed or self._incoming is not None:
                raise Broken("it began a key exchange within another")
            assert self._exchange is not None
            half = self._exchange.agree(message)
            self._agreed = True
            if self._exchange.strict:
                self._strict = True
                if self._opener.number != 0:
                    raise Broken("it sent something before the key exchange")
            self._now(half)
            return
        exchange = self._exchange
        if exchange is None or not self._agreed:
            raise Broken("it sent something of a key exchange that was not begun")
        if exchange.skip_next:
            exchange.skip_next = False
        elif kind == wire.KEX_REPLY and self._incoming is None:
            self._switch(exchange.finish(message, self._version_there, self._session_id))
        elif kind == wire.NEWKEYS and self._incoming is not None:
            self._opener.cipher, self._opener.bytes = self._incoming.incoming, 0
            if self._strict:
                self._opener.number = -1
            self._incoming = self._exchange = None
        else:
            raise Broken("it sent something else in the key exchange")

    def _switch(self, keys: Keys) -> None:
        """Speak under the new keys; what waited for them is sent."""
        first, self._session_id = not self._session_id, self._session_id or keys.hash
        self._now(bytes((wire.NEWKEYS,)))
        self._sealer.cipher, self._sealer.bytes = keys.outgoing, 0
        self._incoming = keys
        held, self._held = self._held or [], None
        if first:
            self.phase = "logging in"
            self.send(bytes((wire.SERVICE_REQUEST,)) + string(b"ssh-userauth"))
            self._log_in()  # without waiting for the service to be granted: one round trip less
        for message in held:
            self.send(message)

    # -- the login --------------------------------------------------------------------------------------------------

    def _log_in(self) -> None:
        """Try the next key."""
        if not self._signers:
            more, self._more = self._more, None
            if more is None:
                raise NotTaken
            self._later(self._ask_for_more(more))
            return
        signer = self._signers[0]
        kind = signer.kinds[0]
        if len(signer.kinds) > 1:
            if self._taken_kinds is None:
                self._waits_for_kinds = True
                return
            found = next((one for one in signer.kinds if signature_of(one) in self._taken_kinds), None)
            if found is None:
                raise Unusual("it takes only signatures by SHA-1")
            kind = found
        del self._signers[0]
        request = self._request(signer, kind, proved=signer.sign is not None)
        if signer.sign is None:
            # Who keeps the key may have to ask a person: only for one that is taken.
            self._offered = signer, kind
            self.send(request)
            return
        proof = signer.sign(signature_of(kind), string(self._session_id) + request)
        self.send(request + string(string(signature_of(kind).encode()) + string(proof)))

    def _request(self, signer: Signer, kind: str, *, proved: bool) -> bytes:
        return b"".join(
            (
                bytes((wire.USERAUTH_REQUEST,)),
                string(self._user),
                string(b"ssh-connection"),
                string(b"publickey"),
                boolean(proved),
                string(kind.encode()),
                string(signer.blob),
            )
        )

    def _later(self, work: Coroutine[None, None, None]) -> None:
        """Do what waits for somebody else than the other side; how it ends is how the login ends."""

        async def done() -> None:
            try:
                await work
            except (Broken, Unusual, NotTaken, Gone, DogwatchError) as error:
                self._fail(error)

        self._asking = self._loop.create_task(done(), name="fleet-ssh-keys")

    async def _ask_for_more(self, more: Callable[[], Awaitable[Sequence[Signer]]]) -> None:
        self._signers = list(await more())
        self._asking = None
        self._log_in()

    async def _prove(self, signer: Signer, kind: str) -> None:
        assert signer.ask is not None
        self.phase = "waiting for the agent that keeps the key"
        request = self._request(signer, kind, proved=True)
        signature = await signer.ask(signature_of(kind), string(self._session_id) + request)
        self._asking = None
        if signature is None:
            self._log_in()
        else:
            self.send(request + string(signature))

    def _take_offer(self, message: bytes) -> None:
        """The other side would take the key that was offered to it."""
        if self._offered is None:
            raise Broken("it takes a key that was not offered")
        (signer, kind), self._offered = self._offered, None
        read = Reader(message)
        if read.text() != kind or read.string() != signer.blob:
            raise Broken("it takes a key that was not offered")
        self._later(self._prove(signer, kind))

    def _take_login(self, kind: int, message: bytes) -> None:
        if kind == wire.EXT_INFO:
            self._take_extensions(message)
        elif kind == wire.SERVICE_ACCEPT:
            self._taken_kinds = self._taken_kinds or []
            if self._waits_for_kinds:
                self._waits_for_kinds = False
                self._log_in()
        elif kind == wire.USERAUTH_PK_OK:
            self._take_offer(message)
        elif kind == wire.USERAUTH_FAILURE:
            if self._asking is not None:
                raise Broken("it answers what was not asked")
            self._offered = None
            if "publickey" not in Reader(message).names():
                raise NotTaken
            self._log_in()
        elif kind == wire.USERAUTH_SUCCESS:
            self._logged_in = True
            if self._keepalive_s > 0:
                self._timer = self._loop.call_later(self._keepalive_s, self._look)
            if not self.ready.done():
                self.ready.set_result(None)
        elif kind != wire.USERAUTH_BANNER:
            self._unimplemented()

    def _take_extensions(self, message: bytes) -> None:
        read = Reader(message)
        for _ in range(min(read.uint32(), 64)):
            name, value = read.text(), read.string()
            if name == "server-sig-algs":
                self._taken_kinds = value.decode("ascii", "replace").split(",")

    # -- after it ---------------------------------------------------------------------------------------------------

    def _take_connection(self, kind: int, message: bytes) -> None:
        if kind >= wire.CHANNEL_OPEN_CONFIRMATION and kind <= wire.CHANNEL_FAILURE:
            read = Reader(message)
            channel = self._channels.get(read.uint32())
            if channel is None:
                raise Broken("it speaks of a channel that there is not")
            channel.take(kind, read)
        elif kind == wire.GLOBAL_REQUEST:
            read = Reader(message)
            read.string()
            if read.boolean():
                self.send(bytes((wire.REQUEST_FAILURE,)))
        elif kind == wire.CHANNEL_OPEN:
            read = Reader(message)
            read.string()
            told = string(b"not here") + string(b"")
            self.send(bytes((wire.CHANNEL_OPEN_FAILURE,)) + uint32(read.uint32()) + uint32(1) + told)
        elif kind not in (wire.REQUEST_SUCCESS, wire.REQUEST_FAILURE, wire.EXT_INFO):
            self._unimplemented()
        if self._opener.bytes > _REKEY_BYTES and self._exchange is None:
            self._begin_exchange()

    def _unimplemented(self) -> None:
        self.send(bytes((wire.UNIMPLEMENTED,)) + uint32(self._opener.number & 0xFFFF_FFFF))

    def _look(self) -> None:
        """Ask whether the other side is there, where it has said nothing for a while."""
        self._missed = 0 if self._heard else self._missed + 1
        if self._missed > _MISSED:
            self._fail(Gone("it has not answered for a while"))
            self.abort()
            return
        if not self._heard:
            self.send(bytes((wire.GLOBAL_REQUEST,)) + string(b"keepalive@openssh.com") + boolean(True))
        self._heard = False
        self._timer = self._loop.call_later(self._keepalive_s, self._look)
