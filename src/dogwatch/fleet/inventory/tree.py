"""Inventories that are trees: Ansible's YAML files, and the JSON that executable inventories print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dogwatch.core.component import nearest
from dogwatch.fleet.inventory.draft import ALL, Draft, DraftGroup, Place, Setting, shown
from dogwatch.fleet.inventory.ini import split_port
from dogwatch.fleet.inventory.lined import Lined, read_yaml
from dogwatch.fleet.inventory.ranges import expand, has_range

_KEYS = ("hosts", "vars", "children")
_DEPTH = 50


def read_tree(file: str, text: str, draft: Draft) -> None:
    """Put what an Ansible YAML inventory says into the draft."""
    root, problems = read_yaml(file, text)
    draft.problems += problems
    if root is None:
        if not problems:
            draft.warn(Place(file), "is empty")
        return
    if not isinstance(root, Lined):
        draft.problem(Place(file, 1), "expected groups such as 'all:' at the top")
        return
    if "plugin" in root:
        hint = "write its hosts down, or use an executable inventory: `ansible-inventory -i FILE --list`"
        draft.problem(Place(file, root.lines["plugin"]), "inventory plugins of Ansible are not run here", hint)
        return
    for name, value in root.items():
        _group(str(name), value, Place(file, root.lines.get(name, root.line)), draft, 0)


def _group(name: str, value: Any, place: Place, draft: Draft, depth: int) -> None:
    group = draft.group(name, place)
    if value is None:
        return
    if not isinstance(value, Lined):
        draft.problem(place, f"group '{name}': expected {', '.join(_KEYS)} below it")
        return
    if depth > _DEPTH:
        draft.problem(place, f"groups are more than {_DEPTH} levels deep")
        return
    for key, item in value.items():
        at = Place(place.file, value.lines.get(key, value.line))
        if key not in _KEYS:
            draft.warn(
                at, f"group '{name}': unknown key {shown(str(key))} is passed over", nearest(str(key), list(_KEYS))
            )
        elif item is None:
            continue
        elif key == "hosts" and isinstance(item, str):
            _hosts(group, {item: None}, at, draft)
        elif not isinstance(item, Lined):
            hint = "each with a colon, '- ' is not used here" if isinstance(item, list) else ""
            draft.problem(at, f"group '{name}': '{key}' must be a mapping", hint)
        elif key == "hosts":
            _hosts(group, item, at, draft)
        elif key == "vars":
            draft.set_vars(group.vars, item, at)
        else:
            for child, below in item.items():
                spot = Place(place.file, item.lines.get(child, item.line))
                group.children.setdefault(str(child), spot)
                _group(str(child), below, spot, draft, depth + 1)


def _hosts(group: DraftGroup, hosts: Mapping[Any, Any], place: Place, draft: Draft) -> None:
    lines: Mapping[Any, int] = getattr(hosts, "lines", {})
    for pattern, settings in hosts.items():
        at = Place(place.file, lines.get(pattern, place.line))
        name, port = split_port(str(pattern))
        try:
            names = expand(name) if has_range(name) else [name]
        except ValueError as error:
            draft.problem(at, f"{shown(name)}: {error}")
            continue
        if settings is not None and not isinstance(settings, Mapping):
            draft.problem(at, f"the variables of {shown(str(pattern))} must be a mapping")
            continue
        for one in names:
            host = draft.host(one, at)
            if host is None:
                continue
            group.hosts.setdefault(one, at)
            if port is not None:
                host.vars.setdefault("ansible_port", Setting(port, at))
            if settings:
                draft.set_vars(host.vars, settings, at)


def read_listing(file: str, root: Any, draft: Draft) -> bool:
    """Put what an executable inventory printed for --list into the draft; return whether it gave `_meta.hostvars`."""
    place = Place(file)
    if not isinstance(root, Mapping):
        draft.problem(place, "printed JSON that is not an object of groups")
        return True
    meta = root.get("_meta")
    has_meta = isinstance(meta, Mapping) and isinstance(meta.get("hostvars"), Mapping)
    for name, listed in root.items():
        if name == "_meta":
            continue
        group = draft.group(str(name), place)
        value = {"hosts": listed} if isinstance(listed, list) else listed
        if not isinstance(value, Mapping):
            draft.problem(place, f"group {shown(str(name))} must be an object or a list of hosts")
            continue
        _listed(group, value, place, draft)
    if has_meta:
        there = listed_hosts(root)
        strangers = [str(name) for name in meta["hostvars"] if str(name) not in there]  # type: ignore[index]
        if strangers:
            told = f"{shown(strangers[0])}{f' and {len(strangers) - 1} more' if strangers[1:] else ''}"
            draft.warn(place, f"variables of hosts that are in no group are passed over: {told}")
        for name, settings in meta["hostvars"].items():  # type: ignore[index]
            host = draft.host(str(name), place) if str(name) in there else None
            if host is not None and isinstance(settings, Mapping):
                draft.set_vars(host.vars, settings, place)
    return has_meta


def listed_hosts(root: Mapping[str, Any]) -> dict[str, None]:
    """Return the hosts of a listing's groups, in their order."""
    found: dict[str, None] = {}
    for name, group in root.items():
        hosts = group.get("hosts") if isinstance(group, Mapping) else group
        if name != "_meta" and isinstance(hosts, list):
            found.update(dict.fromkeys(map(str, hosts)))
    return found


def _listed(group: DraftGroup, value: Mapping[str, Any], place: Place, draft: Draft) -> None:
    for key, kind in (("hosts", list), ("children", list), ("vars", dict)):
        item = value.get(key)
        if item is not None and not isinstance(item, kind):
            draft.problem(place, f"group '{group.name}': '{key}' must be {'an object' if kind is dict else 'a list'}")
            continue
        if key == "vars":
            draft.set_vars(group.vars, dict(item or {}), place)
            continue
        for name in item or ():
            if key == "children":
                group.children.setdefault(str(name), place)
                draft.group(str(name), place, declared=True)
            elif draft.host(str(name), place) is not None and group.name != ALL:
                group.hosts.setdefault(str(name), place)
