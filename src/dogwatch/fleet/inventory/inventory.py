"""The merged inventory: hosts, groups, and for every variable of a host the layers that it could come from.

Precedence, the weakest first, as Ansible has it:
1. variables of `all`, then of groups, written in inventories (parents before children, then `ansible_group_priority`,
   then by name; for the same group, sources in the order given);
2. `group_vars/all`, then other `group_vars/`, in the same order; our own `fleet.groups` are here, as the last source;
3. a host's variables in inventories, then in `host_vars/`; our own `fleet.hosts` are here, as the last source.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import msgspec

from dogwatch.core.component import nearest
from dogwatch.errors import NotFound, Problem
from dogwatch.fleet.inventory.draft import ALL, UNGROUPED, Draft, Place, Setting, Settings


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A group. hosts: those that it names itself. members: those and the ones of its children. depth: below `all`."""

    name: str
    place: Place
    hosts: tuple[str, ...] = ()
    children: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    members: frozenset[str] = frozenset()
    depth: int = 1


class Layer(msgspec.Struct, frozen=True):
    """Variables from one place. owner: `group web` or `host web01`."""

    owner: str
    settings: Mapping[str, Setting]


class Sourced(msgspec.Struct, frozen=True):
    """A variable as it is in force, and the values that it overrode, the strongest first."""

    value: Any
    owner: str
    place: Place
    overridden: tuple[tuple[str, Setting], ...] = ()


