"""Name resolution without threads: hosts file, cache, and lookups shared by everyone who asks the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import msgspec

from dogwatch.core.metrics import Family
from dogwatch.probes.engine.addresses import Address, in_order
from dogwatch.probes.engine.lookup import Lookup
from dogwatch.probes.engine.resolvconf import ResolverConfig, parse_hosts, parse_resolv_conf

if TYPE_CHECKING:
    from dogwatch.probes.engine.engine import Engine

CACHE_ENTRIES = 10_000
# A record of TTL 0 still serves the lookups of the same moment; nothing is kept longer than an hour.
MIN_TTL_S, MAX_TTL_S = 1.0, 3600.0
# A name that is missing may appear any moment, and a watch should see it soon.
MAX_NEGATIVE_S = 15.0
REFRESH_S = 5.0

Resolved = Callable[[tuple[Address, ...], str], None]


class ResolverFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Where the resolver reads its configuration. config: used instead of resolv.conf where given."""

    resolv_conf: str = "/etc/resolv.conf"
    hosts: str = "/etc/hosts"
    config: ResolverConfig | None = None


class _Known(msgspec.Struct, frozen=True, gc=False):
    """addresses of both families, or why there are none."""

    four: tuple[str, ...]
    six: tuple[str, ...]
    message: str
    until_s: float


class _Waiter:
    """One who waits for a lookup, with a deadline of its own."""

    __slots__ = ("bucket", "done", "family", "lookup", "resolver")

    def __init__(self, resolver: Resolver, lookup: Lookup, family: str, done: Resolved) -> None:
        self.resolver = resolver
        self.lookup = lookup
        self.family = family
        self.done: Resolved | None = done
        self.bucket = 0

    def expire(self) -> None:
        done, self.done = self.done, None
        self.bucket = 0
        self.resolver.leave(self)
        if done is not None:
            done((), f"no answer from {self.lookup.servers_text()} in time")

    def cancel(self) -> None:
        self.done = None
        self.resolver.leave(self)


