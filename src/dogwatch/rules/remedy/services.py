"""The `services` section: startup, readiness and liveness, as Kubernetes has them, for anything that probes can see."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from dogwatch.config.section import Fault, Path, Section
from dogwatch.core.component import Registry, nearest
from dogwatch.core.units import Seconds
from dogwatch.engine.action import Action
from dogwatch.engine.kinds.exec import ExecAction
from dogwatch.rules.remedy.snapshot import engine_at
from dogwatch.rules.remedy.spec import BudgetSpec, DoSpec, Lasting, Mode, RemedySpec, UndoSpec, check_do

_MOST_SERVICES = 10_000


class ActionSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One action. action: written as one key naming its kind. timeout: of it."""

    action: Action
    timeout: Seconds = 300.0


class StartupSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """probes: all must have succeeded since the service began anew; until then nothing is done about the others.

    within: how long it may take; after that the service is restarted.
    """

    probes: tuple[str, ...]
    within: Lasting = 300.0


class ReadinessSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """probes: while one of them is down, the service is out. out: takes it out of service. back: puts it back."""

    probes: tuple[str, ...]
    out: ActionSpec
    back: ActionSpec | None = None


class LivenessSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """probes: when one of them is down, the service is restarted. verify: how long it then has to be well; default:
    the time to start, or two minutes. attempts: how often it is restarted before that is given up.
    """

    probes: tuple[str, ...]
    verify: Seconds | None = None
    attempts: Annotated[int, Meta(ge=1, le=100)] = 3


class ProcessSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A process that something else starts again when it ends. pidfile: where its number stands. name: what it is
    called, exactly; one of both. grace: from SIGTERM to SIGKILL.
    """

    pidfile: str = ""
    name: str = ""
    grace: Seconds = 10.0


class ServiceSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that starts, is ready and lives: its probes say so, and what is done when they do not.

    name: by which it is known. unit: of systemd. container: of Docker or Podman. socket: of their engine, where it is
    not the usual one. process: one that something else starts again. restart: what restarts it instead; a service that
    is only a URL needs it. ssh: a host of the fleet on which all that is done.
    startup, readiness, liveness: the probes. mode: plan, approve or auto; default: plan. budget, remedy: the bounds,
    as of rules.
    """

    name: str
    unit: str = ""
    container: str = ""
    socket: str = ""
    process: ProcessSpec | None = None
    restart: ActionSpec | None = None
    ssh: str = ""
    startup: StartupSpec | None = None
    readiness: ReadinessSpec | None = None
    liveness: LivenessSpec | None = None
    mode: Mode = "plan"
    budget: BudgetSpec | None = None
    remedy: RemedySpec | None = None


class Duty(msgspec.Struct, frozen=True, kw_only=True):
    """What a service does about some of its probes: a remedy before it is compiled."""

    kind: str
    probes: tuple[str, ...]
    do: DoSpec
    gate: str = ""
    startup_s: float | None = None
    restarts: str = ""


def duties(spec: ServiceSpec, ssh: Callable[[str, str], Action]) -> Iterator[Duty]:
    """Yield what follows from the three kinds of probes. ssh: makes an action of a script for a host."""
    gate = spec.name if spec.startup is not None else ""
    within_s = spec.startup.within if spec.startup is not None else 120.0
    if spec.readiness is not None:
        ready = spec.readiness
        undo = UndoSpec(action=ready.back.action) if ready.back is not None else None
        do = DoSpec(
            action=ready.out.action,
            name="take-out",
            says=f"take {spec.name} out of service",
            verify=0.0,
            timeout=ready.out.timeout,
            undo=undo,
            undo_when="recovered" if undo is not None else "failed",
        )
        yield Duty(kind="readiness", probes=ready.probes, do=do, gate=gate)
    restart = restarting(spec, ssh)
    if restart is None:
        return
    timeout_s = spec.restart.timeout if spec.restart is not None else 300.0
    if spec.liveness is not None:
        verify_s = spec.liveness.verify if spec.liveness.verify is not None else within_s
        do = DoSpec(
            action=restart,
            name="restart",
            says=f"restart {spec.name}",
            verify=verify_s,
            attempts=spec.liveness.attempts,
            timeout=timeout_s,
        )
        yield Duty(kind="liveness", probes=spec.liveness.probes, do=do, gate=gate, restarts=spec.name)
    if spec.startup is not None:
        do = DoSpec(
            action=restart,
            name="restart",
            says=f"restart {spec.name}, which did not start",
            verify=within_s,
            attempts=3,
            timeout=timeout_s,
        )
        yield Duty(kind="startup", probes=spec.startup.probes, do=do, gate=gate, startup_s=within_s, restarts=spec.name)


