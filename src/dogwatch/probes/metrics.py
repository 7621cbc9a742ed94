"""What /metrics shows of the watch, under blackbox_exporter's names with a `target` label.

Series text is made once per target and kept, so that scraping thousands of targets costs little more than the
numbers.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dogwatch.core.metrics import Family, series
from dogwatch.probes.probe import Phases, Probe, ProbeResult

if TYPE_CHECKING:
    from dogwatch.probes.target import Target
    from dogwatch.probes.watch import Watch

PHASES = ("resolve", "connect", "tls", "processing", "transfer")
_LABEL = re.compile(r"[^a-zA-Z0-9_]")
_OWN_LABELS = frozenset(("target", "kind", "group", "phase", "result", "le", "instance", "job"))
SUCCESS = ("probe_success", "Displays whether or not the probe was a success")
DURATION = ("probe_duration_seconds", "Returns how long the probe took to complete in seconds")
LOOKUP = ("probe_dns_lookup_time_seconds", "Returns the time taken for probe dns lookup in seconds")
MAX_NAMED = 50
HTTP_PHASES = ("probe_http_duration_seconds", "Duration of http request by phase, summed over all redirects")


def labels_of(target: Target) -> dict[str, str]:
    """Return a target's labels for its series: its own first, configured ones in valid names that clash with none."""
    labels = {"target": target.name, "kind": target.check.kind}
    if target.spec.group:
        labels["group"] = target.spec.group
    for name, value in target.spec.labels.items():
        safe = _LABEL.sub("_", name)
        if not safe or safe[0].isdigit() or safe.startswith("__") or safe in _OWN_LABELS:
            safe = f"label_{safe.lstrip('_')}"
        while safe in labels:
            safe += "_"
        labels[safe] = value
    return labels


class SeriesText:
    """The text of one target's series, made when first needed and kept until its specification changes."""

    __slots__ = ("_labels", "_made")

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = labels
        self._made: dict[str | tuple[str, str], str] = {}

    def get(self, name: str, key: str = "", value: str = "") -> str:
        """Return `name{labels…, key="value"}`. name: may have labels of its own, `name{phase="tls"}`."""
        made = self._made.get(name if not value else (name, value))
        if made is None:
            extra = {key: value} if key else {}
            bare, _, own = name.partition("{")
            text = series(bare, {**self._labels, **extra})
            made = self._made[name if not value else (name, value)] = f"{text[:-1]},{own}" if own else text
        return made


def _text(target: Target) -> SeriesText:
    text = target.labels_text
    if not isinstance(text, SeriesText):
        text = target.labels_text = SeriesText(labels_of(target))
    return text


def phase_values(phases: Phases) -> tuple[float, float, float, float, float]:
    """Return the phases in the order and meaning of blackbox_exporter's `phase` label."""
    return (phases.resolve_s, phases.connect_s, phases.tls_s, phases.first_byte_s, phases.transfer_s)


