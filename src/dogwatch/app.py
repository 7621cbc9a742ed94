"""The one place where parts are joined."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import msgspec

from dogwatch.config.status import ReloadControl
from dogwatch.core.bus import Bus
from dogwatch.core.clock import Clock
from dogwatch.core.metrics import Family
from dogwatch.hosts.view import HostsView
from dogwatch.probes.view import WatchView
from dogwatch.store.protocol import Store


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that must be well for the daemon to be ready."""

    name: str
    ok: bool
    message: str = ""


class Services(msgspec.Struct, kw_only=True):
    """What web and the admin socket are given of the running program."""

    version: str
    clock: Clock
    bus: Bus
    store: Store
    watch: WatchView
    hosts: HostsView
    reload: ReloadControl
    metrics: Callable[[], Iterable[Family]]
    readiness: Callable[[], Sequence[Readiness]]
    # Findings of the self-watch (descriptors near their limit, steady growth), as plain mappings for JSON.
    findings: Callable[[], Sequence[dict[str, object]]]
    # `/probe` as blackbox_exporter answers it: (query, request headers in lower case) → (HTTP status, content type,
    # text). None where there is none.
    blackbox: Callable[[Mapping[str, str], Mapping[str, str]], Awaitable[tuple[int, str, str]]] | None = None
