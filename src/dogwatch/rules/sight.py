"""From live events to signals. The features that publish them are above this layer: they are known by their shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from dogwatch.core.values import Event, Signal, Status, Transition
from dogwatch.rules.names import HOST_SERIES, by_time, host_signal, probe_signal, transition_signal
from dogwatch.rules.topology import Node
from dogwatch.store.protocol import ResultRow, Store

TOPICS = ("result", "transition", "sample")
# Results of one target that are read again after a restart, to fill windows.
_RESULTS = 20_000
_STATUSES = {status.word: status for status in Status}


class Phases(Protocol):
    resolve_s: float
    connect_s: float
    tls_s: float
    first_byte_s: float
    transfer_s: float


class Result(Protocol):
    """An attempt's end, as topic "result" tells it."""

    target: str
    time_s: float
    success: bool
    status: str
    duration_s: float
    phases: Phases | None
    reason: str


class Sample(Protocol):
    """A host's values, as topic "sample" tells them."""

    host: str
    time_s: float
    values: Mapping[str, float]


class Known(Protocol):
    """What is watched, as views show it."""

    @property
    def name(self) -> str: ...
    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def depends_on(self) -> Sequence[str]: ...


def row_of(result: Result) -> ResultRow:
    """Return a result as the store gets it."""
    phases = result.phases
    parts = (
        (phases.resolve_s, phases.connect_s, phases.tls_s, phases.first_byte_s, phases.transfer_s)
        if phases is not None
        else (0.0,) * 5
    )
    status = int(_STATUSES[result.status])
    return ResultRow(result.target, result.time_s, result.success, status, result.duration_s, *parts, result.reason)


class Sight:
    """Knows the labels of what is watched, and makes signals with them."""

    def __init__(self, targets: Iterable[Known]) -> None:
        targets = list(targets)
        self.labels = {one.name: dict(one.labels) for one in targets}
        self.nodes = [Node(name=one.name, depends_on=tuple(one.depends_on), labels=one.labels) for one in targets]
        self.hosts: set[str] = set()

    def signals(self, events: Iterable[Event]) -> list[Signal]:
        """Return the signals of events; of targets that are not watched any more there are none."""
        found = []
        for event in events:
            signal = self._signal(event)
            if signal is not None:
                found.append(signal)
        return by_time(found)

    def _signal(self, event: Event) -> Signal | None:
        data: object = event.data
        if event.topic == "sample":
            sample: Sample = data  # type: ignore[assignment]
            self.hosts.add(sample.host)
            return host_signal(sample.host, sample.time_s, sample.values.items(), {})
        if isinstance(data, Transition):
            # Up, degraded and down come with their results; only what comes without one is taken from here.
            told = data.after in (Status.PAUSED, Status.MAINTENANCE, Status.PENDING) and data.target in self.labels
            return transition_signal(data, self.labels[data.target]) if told else None
        result: Result = data  # type: ignore[assignment]
        if result.target not in self.labels or result.status not in _STATUSES:
            return None
        return probe_signal(row_of(result), self.labels[result.target])


async def history(store: Store, sight: Sight, *, since_s: float, until_s: float) -> list[Signal]:
    """Return recorded signals in the order of their times: results and transitions of targets, samples of hosts.

    Hosts' samples come as the store still has them: their newest hours each, what is older as means.
    """
    found: list[Signal] = []
    for name, labels in sight.labels.items():
        rows = await _results(store, name, since_s=since_s, until_s=until_s)
        found += (probe_signal(row, labels) for row in rows)
    for transition in await store.transitions(since_s=since_s, limit=_RESULTS):
        quiet = transition.after in (Status.PAUSED, Status.MAINTENANCE, Status.PENDING)
        if quiet and transition.target in sight.labels and transition.time_s <= until_s:
            found.append(transition_signal(transition, sight.labels[transition.target]))
    for host in sorted(sight.hosts):
        found += await _samples(store, host, since_s=since_s, until_s=until_s)
    return by_time(found)


async def _results(store: Store, name: str, *, since_s: float, until_s: float) -> list[ResultRow]:
    """Return a target's results of a time, the newest first, a bounded number at a time."""
    found: list[ResultRow] = []
    before_s: float | None = until_s + 0.001
    while before_s is not None:
        rows = await store.results(name, limit=_RESULTS, before_s=before_s)
        found += (row for row in rows if row.time_s >= since_s)
        full = len(rows) == _RESULTS and rows[-1].time_s >= since_s
        before_s = rows[-1].time_s if full else None
    return found


async def _samples(store: Store, host: str, *, since_s: float, until_s: float) -> list[Signal]:
    points: dict[float, list[tuple[str, float]]] = {}
    for one in await store.series(host, HOST_SERIES, since_s=since_s, until_s=until_s, points=_RESULTS):
        for time_s, value in one.points:
            points.setdefault(time_s, []).append((one.series, value))
    return [host_signal(host, time_s, values, {}) for time_s, values in sorted(points.items())]
