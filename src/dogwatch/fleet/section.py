"""The `fleet:` section: hosts and groups of our own, and the sources of others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from dogwatch.config.section import Fault, Path, Section
from dogwatch.core.component import nearest
from dogwatch.core.units import Secret
from dogwatch.fleet.inventory.draft import ALL, UNGROUPED, name_fault
from dogwatch.fleet.inventory.ranges import expand, has_range
from dogwatch.fleet.inventory.sources import SOURCES, Source

Port = Annotated[int, Meta(ge=1, le=65535)]


class Reach(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How hosts are reached, and what is said of them.

    address: where it answers, if not at its name. port: of SSH. user: to log in as. key: file of a private key.
    password: to log in with, where no key will do: `${file:…}`. connection: ssh, local or docker. jump: hosts to go
    through, `user@bastion:22`. become: whether commands run as another user. become_method: sudo or su. become_user:
    as whom. become_password: what sudo or su asks for: `${file:…}`. labels: for target expressions. vars: variables.
    """

    address: str | None = None
    port: Port | None = None
    user: str | None = None
    key: str | None = None
    password: Secret | None = None
    connection: str | None = None
    jump: str | None = None
    become: bool | None = None
    become_method: str | None = None
    become_user: str | None = None
    become_password: Secret | None = None
    labels: Mapping[str, str] = {}
    vars: Mapping[str, Any] = {}


class HostEntry(Reach, frozen=True, kw_only=True):
    """A host, or all hosts of a range."""


class GroupEntry(Reach, frozen=True, kw_only=True):
    """A group of hosts, and what holds for all of them.

    hosts: names or ranges, `web[01-20]`; those that no source knows are new hosts. children: groups that belong to it.
    """

    hosts: tuple[str, ...] = ()
    children: tuple[str, ...] = ()


class Fleet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hosts and groups.

    sources: inventories elsewhere, a later one stronger than an earlier one. hosts: by name or range. groups: by name.
    playbooks: name → file of the playbooks that API and console offer.
    """

    sources: tuple[Source, ...] = ()
    hosts: Mapping[str, HostEntry] = {}
    groups: Mapping[str, GroupEntry] = {}
    playbooks: Mapping[str, str] = {}


# Our option → the variable that stands for it, so that there is one precedence for all of them.
VARIABLES: Mapping[str, str] = {
    "address": "ansible_host",
    "port": "ansible_port",
    "user": "ansible_user",
    "key": "ansible_ssh_private_key_file",
    "password": "ansible_password",
    "connection": "ansible_connection",
    "jump": "dogwatch_jump",
    "become": "ansible_become",
    "become_method": "ansible_become_method",
    "become_user": "ansible_become_user",
    "become_password": "ansible_become_password",
}
_CONNECTIONS = ("ssh", "local", "docker")
_METHODS = ("sudo", "su")
_PLAYBOOK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


def check(fleet: Fleet) -> Iterator[Fault]:
    for name, host in fleet.hosts.items():
        yield from _names(name, ("hosts", name))
        yield from _reach(host, ("hosts", name))
    for name in fleet.playbooks:
        if not _PLAYBOOK.fullmatch(name):
            yield Fault(("playbooks", name), "cannot be the name of a playbook: letters, digits, - and _")
    for name, group in fleet.groups.items():
        if fault := name_fault(name):
            yield Fault(("groups", name), f"cannot be the name of a group: {fault}")
        yield from _reach(group, ("groups", name))
        for at, host_name in enumerate(group.hosts):
            yield from _names(host_name, ("groups", name, "hosts", at))
        for at, child in enumerate(group.children):
            known = [*fleet.groups, ALL, UNGROUPED]
            # A source may bring the group; that is seen when the sources are read.
            if child not in known and not fleet.sources:
                yield Fault(("groups", name, "children", at), f"there is no group '{child}'", nearest(child, known))


def _names(pattern: str, path: Path) -> Iterator[Fault]:
    try:
        names = expand(pattern) if has_range(pattern) else [pattern]
    except ValueError as error:
        yield Fault(path, str(error))
        return
    if fault := name_fault(names[0]):
        yield Fault(path, f"cannot be the name of a host: {fault}")


def _reach(entry: Reach, path: Path) -> Iterator[Fault]:
    if entry.connection is not None and entry.connection not in _CONNECTIONS:
        yield Fault(
            (*path, "connection"), f"unknown connection '{entry.connection}'", nearest(entry.connection, _CONNECTIONS)
        )
    if entry.become_method is not None and entry.become_method not in _METHODS:
        yield Fault(
            (*path, "become_method"), f"unknown method '{entry.become_method}'", nearest(entry.become_method, _METHODS)
        )


FLEET: Section[Fleet] = Section(
    key="fleet",
    type=Fleet,
    doc="Hosts and groups that commands run on: written here, or read from other inventories.",
    default=Fleet,
    families={Source: SOURCES},
    check=check,
)
