"""The entry of a worker process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from dogwatch.cli.config import find_paths, parse_settings
from dogwatch.config.load import Loader
from dogwatch.config.overrides import RESERVED, Override
from dogwatch.core.clock import SystemClock
from dogwatch.daemon.cores import no_core_dumps
from dogwatch.daemon.logs import start_logging
from dogwatch.daemon.paths import default_data_dir
from dogwatch.daemon.sections import SECTIONS
from dogwatch.daemon.worker import WorkerProcess
from dogwatch.errors import DogwatchError, UsageError


def start(
    paths: Sequence[str],
    labels: Sequence[str],
    slots: int | None,
    data: str | None,
    settings: Sequence[str],
    *,
    log_level: str,
    log_format: str,
) -> int:
    """Run a worker until it is told to stop, and return the exit code."""
    import uvloop

    overrides = parse_settings(tuple(settings))
    overrides += [Override(("engine", "labels", key), value, "--labels") for key, value in _labels(labels)]
    overrides.append(Override(("engine", "work"), "true", "worker run"))
    if slots is not None:
        overrides.append(Override(("engine", "slots"), str(slots), "--slots"))
    environ = dict(os.environ)
    loader = Loader(find_paths(paths, environ), SECTIONS, environ=environ, overrides=overrides, known=RESERVED)
    folder = Path(data) if data else default_data_dir(environ)
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise DogwatchError(f"cannot make the data folder {folder}: {error.strerror}", hint="--data") from None
    loaded = loader.load()
    start_logging(log_level, log_format)
    no_core_dumps()
    process = WorkerProcess(loader, folder, clock=SystemClock())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(process.run(loaded))


def _labels(labels: Sequence[str]) -> list[tuple[str, str]]:
    found = []
    for label in ",".join(labels).split(",") if labels else []:
        key, equals, value = label.strip().partition("=")
        if not equals or not key or not value:
            raise UsageError(f"--labels {label}: write it as KEY=VALUE", hint="such as --labels zone=a")
        found.append((key, value))
    return found