def numbers(check: Probe, values: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Yield (metric name, help, value) of a kind's metrics for which there is a number."""
    for variable, (name, text) in check.metrics.items():
        value = values.get(variable)
        if isinstance(value, int | float):
            yield name, text, float(value)


def infos(check: Probe, values: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield (metric name, help, label, text) of a kind's metrics that are texts."""
    for variable, (name, text) in check.metrics.items():
        value, label = values.get(variable), info_label(variable, name)
        if label and isinstance(value, str) and value:
            yield name.partition("{")[0], text, label, value


def named_numbers(value: Any) -> list[tuple[str, float]]:
    """Return the first MAX_NAMED numbers of a map by their names: each becomes a series, and series must be bounded."""
    if not isinstance(value, Mapping):
        return []
    found = {str(name)[:100]: float(one) for name, one in value.items() if isinstance(one, int | float)}
    return list(itertools.islice(found.items(), MAX_NAMED))


def watch_families(watch: Watch) -> Iterator[Family]:
    """Yield everything there is to say of the targets and of the watch itself, one family at a time.

    A renderer may wait between families: each holds the event loop only for itself.
    """
    targets = list(watch.all.values())
    seen = [target for target in targets if target.last_result is not None]
    yield Family(*_gauge(SUCCESS), _of(seen, SUCCESS[0], lambda one: float(one.last_success)))
    yield Family(*_gauge(DURATION), _of(seen, DURATION[0], lambda one: _last(one).duration_s))
    phased = [target for target in seen if _last(target).phases is not None]
    yield Family(*_gauge(LOOKUP), _of(phased, LOOKUP[0], lambda one: _phases(one).resolve_s))
    http = [target for target in phased if target.check.kind == "http"]
    yield Family(*_gauge(HTTP_PHASES), _phase_rows(http))
    yield from _kind_families(seen)
    yield from _own_families(watch, targets)


def _gauge(named: tuple[str, str]) -> tuple[str, str, str]:
    return named[0], "gauge", named[1]


def _last(target: Target) -> ProbeResult:
    if target.last_result is None:
        raise ValueError(f"{target.name} has no result")
    return target.last_result


def _phases(target: Target) -> Phases:
    return _last(target).phases or Phases()


def _of(targets: Iterable[Target], name: str, value: Any) -> list[tuple[str, float]]:
    return [(_text(target).get(name), value(target)) for target in targets]


def _phase_rows(targets: Iterable[Target]) -> list[tuple[str, float]]:
    rows = []
    for target in targets:
        text = _text(target)
        for phase, value in zip(PHASES, phase_values(_phases(target)), strict=True):
            rows.append((text.get(HTTP_PHASES[0], "phase", phase), value))
    return rows


def _kind_families(targets: list[Target]) -> Iterator[Family]:
    """Yield the kinds' own metrics, one family at a time; one name is one family, also where several kinds have it."""
    of_kind: dict[type[Probe], list[Target]] = {}
    for target in targets:
        of_kind.setdefault(type(target.check), []).append(target)
    sources: dict[str, list[tuple[str, str, str, list[Target]]]] = {}
    for kind, members in of_kind.items():
        for variable, (name, words) in kind.metrics.items():
            sources.setdefault(name.partition("{")[0], []).append((variable, name, words, members))
    for name, parts in sources.items():
        rows: list[tuple[str, float]] = []
        for variable, full, _words, members in parts:
            rows += _variable_rows(variable, full, members)
        if rows:
            yield Family(name, "gauge", parts[0][2], rows)


def _variable_rows(variable: str, name: str, targets: Iterable[Target]) -> Iterator[tuple[str, float]]:
    label = info_label(variable, name)
    bare = name.partition("{")[0]
    for target in targets:
        value = _last(target).values.get(variable)
        if isinstance(value, int | float):
            yield _text(target).get(name), float(value)
        elif label and isinstance(value, str) and value:
            yield _text(target).get(bare, label, value), 1.0
        elif label and value:
            # Not kept as the others are: the program may choose other names each time.
            labels = labels_of(target)
            yield from ((series(bare, {**labels, label: key}), number) for key, number in named_numbers(value))


def info_label(variable: str, name: str) -> str:
    """Return the label that carries a metric's text, or "" for a metric of numbers.

    `probe_tls_version_info` has the label `version`; a name such as `probe_state{state}` says its label itself.
    """
    bare, _, label = name.partition("{")
    if label and "=" not in label:
        return label.rstrip("}")
    if bare.endswith("_info"):
        return "version" if "version" in bare else variable
    return ""


def _own_families(watch: Watch, targets: list[Target]) -> Iterator[Family]:
    name = "dogwatch_probe_status"
    yield Family(
        name,
        "gauge",
        "Status of the target: 0 pending, 1 up, 2 degraded, 3 down, 4 paused, 5 maintenance.",
        _of(targets, name, lambda one: float(one.state.status)),
    )
    name = "dogwatch_probe_results_total"
    rows = []
    for target in targets:
        text = _text(target)
        rows.append((text.get(name, "result", "success"), float(target.succeeded)))
        rows += [(text.get(name, "result", reason or "failed"), float(n)) for reason, n in target.reasons.items()]
    yield Family(name, "counter", "Attempts by result: success, or the reason of the failure.", rows)
    name = "dogwatch_probe_skipped_total"
    yield Family(
        name,
        "counter",
        "Attempts not made because the one before was still going on, or its time had passed.",
        _of(targets, name, lambda one: float(one.skipped)),
    )
    name = "dogwatch_probe_last_lateness_seconds"
    yield Family(
        name, "gauge", "How late the last attempt started.", _of(targets, name, lambda one: one.last_lateness_s)
    )
    yield watch.lateness.family("dogwatch_probe_lateness_seconds", "How late attempts start.")
    for name, kind, words, value in (
        ("dogwatch_watch_targets", "gauge", "Targets configured.", len(targets)),
        ("dogwatch_watch_running", "gauge", "Attempts under way.", watch.running),
        ("dogwatch_watch_waiting", "gauge", "Attempts that are due and wait for others to end.", watch.waiting),
        ("dogwatch_watch_queued_total", "counter", "Attempts that had to wait for others.", watch.queued_total),
        ("dogwatch_watch_stalls_total", "counter", "Times the watch fell behind by over 1 s.", watch.schedule.stalls),
        ("dogwatch_watch_stalled_seconds_total", "counter", "Time lost in stalls.", watch.schedule.stalled_s),
    ):
        yield Family(name, kind, words, [(name, float(value))])


def probe_families(check: Probe, result: ProbeResult) -> list[Family]:
    """Return what one attempt of an unnamed target shows: series without labels but the phase."""
    families = [
        Family(*_gauge(SUCCESS), [(SUCCESS[0], float(result.success))]),
        Family(*_gauge(DURATION), [(DURATION[0], result.duration_s)]),
    ]
    if result.phases is not None:
        families.append(Family(*_gauge(LOOKUP), [(LOOKUP[0], result.phases.resolve_s)]))
    if result.phases is not None and check.kind == "http":
        pairs = zip(PHASES, phase_values(result.phases), strict=True)
        rows = [(series(HTTP_PHASES[0], {"phase": phase}), value) for phase, value in pairs]
        families.append(Family(*_gauge(HTTP_PHASES), rows))
    own: dict[str, tuple[str, list[tuple[str, float]]]] = {}
    for name, text, value in numbers(check, result.values):
        own.setdefault(name.partition("{")[0], (text, []))[1].append((name, value))
    for name, text, label, info in infos(check, result.values):
        own.setdefault(name, (text, []))[1].append((series(name, {label: info}), 1.0))
    for variable, (name, text) in check.metrics.items():
        label, bare = info_label(variable, name), name.partition("{")[0]
        rows = [(series(bare, {label: key}), one) for key, one in named_numbers(result.values.get(variable))]
        if label and rows:
            own.setdefault(bare, (text, []))[1].extend(rows)
    taken = {family.name for family in families}
    families += [Family(name, "gauge", text, rows) for name, (text, rows) in own.items() if name not in taken]
    return families
