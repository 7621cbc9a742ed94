"""From a host's variables to how it is reached. One table says which variable means what."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

import msgspec

from dogwatch.fleet.connection import Become, HostFailed, State
from dogwatch.fleet.inventory.lined import Sealed

_NAMES: Mapping[str, tuple[str, ...]] = {
    "address": ("ansible_host", "ansible_ssh_host"),
    "port": ("ansible_port", "ansible_ssh_port"),
    "user": ("ansible_user", "ansible_ssh_user"),
    "key": ("ansible_ssh_private_key_file", "ansible_private_key_file"),
    "password": ("ansible_password", "ansible_ssh_password", "ansible_ssh_pass"),
    "connection": ("ansible_connection",),
    "jump": ("dogwatch_jump",),
    "become": ("ansible_become", "ansible_sudo"),
    "become_method": ("ansible_become_method",),
    "become_user": ("ansible_become_user", "ansible_sudo_user"),
    "become_password": ("ansible_become_password", "ansible_become_pass", "ansible_sudo_pass"),
}
_ARGUMENTS = ("ansible_ssh_common_args", "ansible_ssh_extra_args", "ansible_ssh_args")
# Never shown, wherever they come from.
SECRET_WORDS = re.compile(r"pass(word|wd|phrase)?$|_pass_|secret|token|private_key$|api_?key", re.IGNORECASE)
_CONNECTIONS = {
    "ssh": "ssh",
    "smart": "ssh",
    "paramiko": "ssh",
    "paramiko_ssh": "ssh",
    "ansible.netcommon.libssh": "ssh",
    "local": "local",
    "ansible.builtin.local": "local",
    "ansible.builtin.ssh": "ssh",
    "docker": "docker",
    "community.docker.docker": "docker",
    "community.general.docker": "docker",
}
_REFERENCE = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """How a host is reached. None and "" leave it to OpenSSH's configuration. options: `Name value` of ssh_config."""

    host: str
    connection: str = "ssh"
    address: str = ""
    port: int | None = None
    user: str | None = None
    key: str | None = None
    password: str | None = None
    jump: str | None = None
    options: Mapping[str, str] = {}
    become: Become | None = None


def login_of(host: str, variables: Mapping[str, Any], *, sudo: bool = False) -> Login:
    """Return how a host is reached. sudo: become root whatever the variables say. Raises: HostFailed."""
    found = {name: _first(names, variables) for name, names in _NAMES.items()}
    connection = str(found["connection"] or "ssh")
    if connection not in _CONNECTIONS:
        raise HostFailed(
            State.MISCONFIGURED, f"there is no connection '{connection}'", hint="known: ssh, local, docker"
        )
    options: dict[str, str] = {}
    for name in _ARGUMENTS:
        value = _first((name,), variables)
        if value:
            options = {**_ssh_arguments(str(value), name), **options}
    become = None
    if sudo or _true(found["become"]):
        password = found["become_password"]
        become = Become(
            method=str(found["become_method"] or "sudo"),
            user=str(found["become_user"] or "root"),
            password=None if password is None else str(password),
        )
    return Login(
        host=host,
        connection=_CONNECTIONS[connection],
        address=str(found["address"] or ""),
        port=_port(found["port"]),
        user=_text(found["user"]) or options.pop("user", None),
        key=_text(found["key"]) or options.pop("identityfile", None),
        password=_text(found["password"]),
        jump=_text(found["jump"]) or options.pop("proxyjump", None),
        options=options,
        become=become,
    )


def _first(names: tuple[str, ...], variables: Mapping[str, Any]) -> Any:
    for name in names:
        if name in variables:
            return _resolved(name, variables, ())
    return None


def _resolved(name: str, variables: Mapping[str, Any], seen: tuple[str, ...]) -> Any:
    """Return a variable's value; `{{ other }}` is filled in, and anything more of Jinja is refused, not guessed."""
    value = variables[name]
    if isinstance(value, Sealed):
        raise HostFailed(
            State.MISCONFIGURED, f"{name} is sealed by Ansible Vault", hint="set it in fleet:, from a file"
        )
    if not isinstance(value, str) or "{{" not in value:
        return value

    def other(match: re.Match[str]) -> str:
        inner = match[1]
        if inner not in variables or inner in seen or inner == name:
            raise HostFailed(State.MISCONFIGURED, f"{name} refers to '{inner}', which has no value")
        return str(_resolved(inner, variables, (*seen, name)))

    filled = _REFERENCE.sub(other, value)
    if "{{" in filled or "{%" in filled:
        raise HostFailed(State.MISCONFIGURED, f"{name} is a template that is not worked out here: {value[:80]}")
    return filled


def _ssh_arguments(text: str, name: str) -> dict[str, str]:
    """Return the options of OpenSSH's command line; -o Name=value, -J, -i, -l, -p and -F."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise HostFailed(State.MISCONFIGURED, f"{name} cannot be read: {str(error).lower()}") from None
    short = {"-J": "proxyjump", "-i": "identityfile", "-l": "user", "-p": "port", "-F": "config"}
    found: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        flag, value = word[:2], word[2:]
        if flag == "-o" or flag in short:
            value = value or next(rest, "")
            if flag != "-o":
                found.setdefault(short[flag], value)
                continue
            key, _, text = value.replace("=", " ", 1).strip().partition(" ")
            found.setdefault(key.lower(), text.strip().strip('"'))
        elif flag not in ("-C", "-q", "-v", "-T", "-t", "-A", "-a", "-x", "-4", "-6"):
            raise HostFailed(State.MISCONFIGURED, f"{name}: '{word}' is not understood")
    return found


def _text(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


def _true(value: Any) -> bool:
    return value is True or str(value).lower() in ("yes", "true", "1", "on", "y")


def _port(value: Any) -> int | None:
    if value is None or value == "":
        return None
    text = str(value)
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise HostFailed(State.MISCONFIGURED, f"'{text[:40]}' is not a port")
    return int(text)
