"""The life of the daemon: load, open, start, watch, stop in order; reload and restart on the way."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from dogwatch import __version__
from dogwatch.app import App, open_app
from dogwatch.config.load import Loaded, Loader
from dogwatch.config.reload import Reloader
from dogwatch.core.clock import Clock
from dogwatch.core.stop import run_until_stopped
from dogwatch.core.supervisor import Limits, Phase, Supervisor
from dogwatch.daemon import compiled
from dogwatch.daemon.admin import AdminServer
from dogwatch.daemon.heap import SettledHeap
from dogwatch.daemon.listener import WebPart
from dogwatch.daemon.operations import operations, peer_operations
from dogwatch.daemon.sockets import own_command
from dogwatch.daemon.systemd import notify
from dogwatch.web.options import SECTION as SERVER
from dogwatch.web.options import is_loopback

log = logging.getLogger(__name__)
CHECK_S = 60.0
# Of the grace, what is left after running steps for ending those that did not, and for giving their runs back.
_LEAVE_S = 2.0


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says. data: the data folder, made by the caller. environ: the process's, at start."""

    loader: Loader
    data: Path
    socket_path: Path
    environ: Mapping[str, str]
    grace_s: float = 10.0


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How the daemon ended. restart: the sockets with which the program is to be executed again, or None."""

    exit_code: int
    restart: tuple[socket.socket, ...] | None = None


class Daemon:
    """One run of the daemon. said: is told what a person at a terminal wants to know once it runs."""

    def __init__(
        self,
        options: RunOptions,
        *,
        clock: Clock,
        inherited: Sequence[socket.socket],
        said: Callable[[Daemon], None],
    ) -> None:
        self._options = options
        self._clock = clock
        self._inherited = inherited
        self._said = said
        self._restarting = self._checking = False
        # What was asked for by signals before there was somebody to do it; None once there is.
        self._early: list[Callable[[], None]] | None = []
        self._tasks: set[asyncio.Task[object]] = set()
        self.supervisor = Supervisor(Limits(grace_s=options.grace_s))

    async def run(self, loaded: Loaded) -> Ending:
        """Watch until told to stop.

        Raises: DogwatchError for what keeps it from starting.
        """
        self._hear_signals()
        try:
            return await self._open(loaded)
        finally:
            self._hear_no_signals()

    async def _open(self, loaded: Loaded) -> Ending:
        self.loaded = loaded
        self.app = await open_app(loaded, clock=self._clock, spawn=self.supervisor.start)
        try:
            self.reloader = Reloader(self._options.loader, (), clock=self._clock, bus=self.app.bus)
            self.app.address = lambda: (self.reloader.current or loaded).get(SERVER).external_url
            self.web = WebPart(
                self.app.services(self.reloader),
                inherited=self._inherited,
                grace_s=self._options.grace_s,
                on_end=self._web_ended,
            )
            self.reloader.use(*self.app.parts, self.web, SettledHeap())
            admin = AdminServer(
                self._options.socket_path,
                operations(
                    lambda on: self.app.engine.drain(on=on),
                    lambda: self.supervisor.stop("asked to over the admin socket"),
                ),
                peer_operations(self.app.access),
            )
            await admin.open()
        except BaseException:
            await self.app.close()
            raise
        try:
            await self.reloader.start(loaded)
        except BaseException:
            await self._stop_parts()
            await admin.close()
            await self.app.close()
            self.web.close_sockets()
            raise
        return await self._watch(admin)

    async def _watch(self, admin: AdminServer) -> Ending:
        supervisor = self.supervisor
        log.info("attempts run %s", compiled.status())
        _ = supervisor.start("config watch", self.reloader.watch())
        supervisor.on_stop(Phase.REFUSE, "reload", self.reloader.close)
        supervisor.on_stop(Phase.REFUSE, "admin socket", admin.close)
        supervisor.on_stop(Phase.FINISH, "web", self.web.stop)
        # Running steps may end within the grace; the rest is given back, for whoever starts next.
        self.app.engine.most_grace_s = max(0.0, self._options.grace_s - _LEAVE_S)
        supervisor.on_stop(Phase.FINISH, "runs", self.app.engine.finish)
        supervisor.on_stop(Phase.CANCEL, "parts", self._stop_parts)
        supervisor.on_stop(Phase.FLUSH, "store", self.app.store.flush)
        supervisor.on_stop(Phase.CLOSE, "app", self.app.close)
        environ = self._options.environ
        notify(environ, "READY=1", f"MAINPID={os.getpid()}", f"STATUS=watching {len(self.app.watch.targets())} targets")
        self._said(self)
        early, self._early = self._early or [], None
        for asked in dict.fromkeys(early):
            asked()
        report = await run_until_stopped(supervisor)
        notify(environ, "RELOADING=1" if self._restarting else "STOPPING=1")
        for task in self._tasks:
            task.cancel()
        if self._restarting:
            return Ending(exit_code=0, restart=self.web.sockets)
        self.web.close_sockets()
        return Ending(exit_code=report.exit_code)

    async def _stop_parts(self) -> None:
        """Stop every part, the newest first; one that fails does not keep the others from stopping."""
        for part in reversed(self.app.parts):
            try:
                await part.stop()
            except Exception:
                log.exception("%s did not stop well", part.name)

    def _web_ended(self, error: BaseException | None) -> None:
        log.error("the web server ended unexpectedly", exc_info=error)
        self.supervisor.stop("the web server ended unexpectedly", 1)

    def _soon(self, work: asyncio.Task[object]) -> None:
        self._tasks.add(work)
        work.add_done_callback(self._tasks.discard)

    def _hear_signals(self) -> None:
        """Before anything is started: what a restart left ignored must not be passed on to programs that we start."""
        loop = asyncio.get_running_loop()
        for number, act in ((signal.SIGHUP, self._reload_soon), (signal.SIGUSR2, self._restart_soon)):
            loop.add_signal_handler(number, self._heard, act)

    def _heard(self, act: Callable[[], None]) -> None:
        if self._early is None:
            act()
        else:
            self._early.append(act)

    def _hear_no_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGHUP, signal.SIGUSR2):
            loop.remove_signal_handler(number)
            if self._restarting:
                # Their default ends a process: one that came between here and the next program's own handlers would
                # end the watch. That program reads configuration and code anew as it is.
                signal.signal(number, signal.SIG_IGN)

    def _reload_soon(self) -> None:
        self._soon(asyncio.get_running_loop().create_task(self.reloader.reload("signal"), name="reload by signal"))

    def _restart_soon(self) -> None:
        self._soon(asyncio.get_running_loop().create_task(self._restart(), name="restart"))

    async def _restart(self) -> None:
        """Stop for a restart, if the program that would follow says that it could start. One check at a time."""
        if self._checking or self._restarting:
            return
        self._checking = True
        try:
            why = await check_successor(self._options.environ)
        finally:
            self._checking = False
        if why:
            log.error("restart refused, going on: %s", why)
            return
        if not self.supervisor.stopping:
            self._restarting = True
            self.supervisor.stop("restart")


async def check_successor(environ: Mapping[str, str]) -> str:
    """Run this command line's own check in a process of its own; return why it would not start, or ""."""
    process = await asyncio.create_subprocess_exec(
        *own_command(),
        "--check",
        env=dict(environ),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(CHECK_S):
            _, complaint = await process.communicate()
    except (TimeoutError, asyncio.CancelledError) as error:
        process.kill()
        await process.wait()
        if isinstance(error, asyncio.CancelledError):
            raise
        return f"the check of the new program took longer than {CHECK_S:g} s"
    if process.returncode == 0:
        return ""
    return complaint.decode(errors="replace").strip()[-2000:] or f"the check ended with {process.returncode}"


def banner(daemon: Daemon) -> str:
    """Return what a person at a terminal sees once it runs."""
    address = daemon.web.sockets[0].getsockname()
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    shown = "127.0.0.1" if host in ("0.0.0.0", "[::]") else host  # noqa: S104 compared, not bound
    count = len(daemon.app.watch.targets())
    scheme = "https" if daemon.web.options.tls is not None else "http"
    link = f"{scheme}://{shown}:{address[1]}/"
    # Nobody can log in yet, and others than this machine can ask: the first user is made by whoever reads this.
    code = "" if is_loopback(address[0]) or daemon.web.options.writes == "anyone" else daemon.app.access.need_setup()
    setup = f"  Set up    {link}setup?code={code}\n" if code else ""
    return (
        f"Dogwatch {__version__} watches {count} target{'' if count == 1 else 's'} and this host.\n"
        f"  Open      {link}\n"
        f"{setup}"
        f"  Edit      {', '.join(daemon.loaded.files) or 'nothing configured'} (changes are taken over at once)\n"
        f"  Stop      Ctrl-C"
    )


__all__ = ["App", "Daemon", "Ending", "RunOptions", "banner", "check_successor"]
