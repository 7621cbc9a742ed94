"""The `probes` section: what is asked how often, and when an answer becomes a status."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from dogwatch.config.section import Fault, Section
from dogwatch.core.circles import circles
from dogwatch.core.component import Registry, nearest
from dogwatch.core.units import Bytes, Seconds, format_duration
from dogwatch.engine.action import Action
from dogwatch.expressions.conditions import ConditionError, compile_condition
from dogwatch.probes.kinds.heartbeat import HeartbeatProbe
from dogwatch.probes.probe import EVIDENCE_BYTES, Probe
from dogwatch.rules.remedy.spec import BudgetSpec, DoSpec, Mode, RemedySpec, check_do
from dogwatch.rules.spec import Across
from dogwatch.rules.thresholds import Policy, Window

MAX_NAME_CHARS = 100
Count = Annotated[int, Meta(ge=1, le=1000)]
# What every kind's expectations may read, beside the kind's own variables; the watch provides them.
COMMON_VARIABLES: Mapping[str, str] = {"duration_s": "double", "phases": "map"}


class Retries(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Further tries inside one attempt; only the last one counts.

    attempts: how many beyond the first. base: the wait before the first retry is a random time up to this, and
    doubles. cap: the longest wait. A retry that could not end before the next attempt is due is not made.
    """

    attempts: Annotated[int, Meta(ge=0, le=10)] = 0
    base: Seconds = 0.2
    cap: Seconds = 2.0


class Startup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """grace: how long after its first attempt a target may fail without being down, until it first succeeds."""

    grace: Seconds = 0.0


class ProbeSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One target: the check is written as one key naming its kind, `http: {url: …}`.

    name: by which it is known, and its history kept. every: fixed rate. timeout: of one try. failures: in a row until
    it is down, default 3; window: N of M instead. successes: in a row until it is up again, default 2; both are 1 for a
    heartbeat, whose verdict is sure. degraded_after: slow successes in a row until it is degraded. jitter: each attempt
    starts up to this much later, at random. keep_body: how much of a failing answer is kept. labels: names and values
    for selecting and for metrics. group: under which heading it is shown. depends_on: names of targets without which it
    cannot be well. paused: watched, but not asked. do: what is done when it is down, step by step. mode, budget,
    remedy: its bounds, as of rules.
    """

    name: str
    check: Probe
    every: Seconds = 15.0
    timeout: Seconds = 5.0
    failures: Count | None = None
    successes: Count | None = None
    window: Window | None = None
    degraded_after: Count = 1
    retries: Retries = Retries()
    startup: Startup = Startup()
    jitter: Seconds = 0.0
    labels: Mapping[str, str] = {}
    group: str = ""
    depends_on: Sequence[str] = ()
    paused: bool = False
    keep_body: Bytes = EVIDENCE_BYTES
    do: tuple[DoSpec, ...] = ()
    mode: Mode | None = None
    budget: BudgetSpec | None = None
    remedy: RemedySpec | None = None

    @property
    def policy(self) -> Policy:
        sure = self.check.kind == "heartbeat"
        return Policy(
            failures=self.failures or (1 if sure else 3),
            successes=self.successes or (1 if sure else 2),
            window=self.window,
            degraded_after=self.degraded_after,
            grace_s=self.startup.grace,
        )


def fingerprint(spec: ProbeSpec) -> str:
    """Return the identity of a target: what is asked, not how often, nor what is made of the answer.

    State, history and memory are kept while it stays the same.
    """
    check = msgspec.structs.replace(spec.check, expect=None, degraded_if=None)
    content = msgspec.json.encode([spec.name, check.kind, check], enc_hook=repr, order="deterministic")
    return hashlib.sha256(content).hexdigest()[:16]


def variables(check: Probe) -> dict[str, str]:
    """Return what a check's expectations may read, with types."""
    return {**COMMON_VARIABLES, **check.variables}


def check_probes(specs: Sequence[ProbeSpec]) -> Iterator[Fault]:
    """Find every mistake that types cannot say, in the order of the specs."""
    names: dict[str, int] = {}
    for at, spec in enumerate(specs):
        yield from _name_faults(at, spec.name, names)
        yield from _timing_faults(at, spec)
        yield from _check_faults(at, spec.check)
        yield from check_do(spec.do, spec.budget, spec.remedy, spec.mode, (at,))
    for at, spec in enumerate(specs):
        for place, name in enumerate(spec.depends_on):
            if name == spec.name:
                yield Fault((at, "depends_on", place), "a target cannot depend on itself")
            elif name not in names:
                yield Fault((at, "depends_on", place), f"unknown target '{name}'", nearest(name, list(names)))
    yield from _cycles(specs, names)
    yield from _ping_id_faults(specs)


