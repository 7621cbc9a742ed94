"""The log agent as a part of the daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dogwatch.config.part import Configuration, Prepared
from dogwatch.core.metrics import Family, series
from dogwatch.logs.place import store_folder
from dogwatch.logs.reader import LogReader, Trouble
from dogwatch.logs.section import LOGS, LogsSpec
from dogwatch.logs.transform import EVENTS, EVENTS_HELP

if TYPE_CHECKING:
    from dogwatch.logs.agent import Agent, SinkStatus, SourceStatus


class LogsPart:
    """Runs the `logs:` section. A reload that changes it ends the old agent and starts the new from its checkpoint.

    folder: where its state is, unless the section says so.
    """

    name = "logs"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.spec = LogsSpec()
        self.agent: Agent | None = None
        self.reader = LogReader(
            lambda: store_folder(self.spec, Path(self.spec.folder) if self.spec.folder else self._folder),
            lambda: {one.name: one.labels for one in self.spec.sources},
            troubles=self.troubles,
        )

    def prepare(self, configuration: Configuration) -> Prepared:
        return _PreparedLogs(self, configuration.get(LOGS))

    def build(self, spec: LogsSpec) -> Agent | None:
        if not spec.sources:
            return None
        from dogwatch.logs.agent import Agent

        return Agent(spec, Path(spec.folder) if spec.folder else self._folder)

    async def stop(self) -> None:
        agent, self.agent = self.agent, None
        if agent is not None:
            await agent.stop()

    def status(self) -> tuple[list[SourceStatus], list[SinkStatus]]:
        """Return how every source and every sink does."""
        return ([], []) if self.agent is None else self.agent.status()

    def troubles(self) -> list[Trouble]:
        """Return what keeps sources from reading and sinks from writing now."""
        sources, sinks = self.status()
        labels = {one.name: one.labels for one in self.spec.sources}
        found = [
            Trouble(kind="source", name=one.name, text=one.failing, labels=labels.get(one.name, {}))
            for one in sources
            if one.failing
        ]
        return found + [
            Trouble(kind="sink", name=one.name, text=one.failing, waiting_bytes=one.waiting_bytes)
            for one in sinks
            if one.failing
        ]

    def metrics(self) -> Iterator[Family]:
        """Yield what the exposition shows of the agent."""
        sources, sinks = self.status()
        name = "dogwatch_logs_source_events_total"
        yield Family(
            name,
            "counter",
            "What log sources counted: lines, bytes, files, truncated, recovered, lost_bytes, vanished, too_many…",
            [
                (series(name, {"source": one.name, "event": event}), float(value))
                for one in sources
                for event, value in one.counts.items()
            ],
        )
        if self.agent is None:
            yield Family(EVENTS, "counter", EVENTS_HELP, ())
        else:
            yield from self.agent.derived()
        for field, kind, text in _SINK_METRICS:
            name = f"dogwatch_logs_sink_{field}" + ("_total" if kind == "counter" else "")
            yield Family(
                name, kind, text, [(series(name, {"sink": one.name}), float(getattr(one, field))) for one in sinks]
            )
        name = "dogwatch_logs_sink_dropped_total"
        text = "Records lost to a full buffer of a log sink, by the source they came from."
        lost = [
            (series(name, {"sink": one.name, "source": source}), float(value))
            for one in sinks
            for source, value in one.dropped_of.items()
        ]
        yield Family(name, "counter", text, lost)


_SINK_METRICS = (
    ("written", "counter", "Records that a log sink accepted."),
    ("dead", "counter", "Records that a log sink will never take, kept as dead letters."),
    ("retries", "counter", "Writes of a log sink that failed and were tried again."),
    ("damaged", "counter", "Parts of a log sink's disk buffer that could not be read; what was in them is lost."),
    ("waiting_bytes", "gauge", "What waits for a log sink, in memory and on disk."),
)


class _PreparedLogs:
    """The folder can be had by one agent only: the old one ends before the new one begins.

    It ends in `start`, because only there a failure can be reported; `discard` starts the old configuration again.
    """

    def __init__(self, part: LogsPart, spec: LogsSpec) -> None:
        self._part = part
        self._spec = spec
        self._changed = spec != part.spec
        self._agent = part.build(spec) if self._changed else part.agent

    async def start(self) -> None:
        if not self._changed:
            return
        await self._part.stop()
        if self._agent is not None:
            await self._agent.start()

    def swap(self) -> None:
        self._part.spec, self._part.agent = self._spec, self._agent

    async def finish(self) -> None:
        """Nothing: the old one has ended."""

    async def discard(self) -> None:
        if not self._changed:
            return
        if self._agent is not None:
            await self._agent.stop()
        old = self._part.build(self._part.spec)
        if old is not None and self._part.agent is None:
            await old.start()
            self._part.agent = old
