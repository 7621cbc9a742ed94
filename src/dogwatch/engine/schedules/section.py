"""The `schedules` key of the configuration, and its check."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dogwatch.config.nodes import format_path
from dogwatch.config.section import Fault, Section
from dogwatch.core.component import nearest
from dogwatch.engine.schedules.decide import next_fires
from dogwatch.engine.schedules.plan import Faulty, build_plan, shared_zones
from dogwatch.engine.schedules.spec import ScheduleSpec
from dogwatch.engine.spec import JobSpec
from dogwatch.engine.values import Json

MAX_NAME_CHARS = 100
# What is wrong with parameters, as (name, message, hint); the engine's own check of a start.
ParameterCheck = Callable[[JobSpec, Mapping[str, Json]], Iterator[tuple[str, str, str]]]


def check_schedules(specs: Sequence[ScheduleSpec]) -> Iterator[Fault]:
    """Find every mistake of the schedules themselves, in their order."""
    zones = shared_zones()
    names: dict[str, int] = {}
    for at, spec in enumerate(specs):
        if not spec.name.strip() or spec.name != spec.name.strip():
            yield Fault((at, "name"), "a name must not be empty, nor begin or end with space")
        elif len(spec.name) > MAX_NAME_CHARS or not spec.name.isprintable():
            yield Fault((at, "name"), f"a name is at most {MAX_NAME_CHARS} printable characters")
        if spec.name in names:
            yield Fault((at, "name"), f"'{spec.name}' is the name of schedules[{names[spec.name]}], too")
        names.setdefault(spec.name, at)
        try:
            plan = build_plan(spec, zones)
        except Faulty as error:
            yield from (Fault((at, *fault.path), fault.message, fault.hint) for fault in error.faults)
        else:
            # From the first second on, so that a date in the past is none: time passing must not break a configuration.
            if not next_fires(plan, 0.0, 1):
                yield Fault((at,), "never fires", "see its blackout, start and end")


def check_jobs(
    specs: Sequence[ScheduleSpec], jobs: Sequence[JobSpec], parameters: ParameterCheck | None = None
) -> Iterator[Fault]:
    """Find schedules of jobs that are not there, or that would not take their parameters."""
    known = {job.name: job for job in jobs}
    check = parameters or parameter_faults
    for at, spec in enumerate(specs):
        job = known.get(spec.job)
        if job is None:
            yield Fault((at, "job"), f"unknown job '{spec.job}'", nearest(spec.job, list(known)) if known else "")
            continue
        for name, message, hint in check(job, spec.parameters):
            given = name in spec.parameters
            yield Fault((at, "parameters", name) if given else (at, "job"), message, hint)


def secret_parameters(specs: Sequence[ScheduleSpec], jobs: Mapping[str, JobSpec]) -> frozenset[str]:
    """Return the paths of what schedules give jobs and only the job says is secret. Of a job that is not known: all."""
    found: set[str] = set()
    for index, spec in enumerate(specs):
        known = jobs[spec.job].parameters if spec.job in jobs else {}
        found.update(
            format_path(("schedules", index, "parameters", key))
            for key in spec.parameters
            if key not in known or known[key].secret
        )
    return frozenset(found)


def parameter_faults(job: JobSpec, given: Mapping[str, Json]) -> Iterator[tuple[str, str, str]]:
    """Yield parameters that the job does not know, and those that it needs."""
    for name in given:
        if name not in job.parameters:
            known = list(job.parameters)
            yield name, f"the job '{job.name}' has no parameter '{name}'", nearest(name, known) if known else ""
    for name, parameter in job.parameters.items():
        needed = parameter.required if parameter.required is not None else parameter.default is None
        if needed and name not in given:
            yield name, f"the job '{job.name}' needs the parameter '{name}'", "write it below parameters"


def schedules_section(
    jobs: Section[Any] | None = None, parameters: ParameterCheck | None = None
) -> Section[list[ScheduleSpec]]:
    """Return the section. jobs: the section of the jobs (a sequence of JobSpec), for checking against it."""

    def across(specs: list[ScheduleSpec], get: Callable[[Section[Any]], Any]) -> Iterator[Fault]:
        if jobs is not None:
            yield from check_jobs(specs, list(get(jobs)), parameters)

    return Section(
        key="schedules",
        type=list[ScheduleSpec],
        doc="Which jobs start by themselves, and when.",
        default=list,
        check=check_schedules,
        across=across,
    )


SCHEDULES = schedules_section()
