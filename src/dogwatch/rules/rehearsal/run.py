"""A backtest from begin to end: chunks of time in, decisions out; what is kept in between does not grow with time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import msgspec

from dogwatch.rules.desk import Setting
from dogwatch.rules.incident import State
from dogwatch.rules.rehearsal.beside import Alerts, Hosts
from dogwatch.rules.rehearsal.columns import Reader
from dogwatch.rules.rehearsal.course import Chunk, Course
from dogwatch.rules.rehearsal.desk import Desk, Kept
from dogwatch.rules.rehearsal.group import Group
from dogwatch.rules.rehearsal.lines import Flags
from dogwatch.rules.rehearsal.others import Heard, Others
from dogwatch.rules.rehearsal.spans import Series
from dogwatch.rules.rehearsal.target import Beside, Place, Post
from dogwatch.rules.spec import Rule
from dogwatch.rules.topology import Node
from dogwatch.rules.watcher import TICK_S, AlertEdge
from dogwatch.store.raw import RawResults, RawSamples

# Rows that one chunk may hold, about: it bounds the memory, and what is begun anew for each chunk is cheap beside it.
CHUNK_ROWS = 24_000_000
# The same where rules look at several things together: what they say is kept until all of the chunk is there.
SMALL_ROWS = 6_000_000
LONGEST_CHUNK_S = 4 * 86_400.0
SHORTEST_CHUNK_S = 900.0
# What stands for when a host was first heard of, among the values that rules read.
_MET = frozenset(("",))
# Targets that are read together.
TOGETHER = 32


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Rules by how a backtest goes through them: of single targets, of several together, over alerts of others."""

    courses: Sequence[Course]
    groups: Sequence[Group]
    others: Sequence[Rule]

    @property
    def paths(self) -> set[str]:
        rules = [*(one.rule for one in self.courses), *(one.rule for one in self.groups)]
        return {path for rule in rules for path in rule.paths}

    @property
    def longest_s(self) -> float:
        """How far back windows look."""
        return max((0.0, *(one.longest_s for one in self.courses), *(one.longest_s for one in self.groups)))


def sort_rules(rules: Iterable[Rule]) -> Rules:
    """Return the rules that are enabled, by how a backtest goes through them."""
    on = [rule for rule in rules if rule.spec.enabled]
    seen = [rule for rule in on if rule.source != "alert"]
    return Rules(
        courses=[Course(rule) for rule in seen if not rule.spec.by],
        groups=[Group(rule) for rule in seen if rule.spec.by],
        others=[rule for rule in on if rule.source == "alert"],
    )


