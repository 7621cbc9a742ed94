"""The life of a worker process: one that only carries out runs, from a database that others share."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from dogwatch.app import open_worker
from dogwatch.config.load import Loaded, Loader
from dogwatch.config.reload import Reloader
from dogwatch.core.bus import Bus
from dogwatch.core.clock import Clock
from dogwatch.core.stop import run_until_stopped
from dogwatch.core.supervisor import Limits, Phase, Supervisor
from dogwatch.daemon.systemd import notify
from dogwatch.engine.section import ENGINE

# Beside the grace of steps: to write down how they ended, and to leave.
_BESIDE_S = 7.0


class WorkerProcess:
    """run() serves until a signal. folder: for the lock of programs that run."""

    def __init__(self, loader: Loader, folder: Path, *, clock: Clock) -> None:
        self._loader, self._folder, self._clock = loader, folder, clock
        self._tasks: set[asyncio.Task[object]] = set()

    async def run(self, loaded: Loaded) -> int:
        """Return the exit code.

        Raises: DogwatchError for what keeps it from starting.
        """
        supervisor = Supervisor(Limits(grace_s=loaded.get(ENGINE).grace + _BESIDE_S))
        bus = Bus()
        worker = await open_worker(loaded, folder=self._folder, clock=self._clock, bus=bus, spawn=supervisor.start)
        reloader = Reloader(self._loader, worker.parts, clock=self._clock, bus=bus)
        try:
            await reloader.start(loaded)
        except BaseException:
            await worker.stop()
            await worker.close()
            raise
        _ = supervisor.start("config watch", reloader.watch())
        supervisor.on_stop(Phase.REFUSE, "reload", reloader.close)
        supervisor.on_stop(Phase.FINISH, "runs", worker.engine.finish)
        supervisor.on_stop(Phase.CANCEL, "parts", worker.stop)
        supervisor.on_stop(Phase.CLOSE, "database", worker.close)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._reload_soon, reloader)
        notify(dict(os.environ), "READY=1", f"MAINPID={os.getpid()}", "STATUS=carrying out runs")
        try:
            report = await run_until_stopped(supervisor)
        finally:
            loop.remove_signal_handler(signal.SIGHUP)
        # To be told to stop is how a worker ends.
        return 0 if report.exit_code in (130, 143) and report.clean else report.exit_code

    def _reload_soon(self, reloader: Reloader) -> None:
        task = asyncio.get_running_loop().create_task(reloader.reload("signal"), name="reload by signal")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
