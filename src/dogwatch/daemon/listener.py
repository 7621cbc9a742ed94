"""The web server as a part: its sockets outlive reloads that do not change the address."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence

import msgspec

from dogwatch.app import Services
from dogwatch.config.part import Configuration
from dogwatch.daemon.sockets import bind, serves
from dogwatch.web.application import create_web
from dogwatch.web.meter import Meter
from dogwatch.web.options import SECTION, WebOptions, is_loopback, parse_listen
from dogwatch.web.server import serve
from dogwatch.web.tls import tls_context

log = logging.getLogger(__name__)


class Serving:
    """One running server on its sockets."""

    def __init__(self, options: WebOptions, sockets: Sequence[socket.socket]) -> None:
        self.options = options
        self.sockets = tuple(sockets)
        self.stop = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def end(self) -> None:
        """Finish requests in flight and end; the sockets stay open."""
        if self.task is None:
            return
        self.stop.set()
        await asyncio.gather(self.task, return_exceptions=True)


class WebPart:
    """Serves the API and the console.

    inherited: listening sockets this process was started with; they are used for the first address they fit, or, when
    a service manager chose them, whatever the address. on_end: called when serving ends though nobody asked it to.
    """

    name = "server"

    def __init__(
        self,
        services: Services,
        *,
        inherited: Sequence[socket.socket],
        grace_s: float,
        on_end: Callable[[BaseException | None], None],
    ) -> None:
        self._services = services
        self._inherited = list(inherited)
        self._grace_s = grace_s
        self._on_end = on_end
        self._meter = Meter()
        self._serving: Serving | None = None

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        return self._serving.sockets if self._serving else tuple(self._inherited)

    @property
    def options(self) -> WebOptions:
        return self._serving.options if self._serving else WebOptions()

    def prepare(self, configuration: Configuration) -> PreparedWeb:
        return PreparedWeb(self, configuration.get(SECTION))

    def obtain(self, options: WebOptions) -> tuple[socket.socket, ...]:
        """Return sockets for the address: those in use, inherited ones, or new ones."""
        old = self._serving
        if old is not None and old.options.listen == options.listen:
            return old.sockets
        if self._inherited:
            fitting = [listener for listener in self._inherited if serves(listener, options.listen)]
            return tuple(fitting or self._inherited)
        return tuple(bind(options.listen))

    def launch(self, serving: Serving) -> None:
        """Serve from now on."""
        access = self._services.access
        beyond = not is_loopback(parse_listen(serving.options.listen)[0] or "0.0.0.0")  # noqa: S104 compared, not bound
        if self._serving is not None and beyond and access is not None and serving.options.writes != "anyone":
            code = access.need_setup()
            if code:
                log.warning("nobody can log in yet: open /setup?code=%s, or run 'dogwatch user add' here", code)
        app = create_web(self._services, serving.options, self._meter)
        serving.task = asyncio.get_running_loop().create_task(
            serve(app, serving.sockets, stop=serving.stop, grace_s=self._grace_s), name="web server"
        )

        def ended(task: asyncio.Task[None]) -> None:
            if not serving.stop.is_set() and not task.cancelled():
                self._on_end(task.exception())

        serving.task.add_done_callback(ended)
        self._serving = serving

    def release(self, sockets: Sequence[socket.socket]) -> None:
        """Close the sockets that nothing uses any more."""
        used = set(self.sockets)
        for listener in {*sockets, *self._inherited} - used:
            listener.close()
        self._inherited.clear()

    async def stop(self) -> None:
        """Take no new connections and finish those in flight. The listening sockets stay open for a successor."""
        if self._serving is not None:
            await self._serving.end()

    def close_sockets(self) -> None:
        for listener in self.sockets:
            listener.close()


class PreparedWeb:
    """A change of the server's options."""

    def __init__(self, part: WebPart, options: WebOptions) -> None:
        self._part = part
        self._options = options
        self._old = part._serving  # noqa: SLF001 one part in two classes
        self._new: Serving | None = None

    async def start(self) -> None:
        if self._old is not None and msgspec.structs.asdict(self._old.options) == msgspec.structs.asdict(self._options):
            return
        if self._options.tls is not None:
            tls_context(self._options.tls)  # a certificate that cannot be used changes nothing
        self._new = Serving(self._options, self._part.obtain(self._options))

    def swap(self) -> None:
        if self._new is not None:
            self._part.launch(self._new)

    async def finish(self) -> None:
        if self._new is None:
            return
        if self._old is not None:
            await self._old.end()
        self._part.release(self._old.sockets if self._old is not None else ())

    async def discard(self) -> None:
        if self._new is not None and (self._old is None or self._new.sockets != self._old.sockets):
            for listener in self._new.sockets:
                listener.close()
