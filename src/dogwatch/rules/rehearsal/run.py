"""A backtest from begin to end: chunks of time in, decisions out; what is kept in between does not grow with time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from dogwatch.core.values import Signal
from dogwatch.rules.desk import Setting
from dogwatch.rules.names import by_time
from dogwatch.rules.rehearsal.columns import Reader
from dogwatch.rules.rehearsal.course import Chunk, Course
from dogwatch.rules.rehearsal.desk import Desk, Kept
from dogwatch.rules.rehearsal.group import Group
from dogwatch.rules.rehearsal.others import Others
from dogwatch.rules.rehearsal.target import Post
from dogwatch.rules.rehearsal.truth import Unsupported
from dogwatch.rules.spec import Rule
from dogwatch.rules.topology import Node
from dogwatch.rules.watcher import TICK_S, AlertEdge
from dogwatch.store.raw import RawResults

# Rows that one chunk may hold, about: it bounds the memory, and what is begun anew for each chunk is cheap beside it.
CHUNK_ROWS = 24_000_000
SMALL_ROWS = 1_500_000
LONGEST_CHUNK_S = 4 * 86_400.0
SHORTEST_CHUNK_S = 900.0
# Targets that are read together.
TOGETHER = 32


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Rules as a backtest goes through them: in columns, and those that need every signal."""

    courses: Sequence[Course]
    plain: Sequence[Rule]

    @property
    def paths(self) -> set[str]:
        found = {path for course in self.courses for path in course.paths}
        for rule in self.plain:
            found |= {path for when in rule.whens for path in when.newest.values()}
            found |= {over.path for when in rule.whens for over in when.over.values()}
        return found

    @property
    def longest_s(self) -> float:
        return max((when.longest_s for rule in self.plain for when in rule.whens), default=0.0)


def sort_rules(rules: Iterable[Rule]) -> Rules:
    """Return the rules that are enabled, by how a backtest goes through them."""
    courses, plain = [], []
    for rule in rules:
        if not rule.spec.enabled:
            continue
        try:
            courses.append(Course(rule))
        except Unsupported:
            plain.append(rule)
    return Rules(courses=courses, plain=plain)


class Run:
    """Goes through history once. signals: results so far. lost: seconds → results that are left as means only."""

    def __init__(self, setting: Setting, rules: Iterable[Rule], nodes: Sequence[Node]) -> None:
        self.rules = sort_rules(rules)
        self._reader = Reader(self.rules.paths)
        longest_s, keeps = self.rules.longest_s, bool(self.rules.plain)
        self.posts = {
            node.name: Post(node.name, dict(node.labels), self.rules.courses, longest_s, keeps=keeps) for node in nodes
        }
        self._groups = [Group(rule, self.posts) for rule in self.rules.plain]
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
    def needs_hosts(self) -> bool:
        return any(group.hosts for group in self._groups)

    @property
    def longest_s(self) -> float:
        """How far back windows look."""
        return max((self.rules.longest_s, *(course.longest_s for course in self.rules.courses)))

    def warm(self, chunk: Chunk, raw: Iterable[RawResults]) -> None:
        """Take what was before the first chunk."""
        for one in raw:
            if (post := self.posts.get(one.target)) is not None:
                track = self._reader.track(one, post.words, post.labels, since_s=chunk.begin_s, until_s=chunk.end_s)
                if not track.plain:
                    post.warm(track, chunk)

    def take(self, chunk: Chunk, raw: Iterable[RawResults]) -> None:
        """Take the results of some targets in a chunk."""
        for one in raw:
            if (post := self.posts.get(one.target)) is None:
                continue
            track = self._reader.track(
                one, post.words, post.labels, since_s=chunk.begin_s, until_s=chunk.end_s
            )  # fmt: skip
            self.signals += len(track) + len(track.extra)
            for width, count in track.lost.items():
                self.lost[width] = self.lost.get(width, 0) + count
            self._edges += post.take(track, chunk)

    def close(self, chunk: Chunk, hosts: Sequence[Signal] = ()) -> None:
        """Decide a chunk all of whose results were taken. hosts: signals of hosts, by time."""
        self.signals += len(hosts)
        told, others = self.others.take(chunk)
        self._edges += told
        beside = by_time([*hosts, *others]) if others else hosts
        for group in self._groups:
            self._edges += group.close(chunk, beside)
        self._edges.sort(key=lambda edge: edge.time_s)
        self._desk.take(self._edges, chunk.ticks)
        self._edges = []
        if self._groups:
            for post in self.posts.values():
                post.series, post.signals = None, ()


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