class Run:
    """Goes through history once, chunk by chunk: begin, take, close. signals: results and samples so far. lost: seconds
    → results that are left as means only.
    """

    def __init__(self, setting: Setting, rules: Iterable[Rule], nodes: Sequence[Node]) -> None:
        self.rules = sort_rules(rules)
        paths = self.rules.paths
        self._reader = Reader(paths)
        courses, self._groups = self.rules.courses, self.rules.groups
        self.posts = {node.name: Post(node.name, node.labels, courses, self._groups) for node in nodes}
        self._beside = Beside(Hosts(paths, self.rules.longest_s), Alerts())
        self._places: dict[str, Place] = {}
        self._heard = Heard(self.rules.others)
        self._desk = Desk(setting)
        # Alerts of others; whoever begins says what they were.
        self.others = Others()
        self._edges: list[AlertEdge] = []
        self.signals = 0
        self.lost: dict[int, int] = {}

    @property
    def kept(self) -> Kept:
        return self._desk.kept

    @property
    def state(self) -> State:
        return self._desk.state

    def host_series(self, host: str) -> Sequence[str]:
        """Return the series of a host that are to be read."""
        return self._beside.hosts.wanted(host)

    @property
    def host_values(self) -> int:
        """How many values of hosts rules read."""
        return len(self._beside.hosts.paths)

    @property
    def longest_s(self) -> float:
        return self.rules.longest_s

    def warm(self, chunk: Chunk, raw: Iterable[RawResults]) -> None:
        """Take what was before the first chunk."""
        for one in raw:
            if (post := self.posts.get(one.target)) is not None:
                post.warm(self._reader.track(one, post.words, since_s=chunk.begin_s, until_s=chunk.end_s), chunk)

    def warm_hosts(self, chunk: Chunk, samples: Iterable[tuple[str, Sequence[RawSamples]]]) -> None:
        for host, found in samples:
            self._beside.hosts.take(host, found, chunk)
        self._beside.hosts.close(chunk)

    def begin(self, chunk: Chunk, samples: Iterable[tuple[str, Sequence[RawSamples]]] = ()) -> None:
        """Begin a chunk, with what is read beside results. samples: of hosts."""
        told, heard = self.others.take(chunk)
        self._edges += told
        self._beside.alerts.take(heard)
        self._edges += self._heard.take(heard, chunk)
        hosts = self._beside.hosts
        for host, found in samples:
            self.signals += hosts.take(host, found, chunk)
        for host, met in hosts.names.items():
            place = self._places.get(host)
            if place is None:
                place = Place("host", host, {"host": host}, self.rules.courses, self._groups)
                self._places[host] = place
            self._edges += place.go(partial(self._find, host), chunk, _MET if met is not None else frozenset())

    def _find(self, host: str, path: str) -> Series | Flags:
        beside = self._beside
        if path in _MET:
            met = beside.hosts.names[host]
            assert met is not None
            return met
        return beside.alerts.of(host, host, path) if path.startswith("alert.") else beside.hosts.of(host, path)

    def take(self, chunk: Chunk, raw: Iterable[RawResults]) -> None:
        """Take the results of some targets in a chunk."""
        for one in raw:
            if (post := self.posts.get(one.target)) is None:
                continue
            track = self._reader.track(one, post.words, since_s=chunk.begin_s, until_s=chunk.end_s)
            self.signals += track.told
            for width, count in track.lost.items():
                self.lost[width] = self.lost.get(width, 0) + count
            self._edges += post.take(track, chunk, self._beside)

    def close(self, chunk: Chunk) -> None:
        """Decide a chunk all of whose results were taken."""
        for group in self._groups:
            self._edges += group.close(chunk)
        self._edges.sort(key=lambda edge: edge.time_s)
        self._desk.take(self._edges, chunk.ticks)
        self._edges = []
        self._beside.hosts.close(chunk)


def chunks(
    since_s: float, until_s: float, alive: Sequence[tuple[float, float]], *, rows_per_s: float, small: bool
) -> Iterator[Chunk]:
    """Yield the chunks of a time, with the ticks of the stretches in which somebody watched.

    The last one ends just after until_s: what happened then is in it.
    """
    room = SMALL_ROWS if small else CHUNK_ROWS
    length_s = min(LONGEST_CHUNK_S, max(SHORTEST_CHUNK_S, room / max(rows_per_s, 1e-9)))
    length_s = max(TICK_S, length_s // TICK_S * TICK_S)
    begin_s, last_s = since_s, (math.floor(until_s * 1000) + 1) / 1000
    while begin_s < last_s:
        end_s = min((begin_s // length_s + 1) * length_s, last_s)
        yield cut(begin_s, end_s, alive)
        begin_s = end_s


def cut(begin_s: float, end_s: float, alive: Sequence[tuple[float, float]]) -> Chunk:
    """Return a chunk with the ticks in it."""
    return Chunk(begin_s=begin_s, end_s=end_s, ticks=list(_ticks(begin_s, end_s, alive)))


def _ticks(begin_s: float, end_s: float, alive: Sequence[tuple[float, float]]) -> Iterator[float]:
    """Yield the ticks in begin_s <= t < end_s. The first of a stretch is the one after its begin."""
    last_s = -math.inf
    for start_s, stop_s in alive:
        place = max(start_s // TICK_S + 1, -(-begin_s // TICK_S), last_s // TICK_S + 1 if last_s > 0 else 0)
        stop = min(stop_s // TICK_S, math.ceil(end_s / TICK_S) - 1)
        while place <= stop:
            last_s = place * TICK_S
            yield last_s
            place += 1
