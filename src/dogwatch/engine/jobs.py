"""The `jobs` section: what can be run, in steps. Every mistake that can be found without running is found here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dogwatch.config.section import Fault, Path, Section
from dogwatch.core.circles import circles
from dogwatch.core.component import Registry, nearest
from dogwatch.core.units import format_duration
from dogwatch.engine import variables
from dogwatch.engine.action import Action
from dogwatch.engine.graph_check import before_each, need_faults, needs_of
from dogwatch.engine.kinds.approve import ApproveAction
from dogwatch.engine.kinds.job import JobAction
from dogwatch.engine.kinds.map import MapAction
from dogwatch.engine.kinds.wait import WaitAction
from dogwatch.engine.masks import SHORTEST_CHARS
from dogwatch.engine.parameters import is_required, mistake_of, parameter_faults
from dogwatch.engine.read_check import (
    Place,
    actions_of,
    condition_faults,
    formula_faults,
    reads_secret,
    template_faults,
    text_faults,
)
from dogwatch.engine.spec import JobSpec, StepSpec
from dogwatch.engine.templates import fields, template
from dogwatch.expressions.cel_syntax import RESERVED

_JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_STEP_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")
MOST_STEPS = 1000


def check_jobs(jobs: Sequence[JobSpec]) -> Iterator[Fault]:
    """Find every mistake that types cannot say, in the order of the jobs."""
    by_name = {job.name: job for job in reversed(jobs)}
    seen: dict[str, int] = {}
    for at, job in enumerate(jobs):
        if not _JOB_NAME.fullmatch(job.name):
            hint = "letters, digits, '.', '_' and '-', at most 80, beginning with a letter or digit"
            yield Fault((at, "name"), f"'{job.name[:100]}' cannot be a job's name", hint)
        if job.name in seen:
            yield Fault((at, "name"), f"the name '{job.name}' is used twice, first by jobs[{seen[job.name]}]")
        seen.setdefault(job.name, at)
        yield from _job_faults(job, by_name, (at,))
    yield from _calls_in_circles(jobs, seen)


def _job_faults(job: JobSpec, jobs: Mapping[str, JobSpec], path: Path) -> Iterator[Fault]:
    yield from _definition_faults(job, path)
    yield from _setting_faults(job, path)
    if not job.steps:
        yield Fault((*path, "steps"), "a job has at least one step")
    if len(job.steps) > MOST_STEPS:
        yield Fault((*path, "steps"), f"a job has at most {MOST_STEPS} steps")
    yield from _step_name_faults(job, path)
    yield from need_faults(job, path)
    steps = {step.name: step for step in reversed(job.steps)}
    before = before_each(needs_of(job))
    start = Place(job=job, steps=steps, roots=variables.START_ROOTS, open=True)
    yield from _start_faults(job, start, path)
    for at, step in enumerate(job.steps):
        place = Place(
            job=job, steps=steps, roots=variables.STEP_ROOTS, before=before.get(step.name, frozenset()), step=step.name
        )
        yield from _step_faults(step, place, jobs, (*path, "steps", at))
    end = Place(job=job, steps=steps, roots=variables.STEP_ROOTS, before=frozenset(steps), open=True)
    for name, text in job.outputs.items():
        yield from _name_faults(name, "output", (*path, "outputs", name))
        yield from formula_faults(text, end, (*path, "outputs", name))


def _definition_faults(job: JobSpec, path: Path) -> Iterator[Fault]:
    for name, parameter in job.parameters.items():
        here = (*path, "parameters", name)
        yield from _name_faults(name, "parameter", here)
        yield from parameter_faults(parameter, here)
    for name, value in job.secrets.items():
        here = (*path, "secrets", name)
        yield from _name_faults(name, "secret", here)
        if not value.strip():
            yield Fault(here, "the secret is empty", "write ${file:/path} or ${NAME}")
    for name in job.env:
        if not _NAME.fullmatch(name):
            yield Fault((*path, "env", name), f"'{name[:60]}' cannot be a variable's name", "letters, digits and '_'")
    for field in ("labels", "worker"):
        for name, value in getattr(job, field).items():
            here = (*path, field, name)
            if not _LABEL.fullmatch(name):
                yield Fault(here, f"'{name[:60]}' cannot be a label's name", "letters, digits, '.', '_', '/' and '-'")
            if "{{" in value:
                yield Fault(here, "labels are plain text, not templates")
            elif len(value) > 200 or not value.isprintable() or not value:
                yield Fault(here, "a label has 1 to 200 printable characters")


def _name_faults(name: str, noun: str, path: Path) -> Iterator[Fault]:
    if not _NAME.fullmatch(name) or name in RESERVED:
        hint = "letters, digits and '_', beginning with a letter, and no reserved word"
        yield Fault(path, f"'{name[:60]}' cannot be the name of {'an' if noun[0] in 'aeiou' else 'a'} {noun}", hint)


def _setting_faults(job: JobSpec, path: Path) -> Iterator[Fault]:
    for field in ("timeout", "cleanup_timeout"):
        if getattr(job, field) <= 0:
            yield Fault((*path, field), "must be more than nothing")
    if job.rate is not None and job.rate.per <= 0:
        yield Fault((*path, "rate", "per"), "must be more than nothing")
    if not -(2**31) <= job.priority < 2**31:
        yield Fault((*path, "priority"), "must have 32 bits")


def _start_faults(job: JobSpec, place: Place, path: Path) -> Iterator[Fault]:
    """Check what is filled in when a run is started, before any step."""
    if job.concurrency is not None:
        yield from text_faults(job.concurrency.key, place, (*path, "concurrency", "key"))
    for at, lock in enumerate(job.locks):
        here = (*path, "locks", at)
        if not lock.strip():
            yield Fault(here, "a lock has a name")
        elif lock in job.locks[:at]:
            yield Fault(here, f"'{lock[:60]}' is named twice")
        yield from text_faults(lock, place, here)
    env = Place(job=job, steps={}, roots=variables.ENV_ROOTS)
    for name, text in job.env.items():
        yield from text_faults(text, env, (*path, "env", name))


def _step_name_faults(job: JobSpec, path: Path) -> Iterator[Fault]:
    seen: dict[str, int] = {}
    for at, step in enumerate(job.steps):
        here = (*path, "steps", at, "name")
        if not _STEP_NAME.fullmatch(step.name):
            hint = "letters, digits, '_' and '-', at most 64, beginning with a letter"
            yield Fault(here, f"'{step.name[:100]}' cannot be a step's name", hint)
        if step.name in seen:
            yield Fault(here, f"the name '{step.name}' is used twice, first by steps[{seen[step.name]}]")
        seen.setdefault(step.name, at)


def _step_faults(step: StepSpec, place: Place, jobs: Mapping[str, JobSpec], path: Path) -> Iterator[Fault]:
    if step.when is not None:
        yield from condition_faults(step.when, place, (*path, "when"))
    yield from _time_faults(step, place.job, path)
    for below, action in actions_of(step):
        here = (*path, *below)
        # The path of a map's own options is one shorter than that of the action in it.
        inside = len(below) > 1
        roots = variables.MAP_ROOTS if inside else variables.STEP_ROOTS
        yield from _action_faults(action, _with_roots(place, roots), here)
        if isinstance(action, JobAction):
            yield from _call_faults(action, place.job, jobs, here)
    if isinstance(step.action, MapAction):
        yield from _map_faults(step.action, place.job, (*path, step.action.kind))
    outputs = _with_roots(place, variables.OUTPUT_ROOTS, open_=True)
    for name, text in step.outputs.items():
        yield from _name_faults(name, "output", (*path, "outputs", name))
        if step.action.control:
            yield Fault((*path, "outputs", name), f"a {step.action.kind} has no outputs of its own to add to")
        yield from formula_faults(text, outputs, (*path, "outputs", name))


def _with_roots(place: Place, roots: frozenset[str], *, open_: bool = False) -> Place:
    return Place(job=place.job, steps=place.steps, roots=roots, before=place.before, step=place.step, open=open_)


def _time_faults(step: StepSpec, job: JobSpec, path: Path) -> Iterator[Fault]:
    field = "cleanup_timeout" if step.always else "timeout"
    most = getattr(job, field)
    limit = f"longer than the job's {field} ({format_duration(most)})"
    if step.timeout is not None:
        if step.timeout <= 0:
            yield Fault((*path, "timeout"), "must be more than nothing")
        elif step.timeout > most > 0:
            yield Fault((*path, "timeout"), limit)
    if step.retry.base > step.retry.cap:
        yield Fault((*path, "retry", "base"), f"is more than cap ({format_duration(step.retry.cap)})")
    if step.retry.attempts > 1 and step.after_crash == "fail":
        hint = "it says that the step must not happen twice"
        yield Fault((*path, "retry", "attempts"), "contradicts 'after_crash: fail'", hint)
    waited, key = None, ""
    for _below, action in actions_of(step):
        if isinstance(action, WaitAction) and not list(action.faults()):
            waited, key = action.known_s, "for"
        elif isinstance(action, ApproveAction):
            waited, key = action.expires, "expires"
    most = min(most, most if step.timeout is None else step.timeout)
    if waited is not None and waited > most and (step.timeout is None or step.timeout <= most):
        what = "the step's timeout" if step.timeout is not None else f"the job's {field}"
        hint = f"the run would end before it: raise {what}"
        here = (
            *path,
            *next(below for below, action in actions_of(step) if isinstance(action, WaitAction | ApproveAction)),
        )
        yield Fault((*here, key), f"longer than {what} ({format_duration(most)})", hint)


def _action_faults(action: Action, place: Place, path: Path) -> Iterator[Fault]:
    for field in fields(action):
        yield from template_faults(field.template, place, (*path, *field.path))
    for below, message, hint in action.faults():
        yield Fault((*path, *below), message, hint)


def _map_faults(action: MapAction, job: JobSpec, path: Path) -> Iterator[Fault]:
    """Find a template that certainly makes no list."""
    if not isinstance(action.over, str):
        return
    found = template(action.over)
    if not found.whole or found.mistakes:
        return
    formula = found.formulas[0]
    kind = formula.kind
    path_read = formula.readings[0].path if len(formula.readings) == 1 else ()
    if len(path_read) == 2 and path_read[0] == "params" and formula.text == f"params.{path_read[1]}":
        parameter = job.parameters.get(str(path_read[1]))
        kind = parameter.type if parameter is not None else "list"
    if kind not in ("list", "dyn"):
        yield Fault((*path, "over"), f"{{{{ {formula.text} }}}} is {kind}, and a map goes over a list")


def _call_faults(action: JobAction, job: JobSpec, jobs: Mapping[str, JobSpec], path: Path) -> Iterator[Fault]:
    """Check a call of another job against what that one takes."""
    called = jobs.get(action.job)
    if called is None:
        if "{{" not in action.job:
            yield Fault((*path, "job"), f"unknown job '{action.job[:100]}'", nearest(action.job[:100], list(jobs)))
        return
    for name, value in action.parameters.items():
        here = (*path, "parameters", name)
        parameter = called.parameters.get(name)
        if parameter is None:
            hint = nearest(name[:100], list(called.parameters)) if called.parameters else "it takes none"
            yield Fault(here, f"the job '{called.name}' has no parameter '{name[:60]}'", hint)
            continue
        secret = _secret_in(value, job)
        if secret and not parameter.secret:
            hint = f"mark the parameter of '{called.name}' as secret"
            yield Fault(here, f"{secret} would be kept in the clear by the run that is started", hint)
        if value is not None and not _has_template(value) and (mistake := mistake_of(parameter, value)) is not None:
            yield Fault(here, *mistake)
    for name, parameter in called.parameters.items():
        if is_required(parameter) and action.parameters.get(name) is None:
            yield Fault((*path, "parameters"), f"the job '{called.name}' wants the parameter '{name}'", parameter.doc)


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts_in(item)


def _has_template(value: Any) -> bool:
    return any("{{" in text for text in _texts_in(value))


def _secret_in(value: Any, job: JobSpec) -> str:
    return next((found for text in _texts_in(value) if (found := reads_secret(text, job))), "")


def _calls_in_circles(jobs: Sequence[JobSpec], at: Mapping[str, int]) -> Iterator[Fault]:
    """Report jobs that call each other, or themselves, without end."""
    places: dict[tuple[str, str], Path] = {}
    calls: dict[str, list[str]] = {}
    for index, job in enumerate(jobs):
        if at[job.name] != index:
            continue
        calls[job.name] = []
        for step_index, step in enumerate(job.steps):
            for below, action in actions_of(step):
                if isinstance(action, JobAction):
                    calls[job.name].append(action.job)
                    places.setdefault((job.name, action.job), (index, "steps", step_index, *below, "job"))
    for name, called in calls.items():
        if name in called:
            yield Fault(places[name, name], f"the job '{name}' would call itself without end")
    for cycle in circles(calls):
        yield Fault(places[cycle[0], cycle[1]], f"the jobs call each other in a circle: {' → '.join(cycle)}")


def job_warnings(jobs: Sequence[JobSpec]) -> Iterator[str]:
    """Yield what is allowed and yet worth a line in the log when the configuration is taken over."""
    for job in jobs:
        for name, value in job.secrets.items():
            if len(value.strip()) < SHORTEST_CHARS:
                yield f"job {job.name}: the secret '{name}' is shorter than {SHORTEST_CHARS} characters and not masked"


# Runs on any machine, so that the first run can be tried at once.
EXAMPLE = """
- name: hello
  doc: Asks Dogwatch itself how it is, three times.
  parameters:
    greeting: {default: hello, doc: what is said}
  steps:
    - name: health
      http: http://127.0.0.1:8410/healthz
      retry: {attempts: 3}
    - name: rest
      wait: 2s

# - name: deploy
#   parameters:
#     version: {pattern: 'v[0-9.]+'}
#   secrets: {token: '${file:/run/secrets/deploy}'}
#   concurrency: {policy: queue}
#   steps:
#     - name: ask
#       approve: {by: ['group:ops'], message: 'deploy {{ params.version }}?', expires: 30m}
#     - name: deploy
#       http:
#         url: https://deploy.example/api
#         headers: {Authorization: 'Bearer {{ secrets.token }}'}
#         json: {version: '{{ params.version }}'}
"""


def jobs_section(registry: Registry[Any]) -> Section[list[JobSpec]]:
    """Return the `jobs` section over the kinds of a registry."""
    return Section(
        key="jobs",
        type=list[JobSpec],
        doc="What can be run, in steps: by hand, by a schedule, a webhook or a rule.",
        default=list,
        families={Action: registry},
        check=_check,
        example=EXAMPLE,
    )


def _check(jobs: list[JobSpec]) -> Iterable[Fault]:
    return check_jobs(jobs)
