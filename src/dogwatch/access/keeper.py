"""Keeps the audit trail signed: a head every so many events and minutes, sent off the machine; old events cut."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from dogwatch.access.actor import SYSTEM
from dogwatch.access.chain import Head, Verdict
from dogwatch.access.exporters import FileExporter
from dogwatch.access.heads import HEADS_FILE, file_heads, heads_after, sign_newest, tail
from dogwatch.access.keys import Signer
from dogwatch.access.options import AuditOptions, Export
from dogwatch.access.trail import cut, event_line, events_after, verify
from dogwatch.core.clock import Clock
from dogwatch.core.deadline import woken
from dogwatch.core.metrics import Family, series
from dogwatch.errors import DogwatchError, TransientError
from dogwatch.store.database import Database, Tx

log = logging.getLogger(__name__)
_AT_ONCE = 500
_SEND_S = 15.0
_GATHER_S = 0.25
_CUT_EVERY_S = 3600.0
_RETRY_MOST_S = 300.0


class AuditKeeper:
    """One task, woken by events. folder: of the data, for the key and the file of heads."""

    def __init__(self, database: Database, folder: Path, clock: Clock, options: AuditOptions) -> None:
        self._database = database
        self._folder = folder
        self._clock = clock
        self.options = options
        self.signer = Signer(folder)
        self._woken = asyncio.Event()
        self._unsigned_since_s: float | None = None
        self._cut_at_s = -_CUT_EVERY_S
        self.broken = ""
        self.behind: dict[str, str] = {}
        self._signed = 0
        self._retry_s: dict[str, tuple[float, float]] = {}

    def wake(self) -> None:
        self._woken.set()

    async def run(self) -> None:
        """Work until cancelled."""
        stop_listening = self._database.listen("audit", self.wake)
        try:
            while True:
                wait_s = await self.step()
                if await woken(self._woken, wait_s):
                    # Many events wake it once.
                    await asyncio.sleep(_GATHER_S)
                self._woken.clear()
        finally:
            stop_listening()

    async def step(self, *, now: bool = False) -> float:
        """Do what is due, and return how long nothing will be. now: sign and send whatever there is."""
        try:
            await self._sign(now=now)
            await self._export(now=now)
            await self._retain()
        except DogwatchError as error:
            if str(error) != self.broken:
                log.error("the audit trail cannot be kept as it should: %s", error)
            self.broken = str(error)
            return 30.0
        self.broken = ""
        return min(self.options.head_after, 30.0)

    async def _sign(self, *, now: bool) -> None:
        unsigned = await self._database.read(_unsigned)
        if not unsigned:
            self._unsigned_since_s = None
            return
        clock_s = self._clock.monotonic_s()
        if self._unsigned_since_s is None:
            self._unsigned_since_s = clock_s
        waited_s = clock_s - self._unsigned_since_s
        if not now and unsigned < self.options.head_every and waited_s < self.options.head_after:
            return
        if await self._database.write(sign_newest(self.signer)) is not None:
            self._signed += 1
        self._unsigned_since_s = None
        await self._to_file()

    async def _to_file(self) -> None:
        """Append to the file beside the tables; nothing is asked of anyone for that."""
        path = self._folder / HEADS_FILE
        known = await asyncio.to_thread(file_heads, path)
        last = known[-1].number if known else 0
        heads = await self._database.read(lambda tx: heads_after(tx, last, "head", _AT_ONCE))
        if heads:
            await asyncio.to_thread(_mend, path)
            await asyncio.to_thread(FileExporter(path=str(path)).send, [_line(one) for one in heads], timeout_s=_SEND_S)

    async def _export(self, *, now: bool) -> None:
        """Send to each exporter what it has not got; one that fails is tried again and holds up no other."""
        for export in self.options.export:
            name = export.key
            due_s, wait_s = self._retry_s.get(name, (0.0, 0.0))
            if not now and self._clock.monotonic_s() < due_s:
                continue
            try:
                await self._send(export, "heads")
                if export.events:
                    await self._send(export, "events")
            except DogwatchError as error:
                if name not in self.behind:
                    log.warning("audit export to %s fails: %s", name, error)
                self.behind[name] = str(error)
                wait_s = min(max(wait_s * 2, 2.0), _RETRY_MOST_S)
                self._retry_s[name] = (self._clock.monotonic_s() + wait_s, wait_s)
            else:
                self._retry_s.pop(name, None)
                if self.behind.pop(name, ""):
                    log.info("audit export to %s works again", name)

    async def _send(self, export: Export, what: str) -> None:
        name = export.key
        while True:
            number = await self._database.read(lambda tx: _position(tx, name, what))
            lines, last = await self._database.read(_next_lines(what, number))
            if not lines:
                return
            await asyncio.to_thread(export.to.send, lines, timeout_s=_SEND_S)
            await self._database.write(lambda tx, last=last: _keep_position(tx, name, what, last))  # type: ignore[misc]

    async def _retain(self) -> None:
        now_s = self._clock.monotonic_s()
        if not self.options.keep or now_s - self._cut_at_s < _CUT_EVERY_S:
            return
        self._cut_at_s = now_s
        before_s = self._clock.now_s() - self.options.keep
        if await self._database.read(lambda tx: _older(tx, before_s)):
            removed = await self._database.write(cut(self.signer, SYSTEM, before_s))
            if removed:
                log.info("%d audit events older than access.audit.keep were removed", removed)

    async def close(self) -> None:
        """Sign what is not signed yet; sending it can wait."""
        try:
            await self._sign(now=True)
        except DogwatchError as error:
            log.error("the newest audit events are not signed: %s", error)

    def trusted(self) -> Sequence[str]:
        return (self.signer.public, *self.options.trusted_keys)

    async def verify(self, further: Iterable[Head] = ()) -> Verdict:
        """Follow the whole trail, against the heads in the tables, in the file beside them, and further ones."""
        kept = await asyncio.to_thread(file_heads, self._folder / HEADS_FILE)
        return await verify(self._database, self.trusted(), [*kept, *further])

    def metrics(self) -> Iterable[Family]:
        for name, kind, text, value in (
            ("dogwatch_audit_heads_total", "counter", "Heads of the audit trail that were signed.", self._signed),
            ("dogwatch_audit_trouble", "gauge", "1 while the audit trail cannot be signed.", bool(self.broken)),
        ):
            yield Family(name, kind, text, [(name, float(value))])
        name = "dogwatch_audit_export_behind"
        behind = [(series(name, {"exporter": one.key}), float(one.key in self.behind)) for one in self.options.export]
        yield Family(name, "gauge", "1 while an exporter of the audit trail cannot be reached.", behind)


def _mend(path: Path) -> None:
    """Take away a line that a crash has cut off, so that the next one does not continue it."""
    try:
        with path.open("rb+") as file:
            content = file.read()
            if not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)
    except FileNotFoundError:
        return
    except OSError as error:
        raise TransientError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from error


def _line(head: Head) -> bytes:
    told = msgspec.structs.asdict(head)
    told.pop("origin")
    return msgspec.json.encode(told)


def _unsigned(tx: Tx) -> int:
    row = tx.one("SELECT MAX(number) FROM audit_heads")
    return tail(tx)[0] - int((row and row[0]) or 0)


def _older(tx: Tx, before_s: float) -> bool:
    row = tx.one("SELECT time_s FROM audit_events ORDER BY number LIMIT 1")
    return row is not None and float(row[0] or 0) < before_s


def _position(tx: Tx, name: str, what: str) -> int:
    row = tx.one("SELECT number FROM audit_exports WHERE exporter = :name AND what = :what", name=name, what=what)
    return int(row[0] or 0) if row else 0


def _keep_position(tx: Tx, name: str, what: str, number: int) -> None:
    tx.run(
        "INSERT INTO audit_exports (exporter, what, number) VALUES (:name, :what, :number) "
        "ON CONFLICT (exporter, what) DO UPDATE SET number = excluded.number",
        name=name,
        what=what,
        number=number,
    )


def _next_lines(what: str, number: int) -> Callable[[Tx], tuple[list[bytes], int]]:
    def work(tx: Tx) -> tuple[list[bytes], int]:
        if what == "heads":
            # "z" is after every kind: of the last number nothing is sent again.
            heads = heads_after(tx, number, "z", _AT_ONCE)
            return [_line(one) for one in heads], heads[-1].number if heads else number
        entries = events_after(tx, number, _AT_ONCE)
        return [event_line(one).rstrip() for one in entries], entries[-1].number if entries else number

    return work
