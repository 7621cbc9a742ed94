"""What does not fit between endpoints and the jobs that they start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dogwatch.core.component import nearest
from dogwatch.engine.parameters import is_required
from dogwatch.engine.spec import JobSpec
from dogwatch.errors import Problem
from dogwatch.webhooks.section import Endpoint


def job_problems(endpoints: Sequence[Endpoint], jobs: Sequence[JobSpec]) -> Iterator[Problem]:
    by_name = {job.name: job for job in jobs}
    for at, endpoint in enumerate(endpoints):
        if endpoint.alerts:
            continue
        job = by_name.get(endpoint.job)
        if job is None:
            hint = nearest(endpoint.job, list(by_name)) if by_name else "the section 'jobs' is empty"
            yield Problem(f"no job is called '{endpoint.job}'", path=f"hooks[{at}].job", hint=hint)
            continue
        for name in endpoint.parameters:
            if name not in job.parameters:
                told = f"the job '{job.name}' has no parameter '{name}'"
                hint = nearest(name, list(job.parameters)) if job.parameters else "it has none at all"
                yield Problem(told, path=f"hooks[{at}].parameters.{name}", hint=hint)
        for name, parameter in job.parameters.items():
            if name not in endpoint.parameters and is_required(parameter):
                told = f"the job '{job.name}' needs the parameter '{name}'"
                yield Problem(
                    told, path=f"hooks[{at}].parameters", hint=f"write {name}: and where it is in the payload"
                )
