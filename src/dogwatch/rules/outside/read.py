"""What Alertmanager and Falco post, as alerts. Pure.

Source: "Webhook receiver", Prometheus Alertmanager's documentation, version 4; "HTTP output", Falco's documentation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from dogwatch.notify.message import Severity
from dogwatch.rules.watcher import Alert

Kind = Literal["alertmanager", "falco"]
# An alert of Alertmanager that is not told again is over after this; it repeats what goes on, every 4 hours by default.
ALERTMANAGER_KEEP_S = 26 * 3600.0
# Falco tells of events, which do not end: one is over when it was quiet for so long.
FALCO_KEEP_S = 900.0
MOST_ALERTS = 1000
_MOST_LABELS = 50
_MOST_CHARS = 500
# Which label says what an alert is about, the most telling first.
_TARGETS = ("target", "instance", "host", "hostname", "node", "pod", "service", "job")
_SEVERITIES: Mapping[str, Severity] = {
    "critical": "critical", "page": "critical", "emergency": "critical", "alert": "critical", "fatal": "critical",
    "error": "error", "high": "error", "major": "error",
    "warning": "warning", "warn": "warning", "medium": "warning", "minor": "warning",
    "info": "info", "notice": "info", "informational": "info", "debug": "info", "none": "info", "low": "info",
}  # fmt: skip


class NotAlerts(ValueError):
    """The payload is not what it should be; says why."""


class OutsideAlert(msgspec.Struct, frozen=True, kw_only=True):
    """key: what it is known again by. firing: False where it is over. ends_s: when it is over by itself."""

    key: str
    alert: Alert
    firing: bool
    ends_s: float


def read_alerts(kind: Kind, payload: object, now_s: float) -> list[OutsideAlert]:
    """Return the alerts of a payload. Raises: NotAlerts."""
    found = _alertmanager(payload, now_s) if kind == "alertmanager" else [_falco(payload, now_s)]
    if len(found) > MOST_ALERTS:
        raise NotAlerts(f"more than {MOST_ALERTS} alerts at once")
    return found


class _Alert(msgspec.Struct, frozen=True):
    status: str
    labels: dict[str, str]
    annotations: dict[str, str] = {}
    startsAt: str = ""  # noqa: N815 - its name there
    endsAt: str = ""  # noqa: N815
    generatorURL: str = ""  # noqa: N815
    fingerprint: str = ""


class _Webhook(msgspec.Struct, frozen=True):
    alerts: list[_Alert]
    status: str = ""


def _alertmanager(payload: object, now_s: float) -> list[OutsideAlert]:
    try:
        found = msgspec.convert(payload, _Webhook)
    except msgspec.ValidationError as error:
        raise NotAlerts(f"it is not what Alertmanager posts: {error}") from None
    return [_of_alertmanager(one, now_s) for one in found.alerts]


def _of_alertmanager(one: _Alert, now_s: float) -> OutsideAlert:
    if one.status not in ("firing", "resolved"):
        raise NotAlerts(f"an alert is neither firing nor resolved, but '{_cut(one.status)}'")
    name = one.labels.get("alertname", "")
    if not name:
        raise NotAlerts("an alert has no label alertname")
    labels = _labels(one.labels)
    print_ = one.fingerprint or _print(one.labels)
    text = one.annotations.get("summary") or one.annotations.get("title") or ""
    reason = one.annotations.get("description") or one.annotations.get("message") or ""
    extra = {key for key in one.labels if key not in ("alertname", "severity", *_TARGETS)}
    return _made(
        "alertmanager", name, labels, print_, text, reason,
        severity=_SEVERITIES.get(labels.get("severity", "").lower(), "warning"),
        begun_s=_time(one.startsAt, now_s), firing=one.status == "firing",
        ends_s=now_s + ALERTMANAGER_KEEP_S, alone=not extra,
    )  # fmt: skip


class _Falco(msgspec.Struct, frozen=True):
    rule: str
    priority: str
    output: str = ""
    time: str = ""
    hostname: str = ""
    source: str = ""
    tags: list[str] | None = None
    output_fields: dict[str, Any] | None = None


def _falco(payload: object, now_s: float) -> OutsideAlert:
    try:
        one = msgspec.convert(payload, _Falco)
    except msgspec.ValidationError as error:
        raise NotAlerts(f"it is not what Falco posts: {error}") from None
    if not one.rule:
        raise NotAlerts("it names no rule")
    fields = one.output_fields or {}
    about = {
        "host": one.hostname,
        "pod": str(fields.get("k8s.pod.name") or ""),
        "namespace": str(fields.get("k8s.ns.name") or ""),
        "container": str(fields.get("container.name") or fields.get("container.id") or ""),
        "falco_source": one.source,
    }
    labels = _labels({name: value for name, value in about.items() if value and value not in ("<NA>", "host")})
    print_ = _print({"rule": one.rule, **labels})
    return _made(
        "falco", one.rule, labels, print_, "", one.output,
        severity=_SEVERITIES.get(one.priority.lower(), "warning"),
        begun_s=_time(one.time, now_s), firing=True, ends_s=now_s + FALCO_KEEP_S,
        alone=not {"pod", "container"} & set(labels),
    )  # fmt: skip


def _made(
    kind: Kind,
    name: str,
    labels: dict[str, str],
    print_: str,
    summary: str,
    reason: str,
    *,
    severity: Severity,
    begun_s: float,
    firing: bool,
    ends_s: float,
    alone: bool,
) -> OutsideAlert:
    target = next((labels[key] for key in _TARGETS if labels.get(key)), name)
    if target.count(":") == 1:
        target = target.partition(":")[0]  # a port says nothing of what is wrong
    # Several of one name and target differ by what else they say.
    group = target if alone else f"{target} ({_cut(print_)[:8]})"
    rule = f"{kind}:{_cut(name)}"
    alert = Alert(
        rule=rule,
        group=group,
        targets=(target,),
        since_s=begun_s,
        severity=severity,
        labels=labels,
        reason=_cut(reason),
        summary=_cut(summary) or f"{_cut(name)}: {target}",
        outside=True,
    )
    return OutsideAlert(key=f"{rule}\n{group}", alert=alert, firing=firing, ends_s=ends_s)


def _labels(found: Mapping[str, str]) -> dict[str, str]:
    return {_cut(name): _cut(value) for name, value in sorted(found.items())[:_MOST_LABELS]}


def _cut(text: str) -> str:
    clean = "".join(char if char.isprintable() else " " for char in text)
    return clean if len(clean) <= _MOST_CHARS else clean[: _MOST_CHARS - 1] + "…"


def _print(labels: Mapping[str, str]) -> str:
    return hashlib.sha256(msgspec.json.encode(labels, order="deterministic")).hexdigest()[:16]


def _time(text: str, now_s: float) -> float:
    """Return a time, no later than now: a clock of another machine may be ahead."""
    try:
        found = datetime.fromisoformat(text[:26].rstrip("Z") + ("+00:00" if text.endswith("Z") else text[26:]))
    except ValueError:
        return now_s
    stamp = (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
    return min(stamp, now_s) if stamp > 0 else now_s
