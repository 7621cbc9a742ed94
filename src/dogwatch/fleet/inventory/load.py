"""From the configuration and `-i` to one inventory, with every problem of every source at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dogwatch.errors import ConfigError, Problem
from dogwatch.fleet.inventory.agents import Agent
from dogwatch.fleet.inventory.draft import Draft, Place, Setting, Settings
from dogwatch.fleet.inventory.inventory import Inventory, merge
from dogwatch.fleet.inventory.ranges import expand, has_range
from dogwatch.fleet.inventory.sources import AgentsSource, Source
from dogwatch.fleet.section import VARIABLES, Fleet, Reach

# A path in the configuration → `file:line`, as Loaded.origin says it.
Origin = Callable[[tuple[str | int, ...]], str]


def load_inventory(
    fleet: Fleet,
    origin: Origin,
    *,
    more: Sequence[Source] = (),
    base: Path | None = None,
    agents: Sequence[Agent] | None = None,
) -> Inventory:
    """Read every source and merge them; `more` are those of the command line, stronger than the configuration's.

    agents: workers that this program knows; None where it knows of none.

    Raises: ConfigError with every problem.
    """
    inventory, problems = read_inventory(fleet, origin, more=more, base=base, agents=agents)
    if problems:
        raise ConfigError(problems)
    return inventory


def read_inventory(
    fleet: Fleet,
    origin: Origin,
    *,
    more: Sequence[Source] = (),
    base: Path | None = None,
    agents: Sequence[Agent] | None = None,
) -> tuple[Inventory, list[Problem]]:
    """Do the same, but return the problems beside what could be read."""
    here = base or Path()
    drafts = []
    for at, source in enumerate(fleet.sources):
        place = _place(origin(("fleet", "sources", at, source.kind)))
        drafts.append(_read(source, Path(place.file).parent if place.line else here, agents))
    drafts += [_read(source, here, agents) for source in more]
    drafts.append(own_draft(fleet, origin))
    return merge(_known_children(drafts))


def _read(source: Source, base: Path, agents: Sequence[Agent] | None) -> Draft:
    draft = Draft(source.kind)
    if isinstance(source, AgentsSource) and not source.server and agents is not None:
        source.take(agents, draft)
    else:
        source.read(base, draft)
    return draft


def _known_children(drafts: list[Draft]) -> list[Draft]:
    """Tell of children of our own groups that no source has."""
    from dogwatch.core.component import nearest

    known = {"all", "ungrouped", *(name for draft in drafts for name, group in draft.groups.items() if group.declared)}
    own = drafts[-1]
    for group in own.groups.values():
        for child, place in group.children.items():
            if child not in known:
                own.problem(place, f"there is no group '{child}'", nearest(child, list(known)))
    return drafts


def own_draft(fleet: Fleet, origin: Origin) -> Draft:
    """Return what the configuration itself says. Its variables are as strong as `host_vars/` and `group_vars/`."""
    draft = Draft("fleet")
    for pattern, entry in fleet.hosts.items():
        path = ("fleet", "hosts", pattern)
        place = _place(origin(path))
        settings, labels = _settings(entry, path, origin)
        for name in _expand(pattern):
            host = draft.host(name, place)
            if host is not None:
                host.file_vars.update(settings)
                host.labels.update(labels)
    for name, group_entry in fleet.groups.items():
        path = ("fleet", "groups", name)
        group = draft.group(name, _place(origin(path)))
        settings, labels = _settings(group_entry, path, origin)
        group.file_vars.update(settings)
        group.labels.update(labels)
        for at, pattern in enumerate(group_entry.hosts):
            place = _place(origin((*path, "hosts", at)))
            for one in _expand(pattern):
                if draft.host(one, place) is not None:
                    group.hosts.setdefault(one, place)
        for at, child in enumerate(group_entry.children):
            group.children.setdefault(child, _place(origin((*path, "children", at))))
    return draft


def _expand(pattern: str) -> Iterable[str]:
    return expand(pattern) if has_range(pattern) else (pattern,)


def _settings(entry: Reach, path: tuple[str, ...], origin: Origin) -> tuple[Settings, Settings]:
    def setting(value: Any, *below: str) -> Setting:
        return Setting(value, _place(origin((*path, *below))))

    settings: Settings = {name: setting(value, "vars", name) for name, value in entry.vars.items()}
    for option, variable in VARIABLES.items():
        value = getattr(entry, option)
        if value is not None:
            settings[variable] = setting(value, option)
    return settings, {name: setting(value, "labels", name) for name, value in entry.labels.items()}


def _place(text: str) -> Place:
    file, _, line = text.rpartition(":")
    return Place(file, int(line)) if file and line.isdigit() else Place(text)


def no_origin(_path: Mapping[str, Any] | tuple[str | int, ...]) -> str:
    """Stand for the origins of a configuration that was not read from files."""
    return "configuration"
