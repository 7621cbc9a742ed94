"""Checks of what is done against the jobs and the destinations that there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from dogwatch.config.section import Fault, Section
from dogwatch.core.component import nearest
from dogwatch.rules.remedy.compile import Source, job_faults
from dogwatch.rules.spec import DOWN_RULE, Across

# An approver that is whoever gets a destination's notices.
LINK = "link:"


def across(
    sources: Callable[[Any], Iterable[Source]], jobs: Section[Any], notify: Section[Any] | None = None
) -> Across:
    """Return what checks the actions of a section: their options, templates, the jobs that they call, who is told."""

    def check(specs: list[Any], get: Callable[[Section[Any]], Any]) -> Iterator[Fault]:
        found = list(sources(specs))
        yield from job_faults(found, list(get(jobs)))
        if notify is not None:
            destinations = list(get(notify))
            for source in found:
                yield from _told(source, destinations)

    return check


def _told(source: Source, destinations: list[str]) -> Iterator[Fault]:
    path = (source.path[0], "remedy")
    named = [("approvers", at, name) for at, name in enumerate(source.remedy.approvers) if name.startswith(LINK)]
    if source.rule == DOWN_RULE:  # the section of rules looks at its own
        named += [("escalate", at, name) for at, name in enumerate(source.remedy.escalate)]
    for field, at, name in named:
        if (bare := name.removeprefix(LINK)) not in destinations:
            hint = nearest(bare, destinations) if destinations else "write it below notify"
            yield Fault((*path, field, at), f"unknown destination '{bare}'", hint)