class Resolver:
    """Resolves names for the engine; everything it holds is bounded."""

    def __init__(self, engine: Engine, files: ResolverFiles) -> None:
        self.engine = engine
        self.config = files.config or ResolverConfig()
        self.random = random.SystemRandom()
        self.queries_total = 0
        self.failures_total = 0
        self.hits_total = 0
        self._files = files
        self._stamps: dict[str, tuple[int, int, int]] = {}
        self._hosts: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        self._cache: dict[tuple[str, str], _Known] = {}
        self._lookups: dict[tuple[str, str], tuple[Lookup, list[_Waiter]]] = {}
        self._checked_s = 0.0

    def refresh(self) -> None:
        """Read resolv.conf and hosts again if they changed; a changed file empties the cache."""
        self._checked_s = perf_counter()
        if self._files.config is None and (text := self._changed(self._files.resolv_conf)) is not None:
            self.config = parse_resolv_conf(text)
            self._cache.clear()
        if (text := self._changed(self._files.hosts)) is not None:
            self._hosts = parse_hosts(text)

    def _changed(self, name: str) -> str | None:
        """Return a file's text if it is not the one read last; a file that cannot be read is an empty one."""
        path = Path(name)
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if self._stamps.get(name) == stamp:
                return None
            text = path.read_text("utf-8", "replace")
        except OSError:
            stamp, text = (0, 0, 0), ""
            if self._stamps.get(name) == stamp:
                return None
        self._stamps[name] = stamp
        return text

    def known(self, name: str, family: str) -> tuple[Address, ...] | None:
        """Return addresses that are known without asking anyone; None if a lookup is needed, or known to fail."""
        key = name.lower().rstrip(".")
        host = self._hosts.get(key)
        if host is None and (key == "localhost" or key.endswith(".localhost")):
            host = (("127.0.0.1",), ("::1",))  # RFC 6761
        if host is not None:
            addresses = in_order(*host, family)
            if addresses:
                return addresses
        entry = self._cache.get((key, _asked(family)))
        if entry is None or entry.message or entry.until_s < perf_counter():
            return None
        self.hits_total += 1
        return in_order(entry.four, entry.six, family) or None

    def resolve(self, name: str, family: str, deadline_s: float, done: Resolved) -> Callable[[], None]:
        """See Engine.resolve."""
        now_s = perf_counter()
        if now_s - self._checked_s > REFRESH_S:
            self.refresh()
        addresses = self.known(name, family)
        if addresses is not None:
            done(addresses, "")
            return _nothing
        key = (name.lower().rstrip("."), _asked(family))
        entry = self._cache.get(key)
        if entry is not None and entry.until_s >= now_s and not in_order(entry.four, entry.six, family):
            self.hits_total += 1
            done((), entry.message or _no_such(family))
            return _nothing
        return self._join(name, key, family, deadline_s, done)

    def _join(
        self, name: str, key: tuple[str, str], family: str, deadline_s: float, done: Resolved
    ) -> Callable[[], None]:
        running = self._lookups.get(key)
        fresh = running is None
        if running is None:
            running = self._lookups[key] = (Lookup(self, name, key), [])
        lookup, waiters = running
        waiter = _Waiter(self, lookup, family, done)
        waiters.append(waiter)
        waiter.bucket = self.engine.expire_at(deadline_s, waiter)
        if fresh:
            lookup.start()
        return waiter.cancel

    def leave(self, waiter: _Waiter) -> None:
        """Take a waiter away; a lookup that nobody waits for is stopped."""
        if waiter.bucket:
            self.engine.forget(waiter.bucket, waiter)
            waiter.bucket = 0
        running = self._lookups.get(waiter.lookup.key)
        if running is None or running[0] is not waiter.lookup or waiter not in running[1]:
            return
        running[1].remove(waiter)
        if not running[1]:
            del self._lookups[waiter.lookup.key]
            waiter.lookup.stop()

    def finished(self, lookup: Lookup, four: tuple[str, ...], six: tuple[str, ...], message: str, ttl_s: float) -> None:
        """A lookup ended. message: why there are no addresses. ttl_s: 0 to keep nothing."""
        running = self._lookups.pop(lookup.key, None)
        if message:
            self.failures_total += 1
        if ttl_s > 0:
            longest_s = MAX_NEGATIVE_S if message else MAX_TTL_S
            self._keep(lookup.key, _Known(four, six, message, perf_counter() + min(max(ttl_s, MIN_TTL_S), longest_s)))
        for waiter in running[1] if running is not None else ():
            self.engine.forget(waiter.bucket, waiter)
            waiter.bucket = 0
            done, waiter.done = waiter.done, None
            if done is not None:
                addresses = in_order(four, six, waiter.family)
                done(addresses, "" if addresses else message or _no_such(waiter.family))

    def _keep(self, key: tuple[str, str], entry: _Known) -> None:
        if len(self._cache) >= CACHE_ENTRIES and key not in self._cache:
            # The oldest goes: dictionaries keep the order of insertion, and `pop` below renews it.
            del self._cache[next(iter(self._cache))]
        self._cache.pop(key, None)
        self._cache[key] = entry

    def close(self) -> None:
        for lookup, _ in list(self._lookups.values()):
            lookup.stop()
        self._lookups.clear()

    def metrics(self) -> Iterable[Family]:
        for name, kind, text, value in (
            ("queries_total", "counter", "DNS queries sent.", self.queries_total),
            ("failures_total", "counter", "DNS lookups that gave no address.", self.failures_total),
            ("cache_hits_total", "counter", "Names answered from the cache.", self.hits_total),
            ("cache_entries", "gauge", "Names in the cache.", len(self._cache)),
            ("lookups_active", "gauge", "Lookups under way.", len(self._lookups)),
        ):
            full = f"dogwatch_probe_resolver_{name}"
            yield Family(full, kind, text, [(full, value)])


def _asked(family: str) -> str:
    """Return which records are asked for: with a preference both are."""
    return family if family in {"4", "6"} else "46"


def _no_such(family: str) -> str:
    return f"the name has no IPv{family} address" if family in {"4", "6"} else "the name has no address"


def _nothing() -> None:
    """Cancel what has already ended."""
