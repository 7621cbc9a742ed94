"""Jobs as the configuration files have them, without a daemon: `job check` and `job plan`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
import msgspec

from dogwatch.access.actor import Actor
from dogwatch.cli.config import Excerpts, find_paths
from dogwatch.cli.output import print_json
from dogwatch.config.load import Loader
from dogwatch.core.component import nearest
from dogwatch.daemon.sections import SECTIONS
from dogwatch.engine.plan import plan
from dogwatch.engine.spec import JobSpec
from dogwatch.errors import ConfigError, NotFound
from dogwatch.features import JOBS


def _loader(paths: Sequence[str]) -> Loader:
    environ = dict(os.environ)
    return Loader(find_paths(paths, environ), SECTIONS, environ=environ)


def check_jobs(paths: Sequence[str], *, as_json: bool) -> int:
    """Print every mistake of the files that concerns jobs, and return the exit code."""
    loader = _loader(paths)
    parsed = loader.parse()
    try:
        jobs = loader.validate(parsed).get(JOBS)
    except ConfigError as error:
        # A file that cannot be read as a whole may hold jobs: what has no section counts.
        found = [one for one in error.problems if one.path.startswith("jobs") or "." not in one.path]
        others = len(error.problems) - len(found)
        if as_json:
            print_json({"ok": False, "problems": [_shown(one) for one in error.problems]})
            return error.exit_code
        excerpts = Excerpts(loader.catalog)
        for problem in found:
            click.echo(f"{problem}\n{excerpts.of(problem)}", err=True, nl=False)
        told = [f"{len(found)} problem{'' if len(found) == 1 else 's'} with jobs"] if found else []
        if others:
            told.append(f"{others} elsewhere: dogwatch config check")
        click.echo(", ".join(told), err=True)
        return error.exit_code
    if as_json:
        print_json({"ok": True, "jobs": [job.name for job in jobs]})
    else:
        steps = sum(len(job.steps) for job in jobs)
        click.echo(f"ok: {len(jobs)} job{'' if len(jobs) == 1 else 's'}, {steps} step{'' if steps == 1 else 's'}")
    return 0


def _shown(one: Any) -> dict[str, Any]:
    return {"message": one.message, "path": one.path, "file": one.file, "line": one.line, "hint": one.hint}


def plan_job(
    name: str, parameters: Callable[[Mapping[str, str]], Mapping[str, Any]], paths: Sequence[str]
) -> dict[str, Any]:
    """Return what a run would do, as the API says it. parameters: reads them by their types.

    Raises: ConfigError, NotFound, UsageError.
    """
    jobs: list[JobSpec] = _loader(paths).load().get(JOBS)
    job = _find(name, jobs)
    given = parameters({key: one.type for key, one in job.parameters.items()})
    actor = Actor(kind="local", name=os.environ.get("USER", "shell"))
    found = plan(job, given, jobs={one.name: one for one in jobs}, actor=actor)
    # As the daemon would answer, so that both can be printed alike.
    from dogwatch.web.api.jobs import plan_out

    shown: dict[str, Any] = msgspec.to_builtins(plan_out(found))
    return shown


def _find(name: str, jobs: Sequence[JobSpec]) -> JobSpec:
    for job in jobs:
        if job.name == name:
            return job
    known = nearest(name, [job.name for job in jobs]) if jobs else "the configuration has no jobs"
    raise NotFound(f"no job is called '{name}'", hint=known)
