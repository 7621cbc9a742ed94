"""Probes built from plain options, for the one attempt that somebody asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import msgspec

from dogwatch.config.build import Catalog
from dogwatch.config.compose import compose
from dogwatch.config.nodes import MapNode
from dogwatch.config.section import Section
from dogwatch.config.shape import FAILED, Run, Shape
from dogwatch.config.structs import StructShape
from dogwatch.config.typed import put
from dogwatch.core.component import Registry
from dogwatch.errors import ConfigError, Problem, UsageError
from dogwatch.probes.probe import Probe, ProbeEnv, ProbeResult, attempt_once
from dogwatch.probes.spec import ProbeSpec, check_probes
from dogwatch.probes.target import Target, close_memory


@lru_cache(maxsize=256)
def _shape(component: type[Probe]) -> Shape:
    section: Section[Any] = Section(key=component.kind, type=component, doc="", default=dict)
    return Catalog([section]).shapes[component.kind]


def build_probe(
    registry: Registry[Probe], kind: str, options: Mapping[str, Any], typed: Mapping[str, str] | None = None
) -> Probe:
    """Return a probe of a kind with these options, checked as a configured one is.

    options: as in the configuration: `30s`, `64KiB`. typed: as a person types them, by dotted name: `tls.verify`.
    Raises: ConfigError.
    """
    try:
        component = registry.get(kind)
    except UsageError as error:
        raise ConfigError([Problem(str(error), hint=error.hint)]) from None
    run = Run()
    node, problems = compose("", msgspec.json.encode({kind: options}))
    probe: Any = FAILED
    if node is not None:
        shape, tree = _shape(component), node.items[kind]
        if typed:
            assert isinstance(shape, StructShape)
            assert isinstance(tree, MapNode)
            tree, problems = put(tree, shape, typed)
        if not problems:
            probe = shape.convert(tree, (kind,), run)
    problems += run.problems
    if problems or not isinstance(probe, Probe):
        # There is no file: a line would mislead.
        raise ConfigError(replace(problem, file="", line=0) for problem in problems)
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