class Inventory:
    """Hosts by name and groups; built by `merge`."""

    def __init__(
        self,
        hosts: Mapping[str, Place],
        groups: Mapping[str, Group],
        layers: Mapping[str, tuple[Layer, ...]],
        own: Mapping[str, tuple[Layer, ...]],
        labels: tuple[Mapping[str, Settings], Mapping[str, Settings]],
        warnings: Sequence[Problem] = (),
    ) -> None:
        self.hosts = hosts
        self.groups = groups
        self.warnings = tuple(warnings)
        # group → its layers by tier is kept apart from hosts': thousands of hosts share them.
        self._group_layers = layers
        self._host_layers = own
        self._host_labels, self._group_labels = labels
        self._of: dict[str, tuple[str, ...]] = {}
        self._chains: dict[tuple[str, ...], tuple[Layer, ...]] = {}
        for name in sorted(groups, key=lambda one: (groups[one].depth, self._priority(one), one)):
            for host in groups[name].members:
                self._of[host] = (*self._of.get(host, ()), name)

    def __contains__(self, host: object) -> bool:
        return host in self.hosts

    def groups_of(self, host: str) -> tuple[str, ...]:
        """Return every group that the host is in, weakest first; `all` among them."""
        return self._of.get(host, (ALL,))

    def layers(self, host: str) -> tuple[Layer, ...]:
        """Return every layer of the host's variables, weakest first. Raises: NotFound."""
        if host not in self.hosts:
            raise NotFound(f"there is no host '{host}'", hint=nearest(host, list(self.hosts)))
        groups = self.groups_of(host)
        chain = self._chains.get(groups)
        if chain is None:
            inline = [layer for name in groups for layer in self._group_layers.get(f"inline {name}", ())]
            files = [layer for name in groups for layer in self._group_layers.get(f"files {name}", ())]
            chain = self._chains[groups] = (*inline, *files)
        return (*chain, *self._host_layers.get(host, ()))

    def variable(self, host: str, name: str) -> Any:
        """Return one variable's value, None where it has none."""
        for layer in reversed(self.layers(host)):
            if name in layer.settings:
                return layer.settings[name].value
        return None

    def variables(self, host: str) -> dict[str, Any]:
        """Return the host's variables as they are in force."""
        return {name: setting.value for layer in self.layers(host) for name, setting in layer.settings.items()}

    def sourced(self, host: str) -> dict[str, Sourced]:
        """Return the host's variables with where each came from and what it overrode."""
        found: dict[str, Sourced] = {}
        for layer in self.layers(host):
            for name, setting in layer.settings.items():
                before = found.get(name)
                passed = (
                    () if before is None else ((before.owner, Setting(before.value, before.place)), *before.overridden)
                )
                found[name] = Sourced(setting.value, layer.owner, setting.place, passed)
        return dict(sorted(found.items()))

    def labels(self, host: str) -> dict[str, str]:
        """Return the host's labels: of its groups, the nearer the stronger, then its own."""
        found: dict[str, str] = {}
        for settings in [
            *(self._group_labels.get(name, {}) for name in self.groups_of(host)),
            self._host_labels.get(host, {}),
        ]:
            found.update((name, str(setting.value)) for name, setting in settings.items())
        return found

    def label(self, host: str, name: str) -> str | None:
        """Return a label, or where there is none of that name the variable: Ansible's inventories have no labels."""
        found = self._host_labels.get(host, {}).get(name)
        if found is None:
            of_groups = [self._group_labels[group] for group in self.groups_of(host) if group in self._group_labels]
            found = next((one[name] for one in reversed(of_groups) if name in one), None)
        value = self.variable(host, name) if found is None else found.value
        return None if value is None or isinstance(value, dict | list) else _text(value)

    def label_names(self) -> set[str]:
        """Return every name that a label expression can use."""
        names = {name for labels in (self._host_labels, self._group_labels) for one in labels.values() for name in one}
        for layers in (self._group_layers, self._host_layers):
            names.update(name for chain in layers.values() for layer in chain for name in layer.settings)
        return names

    def matching(self, pattern: str) -> list[str]:
        """Return the hosts whose names match a glob."""
        return fnmatch.filter(self.hosts, pattern)

    def only(self, hosts: Set[str]) -> Inventory:
        """Return the inventory as if there were no other hosts, nor groups and variables of those alone."""
        groups = {
            name: msgspec.structs.replace(
                group,
                hosts=tuple(host for host in group.hosts if host in hosts),
                members=group.members & hosts,
                children=tuple(one for one in group.children if self.groups[one].members & hosts),
            )
            for name, group in self.groups.items()
            if group.members & hosts or name in (ALL, UNGROUPED)
        }
        layers = {key: found for key, found in self._group_layers.items() if key.partition(" ")[2] in groups}
        own = {name: found for name, found in self._host_layers.items() if name in hosts}
        of_hosts = {name: found for name, found in self._host_labels.items() if name in hosts}
        of_groups = {name: found for name, found in self._group_labels.items() if name in groups}
        kept = {name: place for name, place in self.hosts.items() if name in hosts}
        return Inventory(kept, groups, layers, own, (of_hosts, of_groups))

    def _priority(self, group: str) -> int:
        for layer in self._group_layers.get(f"inline {group}", ()):
            setting = layer.settings.get("ansible_group_priority")
            if setting is not None and str(setting.value).isdigit():
                return int(str(setting.value))
        return 1


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def merge(drafts: Iterable[Draft]) -> tuple[Inventory, list[Problem]]:
    """Return the inventory of all sources, the last the strongest, and every problem of all of them."""
    given = list(drafts)
    problems = [problem for draft in given for problem in draft.problems]
    warnings = [warning for draft in given for warning in draft.warnings]
    hosts: dict[str, Place] = {}
    for draft in given:
        for name, host in draft.hosts.items():
            hosts.setdefault(name, host.place)
    groups, faults = _groups(given, hosts)
    problems += faults
    warnings += [
        Problem(f"'{name}' is a host and a group; a bare name means the host, '@{name}' the group", file=str(place))
        for name, place in hosts.items()
        if name in groups
    ]
    inventory = Inventory(
        hosts,
        groups,
        _group_layers(given),
        _host_layers(given),
        (_labels(draft.hosts for draft in given), _labels(draft.groups for draft in given)),
        warnings,
    )
    return inventory, problems


def _labels(of: Iterable[Mapping[str, Any]]) -> dict[str, Settings]:
    found: dict[str, Settings] = {}
    for members in of:
        for name, member in members.items():
            if member.labels:
                found.setdefault(name, {}).update(member.labels)
    return found


def _group_layers(drafts: Sequence[Draft]) -> dict[str, tuple[Layer, ...]]:
    layers: dict[str, tuple[Layer, ...]] = {}
    for draft in drafts:
        for name, group in draft.groups.items():
            for tier, settings in (("inline", group.vars), ("files", group.file_vars)):
                if settings:
                    key = f"{tier} {name}"
                    layers[key] = (*layers.get(key, ()), Layer(f"group {name}", settings))
    return layers


