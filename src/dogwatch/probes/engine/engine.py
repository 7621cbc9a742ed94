"""The heart: an edge-triggered epoll with one registration per descriptor, deadlines, and admission."""

from __future__ import annotations

import asyncio
import logging
import resource
import select
import socket
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import perf_counter
from typing import Any, Final, Protocol

from dogwatch.core.metrics import Family
from dogwatch.probes.engine.addresses import Address
from dogwatch.probes.engine.deadlines import BUCKETS_PER_S, NEVER, Deadlines, Expiring
from dogwatch.probes.engine.dial import Dial, Dialed, SocketOptions
from dogwatch.probes.engine.options import EngineOptions
from dogwatch.probes.engine.resolver import Resolved, Resolver
from dogwatch.probes.engine.tls import TlsContexts, TlsProvider, choose_provider

log = logging.getLogger(__name__)

# How many events one turn handles before the rest of the program gets the loop back.
TURN_EVENTS: Final = 256
READ_BYTES = 64 * 1024
# Edge-triggered: one registration reports connected, readable, writable and closed for a descriptor's whole life.
EVERYTHING = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
# For a socket that has nothing more to send for now; `again` asks for everything from then on.
READING = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
# Descriptors that the rest of the program (store, API, log) may need beside the probes.
RESERVED_DESCRIPTORS = 128


def _tell_the_time() -> None:
    """Do nothing; see _arm."""


class Handler(Protocol):
    """Whoever owns a registered descriptor."""

    def ready(self, events: int) -> None: ...

    def broken(self, error: Exception) -> None:
        """`ready` raised, which it never should: end with reason "local"."""
        ...


class Direct:
    """A handler that works at every attempt: compiled code calls it without looking its methods up by name."""

    __slots__ = ()

    def ready(self, events: int) -> None:
        raise NotImplementedError

    def broken(self, error: Exception) -> None:
        raise NotImplementedError


class Job(Protocol):
    """Something that needs a slot: an attempt."""

    def start(self) -> None:
        """Begin; called at once or when a slot is free. Never raises."""
        ...


