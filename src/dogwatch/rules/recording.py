"""Recorded signals as a file: for a library of past outages, and for backtests without a daemon.

The format, version 1: the line `dogwatch signals 1`, then frames: their length and the CRC-32 of their body (both 4
bytes, little endian), then the body, a MessagePack array that begins with its kind:

- `head`, {made_s, since_s, until_s, alive, targets, hosts}: what is in it. alive: stretches in which somebody watched.
- `alerts`, [begun_s, ended_s or nil, alert]…: when alerts of others were out. Who does not know it leaves it out.
- `chunk`, begin_s, end_s: what follows lies in begin_s <= t < end_s.
- `results`, target, blocks, rolled, transitions: blocks as the store seals them (store.columns), roll-ups before them.
- `samples`, host, series, blocks, rolled.
- `end`, frames: how many came before; a file without it was cut off.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, BinaryIO

import msgspec

from dogwatch.core.values import Status, Transition
from dogwatch.errors import PermanentError
from dogwatch.rules.names import HOST_SERIES
from dogwatch.rules.outside.firing import Firing, Scene
from dogwatch.rules.topology import Node
from dogwatch.rules.watcher import Alert
from dogwatch.store.protocol import Store
from dogwatch.store.raw import RawResults, RawSamples, Rolled

MAGIC = b"dogwatch signals 1\n"
CHUNK_S = 6 * 3600.0
_TOGETHER = 64
_MOST_FRAME = 256 * 1024 * 1024
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What a file is of."""

    made_s: float
    since_s: float
    until_s: float
    alive: list[tuple[float, float]]
    targets: list[Node]
    hosts: list[str]


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk of a file. samples: by host."""

    begin_s: float
    end_s: float
    results: list[RawResults]
    samples: Mapping[str, list[RawSamples]]


def _frame(*parts: object) -> bytes:
    body = _encode(parts)
    return len(body).to_bytes(4, "little") + zlib.crc32(body).to_bytes(4, "little") + body


async def write(store: Store, scene: Scene, *, since_s: float, until_s: float, made_s: float) -> AsyncIterator[bytes]:
    """Yield a file of what the store keeps of a time."""
    nodes, hosts = scene.nodes, scene.hosts
    alive = await store.alive(since_s=since_s, until_s=until_s)
    head = Head(
        made_s=made_s,
        since_s=since_s,
        until_s=until_s,
        alive=list(alive),
        targets=list(nodes),
        hosts=list(hosts),
    )
    yield MAGIC + _frame("head", msgspec.to_builtins(head))
    frames, begin_s = 1, since_s
    if scene.firings:
        frames += 1
        rows = [(one.begun_s, one.ended_s, msgspec.to_builtins(one.alert)) for one in scene.firings]
        yield _frame("alerts", rows)
    names = [node.name for node in nodes]
    while begin_s < until_s:
        end_s = min(begin_s + CHUNK_S, until_s)
        out = [_frame("chunk", begin_s, end_s)]
        for at in range(0, len(names), _TOGETHER):
            part = names[at : at + _TOGETHER]
            found = await store.raw_results(part, since_s=begin_s, until_s=end_s)
            out += [_results(one) for one in found if one.blocks or one.fresh or one.rolled or one.transitions]
            frames += len(out)
            yield b"".join(out)
            out = []
        for host in hosts:
            samples = await store.raw_samples(host, HOST_SERIES, since_s=begin_s, until_s=end_s)
            out += [_samples(host, one) for one in samples]
        frames += len(out)
        yield b"".join(out)
        begin_s = end_s
    yield _frame("end", frames)


def _results(one: RawResults) -> bytes:
    blocks = [*one.blocks, *(rows.encode() for rows in one.fresh)]
    transitions = [(change.time_s, int(change.before), int(change.after), change.reason) for change in one.transitions]
    return _frame("results", one.target, blocks, list(one.rolled), transitions)


def _samples(host: str, one: RawSamples) -> bytes:
    blocks = [*one.blocks, *(rows.encode() for rows in one.fresh)]
    return _frame("samples", host, one.series, blocks, list(one.rolled))


class Recording:
    """A file that is read from its begin to its end, a chunk at a time."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        """Raises: PermanentError for what is no such file, or of a newer version."""
        self._stream, self._name = stream, name
        self._frames = 0
        # When alerts of others were out; known as soon as the first chunk is there.
        self.firings: list[Firing] = []
        found = stream.read(len(MAGIC))
        if found != MAGIC:
            newer = found.startswith(b"dogwatch signals ")
            raise PermanentError(
                f"{name} is {'a newer kind of' if newer else 'no'} file of recorded signals",
                hint="this Dogwatch reads version 1" if newer else "dogwatch signals export writes one",
            )
        kind, *rest = self._next() or ("", {})
        if kind != "head":
            raise self._damaged("it has no head")
        try:
            self.head = msgspec.convert(rest[0], Head)
        except msgspec.ValidationError as error:
            raise self._damaged(str(error)) from None

    def _damaged(self, why: str) -> PermanentError:
        return PermanentError(f"{self._name} is damaged: {why}", hint="export it again")

    def _next(self) -> tuple[Any, ...] | None:
        start = self._stream.read(8)
        if not start:
            raise self._damaged("it was cut off")
        length = int.from_bytes(start[:4], "little")
        if length > _MOST_FRAME:
            raise self._damaged("a part of it is too long")
        body = self._stream.read(length)
        if len(start) < 8 or len(body) < length:
            raise self._damaged("it was cut off")
        if zlib.crc32(body) != int.from_bytes(start[4:], "little"):
            raise self._damaged(f"part {self._frames + 1} is not what was written")
        frame = tuple(_decode(body))
        if frame[0] == "end":
            if frame[1] != self._frames:
                raise self._damaged("parts of it are missing")
            return None
        self._frames += 1
        return frame

    def pieces(self) -> Iterator[Piece]:
        """Yield its chunks, once. Raises: PermanentError."""
        begin_s = end_s = 0.0
        results: list[RawResults] = []
        samples: dict[str, list[RawSamples]] = {}
        begun = False
        while (frame := self._next()) is not None:
            match frame:
                case ("chunk", begin, end):
                    if begun:
                        yield Piece(begin_s=begin_s, end_s=end_s, results=results, samples=samples)
                    begun, begin_s, end_s, results, samples = True, begin, end, [], {}
                case ("alerts", rows):
                    self.firings = [
                        Firing(alert=msgspec.convert(one[2], Alert), begun_s=one[0], ended_s=one[1]) for one in rows
                    ]
                case ("results", target, blocks, rolled, transitions):
                    results.append(_read_results(target, blocks, rolled, transitions))
                case ("samples", host, series, blocks, rolled):
                    points = [(one[0], one[1], one[2]) for one in rolled]
                    samples.setdefault(host, []).append(RawSamples(series=series, blocks=blocks, rolled=points))
        if begun:
            yield Piece(begin_s=begin_s, end_s=end_s, results=results, samples=samples)


def _read_results(target: str, blocks: list[bytes], rolled: list[Any], transitions: list[Any]) -> RawResults:
    return RawResults(
        target=target,
        blocks=blocks,
        rolled=[msgspec.convert(one, Rolled) for one in rolled],
        transitions=[
            Transition(target=target, time_s=time_s, before=Status(before), after=Status(after), reason=reason)
            for time_s, before, after, reason in transitions
        ],
    )
