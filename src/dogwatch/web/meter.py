"""What the web part counts of itself, for `/metrics`. Bounded: classes of addresses, not addresses, are labels."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, MutableMapping

from dogwatch.core.metrics import Family, series

# First segment of the path → class. Everything else that is asked for is "other", so that a scanner adds no series.
_CLASSES = {
    "": "page",
    "targets": "page",
    "hosts": "page",
    "fragments": "fragment",
    "api": "api",
    "static": "static",
    "favicon.ico": "static",
    "metrics": "metrics",
    "probe": "probe",
    "ping": "ping",
    "hooks": "hook",
    "healthz": "health",
    "readyz": "health",
    "badge": "badge",
    "badge.svg": "badge",
    "group-badge": "badge",
}
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_REFUSED = {
    400: "malformed",
    403: "not allowed",
    408: "too slow",
    413: "too large",
    414: "too large",
    421: "wrong name",
    429: "too many",
    431: "too large",
    503: "busy",
}


def route(path: str) -> str:
    """Return the class of an address."""
    if path == "/api/v1/events":
        return "events"
    return _CLASSES.get(path[1:].partition("/")[0], "other")


class _Times:
    """How long the answers of one class took."""

    __slots__ = ("buckets", "sum_s")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0


class Meter:
    """Counters of the web part; they outlive a reload of its options. open: live streams now."""

    def __init__(self) -> None:
        self.open = 0
        self._answers: dict[tuple[str, str, int], int] = {}
        self._refused: dict[str, int] = dict.fromkeys(_REFUSED.values(), 0)
        self._bytes: dict[str, int] = {}
        self._times: dict[str, _Times] = {}
        self.events = 0
        self.events_dropped = 0

    def answered(self, kind: str, method: str, status: int, took_s: float) -> None:
        """Count one answer. A live stream's length is not a latency: it has no time."""
        method = method if method in ("GET", "HEAD", "POST") else "other"
        answers: MutableMapping[tuple[str, str, int], int] = self._answers
        answers[kind, method, status] = answers.get((kind, method, status), 0) + 1
        if kind == "events":
            return
        times = self._times.get(kind)
        if times is None:
            times = self._times[kind] = _Times()
        times.buckets[bisect_left(BOUNDS_S, took_s)] += 1
        times.sum_s += took_s

    def refused(self, status: int) -> None:
        """Count a request that was turned away before it reached the application, or by a limit."""
        why = _REFUSED.get(status)
        if why is not None:
            self._refused[why] += 1

    def sent(self, kind: str, size_bytes: int) -> None:
        self._bytes[kind] = self._bytes.get(kind, 0) + size_bytes

    def families(self) -> Iterator[Family]:
        name = "dogwatch_web_requests_total"
        yield Family(
            name,
            "counter",
            "HTTP requests answered, by class of address, method and status.",
            [
                (series(name, {"route": kind, "method": method, "status": str(status)}), float(count))
                for (kind, method, status), count in self._answers.items()
            ],
        )
        yield Family(
            "dogwatch_web_request_duration_seconds",
            "histogram",
            "Time until an answer's last byte was handed over, by class of address; live streams left out.",
            list(self._histograms()),
        )
        for name, text, label, counts in (
            ("dogwatch_web_sent_bytes_total", "Bytes of bodies sent, packed as sent.", "route", self._bytes),
            ("dogwatch_web_refused_total", "Requests turned away by a guard or a limit.", "reason", self._refused),
        ):
            yield Family(name, "counter", text, [(series(name, {label: key}), float(n)) for key, n in counts.items()])
        for name, kind, text, value in (
            ("dogwatch_web_streams", "gauge", "Live event streams open now.", self.open),
            ("dogwatch_web_events_total", "counter", "Live events sent, over all streams.", self.events),
            (
                "dogwatch_web_events_dropped_total",
                "counter",
                "Live events that slow streams lost.",
                self.events_dropped,
            ),
        ):
            yield Family(name, kind, text, [(name, float(value))])

    def _histograms(self) -> Iterator[tuple[str, float]]:
        name = "dogwatch_web_request_duration_seconds"
        for kind, times in self._times.items():
            count = 0
            for bound, inside in zip((*map(repr, BOUNDS_S), "+Inf"), times.buckets, strict=True):
                count += inside
                yield series(f"{name}_bucket", {"route": kind, "le": bound}), float(count)
            yield series(f"{name}_sum", {"route": kind}), times.sum_s
            yield series(f"{name}_count", {"route": kind}), float(count)