def _name_faults(at: int, name: str, names: dict[str, int]) -> Iterator[Fault]:
    if not name.strip() or name != name.strip():
        yield Fault((at, "name"), "a name must not be empty, nor begin or end with space")
    elif len(name) > MAX_NAME_CHARS or not name.isprintable():
        yield Fault((at, "name"), f"a name is at most {MAX_NAME_CHARS} printable characters")
    if name in names:
        yield Fault((at, "name"), f"the name '{name}' is used twice, first by probes[{names[name]}]")
    names.setdefault(name, at)


def _ping_id_faults(specs: Sequence[ProbeSpec]) -> Iterator[Fault]:
    """Report heartbeats that would answer to the same URL."""
    owners: dict[str, str] = {}
    for at, spec in enumerate(specs):
        if not isinstance(spec.check, HeartbeatProbe):
            continue
        other = owners.setdefault(spec.check.ping_id(spec.name), spec.name)
        # Two of one name are a mistake that is already told.
        if other != spec.name:
            path = (at, "heartbeat", "id") if spec.check.id else (at, "name")
            yield Fault(path, f"heartbeats '{other}' and '{spec.name}' would answer to the same URL", "give one an id")


def _timing_faults(at: int, spec: ProbeSpec) -> Iterator[Fault]:
    if spec.every < 0.1:
        yield Fault((at, "every"), "at most 10 attempts a second: every must be 100ms or more")
    if spec.timeout <= 0:
        yield Fault((at, "timeout"), "must be more than nothing")
    elif spec.timeout > spec.every:
        times = f"{format_duration(spec.timeout)} is longer than every ({format_duration(spec.every)})"
        yield Fault((at, "timeout"), f"{times}: a slow attempt would make the next be skipped")
    if spec.jitter and spec.jitter > spec.every / 2:
        yield Fault((at, "jitter"), f"must be at most half of every ({format_duration(spec.every)})")
    if spec.window and not 1 <= spec.window.failures <= spec.window.of <= 1000:
        yield Fault((at, "window"), "wants 1 ≤ failures ≤ of ≤ 1000")
    if spec.keep_body > EVIDENCE_BYTES:
        yield Fault((at, "keep_body"), f"at most {EVIDENCE_BYTES} bytes are kept")


def _check_faults(at: int, check: Probe) -> Iterator[Fault]:
    for path, message, hint in check.faults():
        yield Fault((at, check.kind, *path), message, hint)
    for field in ("expect", "degraded_if"):
        text = getattr(check, field)
        if text is None:
            continue
        try:
            compile_condition(text, variables(check))
        except ConditionError as error:
            place = f" (at character {error.position + 1})" if error.position else ""
            yield Fault((at, check.kind, field), f"{error}{place}", error.hint)


def _cycles(specs: Sequence[ProbeSpec], names: Mapping[str, int]) -> Iterator[Fault]:
    """Report every circle of dependencies once."""
    for circle in circles({name: specs[at].depends_on for name, at in names.items()}):
        here = (names[circle[-2]], "depends_on")
        yield Fault(here, f"the dependencies go in a circle: {' → '.join(circle)}")


# What `dogwatch init` writes: real probes of this machine and of Dogwatch itself, which need nothing else.
EXAMPLE = """
- name: dogwatch
  group: this machine
  http:
    url: http://127.0.0.1:8410/healthz
    expect: 'status == 200 && body.contains("ok")'
    degraded_if: 'duration_s > 0.5'
  every: 5s

- name: loopback
  group: this machine
  icmp: 127.0.0.1
  every: 5s

- name: name resolution
  group: this machine
  exec: [getent, hosts, localhost]

- name: clock is kept
  group: this machine
  exec:
    args: [date, +year=%Y]
    expect: 'data.year >= 2026'
  every: 1m

# The other side calls this one: curl http://127.0.0.1:8410/ping/nightly-backup
- name: nightly backup
  group: jobs
  heartbeat: {cron: "0 3 * * *", grace: 30m}

# - name: shop
#   group: shop
#   http: {url: https://shop.example/health, expect: 'status == 200 && tls_days_left > 14.0'}
#   every: 15s
#   failures: 3
#   labels: {team: shop, unit: shop.service}
#   do: [{exec: systemctl restart shop.service, verify: 1m}]
#   mode: plan               # says what it would do; approve asks, auto does it
#   budget: {max: 3, per: 1h}
"""


def probes_section(
    registry: Registry[Any], actions: Registry[Any] | None = None, doing: Across | None = None
) -> Section[list[ProbeSpec]]:
    """Return the `probes` section over the kinds of a registry. actions: those that `do` may name. doing: checks what
    is done against other sections.
    """
    return Section(
        key="probes",
        type=list[ProbeSpec],
        doc="What is watched: one entry a target.",
        default=list,
        families={Probe: registry} if actions is None else {Probe: registry, Action: actions},
        check=_check,
        across=doing or (lambda _value, _get: ()),
        example=EXAMPLE,
    )


def _check(specs: list[ProbeSpec]) -> Iterable[Fault]:
    return check_probes(specs)
