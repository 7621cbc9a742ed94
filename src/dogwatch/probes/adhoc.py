"""Probes built from plain options, for the one attempt that somebody asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from dogwatch.core.component import Registry, nearest
from dogwatch.errors import ConfigError, Problem, UsageError
from dogwatch.probes.probe import Probe, ProbeEnv, ProbeResult, attempt_once
from dogwatch.probes.spec import ProbeSpec, check_probes
from dogwatch.probes.target import Target, close_memory


def build_probe(registry: Registry[Probe], kind: str, options: Mapping[str, Any]) -> Probe:
    """Return a probe of a kind with these options, checked as a configured one is.

    options: base units (seconds, bytes). Raises: ConfigError.
    """
    try:
        component = registry.get(kind)
    except UsageError as error:
        raise ConfigError([Problem(str(error), hint=error.hint)]) from None
    known = {field.encode_name for field in msgspec.structs.fields(component)}
    unknown = [
        Problem(f"unknown option '{name}'", path=kind, hint=nearest(name, sorted(known)))
        for name in options
        if name not in known
    ]
    if unknown:
        raise ConfigError(unknown)
    try:
        probe = msgspec.convert(dict(options), component, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError([Problem(str(error), path=kind)]) from None
    faults = list(check_probes([ProbeSpec(name=kind, check=probe)]))
    if faults:
        raise ConfigError(
            Problem(fault.message, path=".".join(map(str, fault.path[1:])), hint=fault.hint) for fault in faults
        )
    return probe


async def ask_once(probe: Probe, env: ProbeEnv, *, timeout_s: float) -> ProbeResult:
    """Run one attempt of a probe that is not a target, expectations included, and keep nothing of it."""
    spec = ProbeSpec(name=probe.address() or probe.kind, check=probe, timeout=timeout_s)
    target = Target(spec, env, now_s=0.0)
    try:
        result = await attempt_once(probe, target.attempt)
        return target.judge(result)[0]
    finally:
        close_memory(target.memory)