def restarting(spec: ServiceSpec, ssh: Callable[[str, str], Action]) -> Action | None:
    """Return what restarts a service; None where nothing is known to."""
    if spec.restart is not None:
        return spec.restart.action
    script = restart_script(spec)
    if not script:
        return None
    return ssh(spec.ssh, script) if spec.ssh else ExecAction(run=script, interpreter="sh -eu -c")


def restart_script(spec: ServiceSpec) -> str:
    """Return a script for /bin/sh that restarts the service where it runs; "" where there is none."""
    if spec.unit:
        return f"systemctl restart -- {shlex.quote(spec.unit)}"
    if spec.container:
        name = shlex.quote(spec.container)
        either = f"if command -v docker >/dev/null; then docker restart -- {name}; else podman restart -- {name}; fi"
        return engine_at(spec.socket) + either
    if spec.process is None:
        return ""
    if spec.process.pidfile:
        find = f"cat {shlex.quote(spec.process.pidfile)}"
    else:
        find = f"pgrep -x -- {shlex.quote(spec.process.name)}"
    turns = max(1, round(spec.process.grace / 0.2))
    return (
        f"pids=$({find})\n"
        "kill -TERM $pids\n"
        "turn=0\n"
        f"while [ $turn -lt {turns} ] && kill -0 $pids 2>/dev/null; do sleep 0.2; turn=$((turn + 1)); done\n"
        "if kill -0 $pids 2>/dev/null; then kill -KILL $pids; fi\n"
    )


def check_services(specs: Sequence[ServiceSpec]) -> Iterator[Fault]:
    """Find every mistake that types cannot say, in the order of the services."""
    names: dict[str, int] = {}
    if len(specs) > _MOST_SERVICES:
        yield Fault((), f"at most {_MOST_SERVICES} services")
    for at, spec in enumerate(specs):
        if not spec.name.strip() or spec.name != spec.name.strip() or not spec.name.isprintable():
            yield Fault((at, "name"), "a name must not be empty, nor begin or end with space")
        if len(spec.name) > 100:
            yield Fault((at, "name"), "a name is at most 100 printable characters")
        if spec.name in names:
            yield Fault((at, "name"), f"'{spec.name}' is the name of services[{names[spec.name]}], too")
        names.setdefault(spec.name, at)
        yield from _service_faults(spec, (at,))


def _service_faults(spec: ServiceSpec, path: Path) -> Iterator[Fault]:
    kinds = [name for name in ("unit", "container", "process") if getattr(spec, name)]
    if spec.socket and not spec.container:
        yield Fault((*path, "socket"), "means nothing without 'container'")
    for name in kinds[1:]:
        yield Fault((*path, name), f"a service is either a {kinds[0]} or a {name}")
    if spec.process is not None and bool(spec.process.pidfile) == bool(spec.process.name):
        yield Fault((*path, "process"), "wants either 'pidfile' or 'name'")
    if spec.startup is None and spec.readiness is None and spec.liveness is None:
        yield Fault(path, "has no probes", "write startup, readiness or liveness with their probes")
    restarts = spec.restart is not None or kinds
    for name in ("startup", "liveness"):
        if getattr(spec, name) is not None and not restarts:
            yield Fault((*path, name), "nothing says how the service is restarted", "write unit, container or restart")
    if spec.ssh and spec.restart is not None:
        yield Fault((*path, "ssh"), "means nothing beside 'restart'", "write an ssh: action there")
    for name in ("startup", "readiness", "liveness"):
        part = getattr(spec, name)
        if part is not None and not part.probes:
            yield Fault((*path, name, "probes"), "names no probe")
    for duty in duties(spec, lambda _host, script: ExecAction(run=script)):
        yield from check_do((duty.do,), spec.budget, spec.remedy, spec.mode, path)
        break


def services_section(
    actions: Registry[Action], probes: Section[Any] | None = None, across: Any = None
) -> Section[list[ServiceSpec]]:
    """Return the section. probes: for checking the names; across: further checks against other sections."""

    def look(specs: list[ServiceSpec], get: Callable[[Section[Any]], Any]) -> Iterator[Fault]:
        known = [one.name for one in get(probes)] if probes is not None else []
        for at, spec in enumerate(specs):
            for kind in ("startup", "readiness", "liveness"):
                part = getattr(spec, kind)
                for place, name in enumerate(part.probes if part is not None else ()):
                    if probes is not None and name not in known:
                        hint = nearest(name, known) if known else "write it below probes"
                        yield Fault((at, kind, "probes", place), f"unknown probe '{name}'", hint)
        if across is not None:
            yield from across(specs, get)

    return Section(
        key="services",
        type=list[ServiceSpec],
        doc="What starts, is ready and lives: the probes that say so, and what is done when they do not.",
        default=list,
        families={Action: actions},
        check=check_services,
        across=look,
    )