def _host_layers(drafts: Sequence[Draft]) -> dict[str, tuple[Layer, ...]]:
    layers: dict[str, tuple[Layer, ...]] = {}
    for tier in ("vars", "file_vars"):
        for draft in drafts:
            for name, host in draft.hosts.items():
                settings = getattr(host, tier)
                if settings:
                    layers[name] = (*layers.get(name, ()), Layer(f"host {name}", settings))
    return layers


def _groups(drafts: Sequence[Draft], hosts: Mapping[str, Place]) -> tuple[dict[str, Group], list[Problem]]:
    """Return the groups of all sources with their members worked out, and the cycles among them."""
    places: dict[str, Place] = {ALL: Place("built in"), UNGROUPED: Place("built in")}
    named: dict[str, dict[str, Place]] = {}
    children: dict[str, dict[str, Place]] = {}
    for draft in drafts:
        for name, group in draft.groups.items():
            if places.get(name, Place("built in")).file == "built in":
                places[name] = group.place
            named.setdefault(name, {}).update(group.hosts)
            children.setdefault(name, {}).update(group.children)
    problems = _cut_cycles(children)
    for name, below in children.items():
        below.pop(name, None)
        for child in below:
            places.setdefault(child, below[child])
    members: dict[str, frozenset[str]] = {}
    parents: dict[str, list[str]] = {}
    for name in _leaves_first(places, children):
        found = set(named.get(name, ()))
        for child in children.get(name, ()):
            found |= members[child]
            parents.setdefault(child, []).append(name)
        members[name] = frozenset(found)
    grouped = frozenset().union(*(members[name] for name in places if name not in (ALL, UNGROUPED)), frozenset())
    members[ALL] = frozenset(hosts)
    members[UNGROUPED] = frozenset(hosts) - grouped
    depths = _depths(places, children)
    groups = {
        name: Group(
            name=name,
            place=place,
            hosts=tuple(named.get(name, ())),
            children=tuple(children.get(name, ())),
            parents=tuple(parents.get(name, () if name == ALL else (ALL,))),
            members=members[name],
            depth=depths[name],
        )
        for name, place in places.items()
    }
    return groups, problems


def _cut_cycles(children: dict[str, dict[str, Place]]) -> list[Problem]:
    """Take out the edges that close a cycle, so that the rest can be worked with; return what was wrong."""
    problems: list[Problem] = []
    done: set[str] = set()
    for start in list(children):
        path: list[str] = []
        stack: list[tuple[str, list[str]]] = [(start, list(children.get(start, ())))] if start not in done else []
        path += [start] if stack else []
        while stack:
            name, rest = stack[-1]
            if not rest:
                stack.pop()
                path.pop()
                done.add(name)
                continue
            child = rest.pop(0)
            if child in path:
                place = children[name].pop(child)
                circle = " > ".join([*path[path.index(child) :], child])
                problems.append(Problem(f"groups contain each other: {circle}", file=place.file, line=place.line))
            elif child not in done:
                path.append(child)
                stack.append((child, list(children.get(child, ()))))
    return problems


def _leaves_first(names: Iterable[str], children: Mapping[str, Mapping[str, Place]]) -> list[str]:
    order: dict[str, None] = {}
    for start in names:
        stack = [(start, False)]
        while stack:
            name, ready = stack.pop()
            if name in order:
                continue
            if ready:
                order[name] = None
                continue
            stack.append((name, True))
            stack += [(child, False) for child in children.get(name, ()) if child not in order]
    return list(order)


def _depths(names: Iterable[str], children: Mapping[str, Mapping[str, Place]]) -> dict[str, int]:
    """Return how far below `all` each group is, by its longest way: a child is stronger than all its parents."""
    depths = {name: 0 if name == ALL else 1 for name in names}
    for name in reversed(_leaves_first(names, children)):
        for child in children.get(name, ()):
            depths[child] = max(depths[child], depths[name] + 1)
    return depths
