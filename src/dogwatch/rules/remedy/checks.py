"""Checks of what is done against the jobs that there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from dogwatch.config.section import Fault, Section
from dogwatch.rules.remedy.compile import Source, job_faults
from dogwatch.rules.spec import Across


def across(sources: Callable[[Any], Iterable[Source]], jobs: Section[Any]) -> Across:
    """Return what checks the actions of a section: their options, templates, and the jobs that they call."""

    def check(specs: list[Any], get: Callable[[Section[Any]], Any]) -> Iterator[Fault]:
        yield from job_faults(sources(specs), list(get(jobs)))

    return check