class Engine:
    """Owns every descriptor that probes open. Lives in one event loop's thread; `open` before use, `close` after."""

    def __init__(self, options: EngineOptions | None = None) -> None:
        self.options = options or EngineOptions()
        self.limit = 0
        self.active = 0
        self.buffer = bytearray(READ_BYTES)
        self.view = memoryview(self.buffer)
        self.resolver = Resolver(self, self.options.resolver)
        self.started_total = 0
        self.refused_total = 0
        self.local_errors_total = 0
        self._waiting: deque[Job] = deque()
        self._table: dict[int, Handler] = {}
        self._closing: list[socket.SocketType] = []
        self._deadlines = Deadlines()
        # Forgets an item by the bucket that `expire_at` returned for it.
        self.forget = self._deadlines.discard
        self._armed = NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._turning = False
        self._admitting = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._epoll: select.epoll | None = None
        self._turns_total = 0
        self._events_total = 0
        self._tls: TlsContexts | None = None
        self._at_close: list[Callable[[], None]] = []
        self._after: list[Callable[[], None]] = []

    # -- life ---------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Start in the running loop: reads the descriptor limit, resolv.conf and hosts."""
        self._loop = asyncio.get_running_loop()
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if self.options.limit is not None:
            self.limit = max(1, self.options.limit)
        else:
            unlimited = soft in {resource.RLIM_INFINITY, -1}
            self.limit = 8192 if unlimited else max(4, min(8192, (soft - RESERVED_DESCRIPTORS) * 3 // 4))
        self._epoll = select.epoll()
        self._register = self._epoll.register
        self._poll = self._epoll.poll
        self._loop.add_reader(self._epoll.fileno(), self.turn)
        self.resolver.refresh()

    def close(self) -> None:
        """Stop watching and close every descriptor; whoever still had an attempt must cancel it before."""
        if self._epoll is None:
            return
        if self._loop is not None:
            loop: Any = self._loop  # uvloop answers with None where asyncio says bool, which compiled code would refuse
            loop.remove_reader(self._epoll.fileno())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting.clear()
        for close in self._at_close:
            close()
        self._at_close.clear()
        for handler in list(self._table.values()):
            handler.broken(RuntimeError("the probe engine was closed"))
        self.resolver.close()
        self._epoll.close()
        self._epoll = None
        self._table.clear()

    def at_close(self, close: Callable[[], None]) -> None:
        """Close something else along with the engine: what a kind's package built once."""
        self._at_close.append(close)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise RuntimeError("the probe engine is not open")
        return self._loop

    @property
    def tls(self) -> TlsContexts:
        """The shared TLS contexts; the library is imported at the first use."""
        if self._tls is None:
            self._tls = TlsContexts(choose_provider(self.options.tls))
        return self._tls

    def use_tls(self, provider: TlsProvider) -> None:
        """Take another TLS library from now on; connections that exist keep theirs."""
        self._tls = TlsContexts(provider)

    # -- admission ----------------------------------------------------------------------------------------------

    def admit(self, job: Job) -> bool:
        """Start a job now or when a slot is free; False if even the queue is full (then it is not kept)."""
        if self.active < self.limit and not self._waiting:
            self.active += 1
            self.started_total += 1
            job.start()
            return True
        if len(self._waiting) >= self.options.queue_limit:
            self.refused_total += 1
            return False
        self._waiting.append(job)
        return True

    def enter(self) -> bool:
        """Take a slot now; False if there is none, or others wait for one."""
        if self._waiting or self.active >= self.limit:
            return False
        self.active += 1
        self.started_total += 1
        return True

    def leave(self) -> None:
        """Give a slot back."""
        self.active -= 1
        if self._waiting and not self._turning:
            self._admit_waiting()

    def abandon(self, job: Job) -> None:
        """Take a job that has not started out of the queue."""
        with suppress(ValueError):
            self._waiting.remove(job)

    def _admit_waiting(self) -> None:
        # Not re-entrant: a job that ends while starting gives its slot back, and thousands may do so in a row.
        if self._admitting:
            return
        self._admitting = True
        try:
            while self._waiting and self.active < self.limit:
                job = self._waiting.popleft()
                self.active += 1
                self.started_total += 1
                job.start()
        finally:
            self._admitting = False

    # -- descriptors --------------------------------------------------------------------------------------------

    def watch(self, sock: socket.SocketType, handler: Handler, events: int = EVERYTHING) -> None:
        """Report what happens to a new socket to a handler, until `drop`. events: EVERYTHING or READING."""
        fd = sock.fileno()
        self._register(fd, events)
        self._table[fd] = handler

    def hand_over(self, sock: socket.SocketType, handler: Handler) -> None:
        """Give a watched socket another handler. What was reported before is not reported again."""
        self._table[sock.fileno()] = handler

    def again(self, sock: socket.SocketType) -> None:
        """Ask for another report of a socket whose handler stopped early, so that others get their turn."""
        if self._epoll is not None:
            self._epoll.modify(sock.fileno(), EVERYTHING)

    def drop(self, sock: socket.SocketType) -> None:
        """Close a socket, which also ends its registration."""
        self._table.pop(sock.fileno(), None)
        if self._turning:
            # Closed after the turn: otherwise its number could be reused while events for the old socket are
            # still in the batch, and the new owner would be told of them.
            self._closing.append(sock)
        else:
            sock.close()

    def turn(self) -> None:
        """Handle what is ready, up to TURN_EVENTS. The loop calls it; what is left keeps the epoll readable."""
        if self._turning or self._epoll is None:
            return
        table = self._table
        events = self._poll(0, TURN_EVENTS)
        self._turns_total += 1
        self._events_total += len(events)
        self._turning = True
        for fd, mask in events:
            handler = table.get(fd)
            if handler is None:
                continue
            try:
                # The same call twice: the first is compiled to a native one, the second looks the method up.
                if isinstance(handler, Direct):
                    handler.ready(mask)
                else:
                    handler.ready(mask)
            except Exception as error:
                # A supervisor's catch: one attempt's bug must not stop the others, nor leak its descriptors.
                log.exception("probe engine: %r failed", handler)
                handler.broken(error)
        self._turning = False
        if self._closing:
            for sock in self._closing:
                sock.close()
            self._closing.clear()
        if self._waiting:
            self._admit_waiting()
        if self._after:
            after, self._after = self._after, []
            for call in after:
                call()

    def after_turn(self, call: Callable[[], None]) -> None:
        """Call something once the turn under way is over; soon, if there is none. It never raises."""
        if self._turning:
            self._after.append(call)
        else:
            self.loop.call_soon(call)

    # -- deadlines ----------------------------------------------------------------------------------------------

    def expire_at(self, due_s: float, item: Expiring) -> int:
        """Call `item.expire()` at a time of perf_counter, or up to 10 ms later; `forget` wants the answer."""
        bucket = self._deadlines.add(due_s, item)
        if bucket < self._armed:
            self._arm(bucket)
        return bucket

    def _arm(self, bucket: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed = bucket
        self._timer = self.loop.call_later(max(0.0, bucket / BUCKETS_PER_S - perf_counter()), self._on_timer)
        # uvloop sleeps by the time at which its turn began. If this is a long one (hundreds of attempts launched) and
        # nothing else happens, it would oversleep by as much; one more turn tells it the time.
        self.loop.call_soon(_tell_the_time)

    def _on_timer(self) -> None:
        self._timer = None
        self._armed = NEVER
        # An answer that is already here wins over the deadline: the loop may have been held up by someone else.
        self.turn()
        self._deadlines.expire(perf_counter())
        bucket = self._deadlines.next_bucket()
        if bucket != NEVER:
            self._arm(bucket)

    # -- for every kind -----------------------------------------------------------------------------------------

    def resolve(self, name: str, family: str, deadline_s: float, done: Resolved) -> Callable[[], None]:
        """Resolve a name; returns a function that cancels.

        family: "4", "6", or "auto" for both in the order to try. deadline_s: of perf_counter.
        done(addresses, message): called once, later, never from inside this call unless the answer is known;
        addresses is empty and the message says why if it failed.
        """
        return self.resolver.resolve(name, family, deadline_s, done)

    def dial(
        self, addresses: tuple[Address, ...], port: int, done: Dialed, options: SocketOptions | None = None
    ) -> Callable[[], None]:
        """Connect to the first address that answers (RFC 8305); returns a function that cancels.

        done(socket, address, error): called once; the socket is watched, and belongs to whoever calls `hand_over`
        and `drop`. There is no deadline here: cancel when yours has passed.
        """
        dial = Dial(self, addresses, port, done, options)
        dial.start()
        return dial.cancel

    def metrics(self) -> Iterable[Family]:
        def gauge(name: str, text: str, value: float) -> Family:
            return Family(f"dogwatch_probe_engine_{name}", "gauge", text, [(f"dogwatch_probe_engine_{name}", value)])

        def counter(name: str, text: str, value: float) -> Family:
            return Family(f"dogwatch_probe_engine_{name}", "counter", text, [(f"dogwatch_probe_engine_{name}", value)])

        yield gauge("attempts_active", "Attempts that hold a slot now.", self.active)
        yield gauge("attempts_limit", "Attempts that may hold a slot at the same time.", self.limit)
        yield gauge("attempts_waiting", "Attempts that wait for a slot.", len(self._waiting))
        yield gauge("descriptors", "Sockets that the engine holds open.", len(self._table))
        yield counter("attempts_started_total", "Attempts that got a slot.", self.started_total)
        yield counter(
            "attempts_refused_total", "Attempts ended at once because the queue was full.", self.refused_total
        )
        yield counter("local_errors_total", "Sockets that this machine refused to open.", self.local_errors_total)
        yield counter("turns_total", "Times the event loop called the engine.", self._turns_total)
        yield counter("events_total", "Socket events handled.", self._events_total)
        yield from self.resolver.metrics()
        if self._tls is not None:
            yield counter("tls_full_total", "Full TLS handshakes.", self._tls.full_total)
            yield counter("tls_resumed_total", "Resumed TLS handshakes.", self._tls.resumed_total)
