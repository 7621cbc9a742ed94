"""How a connection failed, in the same words whichever lane it took."""

from __future__ import annotations

import errno
import socket

from dogwatch.fleet.connection import HostFailed, State
from dogwatch.fleet.login import Login


def where(login: Login) -> str:
    address = login.address or login.host
    return f"{address}:{login.port}" if login.port else address


def by_socket(error: OSError, login: Login) -> HostFailed:
    there = where(login)
    if isinstance(error, socket.gaierror):
        return HostFailed(State.UNREACHABLE, f"the name of {there} cannot be resolved")
    refused = isinstance(error, ConnectionRefusedError) or error.errno == errno.ECONNREFUSED
    # Several addresses of one name: asyncio joins what each of them said.
    if refused or (error.errno is None and "refused" in str(error).lower()):
        return HostFailed(State.REFUSED, f"{there} refuses connections")
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return HostFailed(State.LOST, f"{there} closed the connection before the login was done")
    return HostFailed(State.UNREACHABLE, f"{there} cannot be reached: {(error.strerror or str(error)).lower()}")


def host_key(login: Login, told: object, *, known: bool) -> HostFailed:
    """told: the fingerprint of what it showed, or what else is wrong with it. known: known_hosts has another."""
    there = where(login)
    if known:
        hint = "the host was made anew, or somebody is in between: find out before you change known_hosts"
        return HostFailed(
            State.WRONG_HOST_KEY, f"{there} shows another host key than known_hosts has: {told}", hint=hint
        )
    hint = "compare its fingerprint, then --accept-new-host-keys keeps it"
    return HostFailed(State.UNKNOWN_HOST_KEY, f"{there} is not in known_hosts: {told}", hint=hint)


def not_taken(login: Login) -> HostFailed:
    user = f" of {login.user}" if login.user else ""
    return HostFailed(
        State.AUTHENTICATION_FAILED, f"{where(login)} does not take the login{user}: no key or password that it knows"
    )


def closed(login: Login, phase: str) -> HostFailed:
    return HostFailed(State.LOST, f"{where(login)} closed the connection while {phase}")


def broken(login: Login, reason: object, phase: str) -> HostFailed:
    if "too many authentication failures" in str(reason).lower():
        hint = "name the key: --key, or IdentityFile with IdentitiesOnly"
        told = f"{where(login)} was offered more keys than it takes, and none that it knows"
        return HostFailed(State.AUTHENTICATION_FAILED, told, hint=hint)
    return HostFailed(State.LOST, f"{where(login)}: {str(reason).lower()} ({phase})")
