"""The desk that plans lie on: who asks for one, who agrees, who applies it, and what became of its hosts."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from dogwatch.access.actor import Actor, Subject
from dogwatch.access.audit import record
from dogwatch.engine.book.ids import Mint
from dogwatch.engine.book.intents import Sealer
from dogwatch.errors import Conflict, NotAllowed, PermanentError, UsageError
from dogwatch.fleet.book import plan_rows as rows
from dogwatch.fleet.book.plan_rows import Made, NewPlan
from dogwatch.fleet.book.planned import (
    APPLYING,
    DRIFT,
    PLAN,
    READY,
    UNTOUCHED,
    Asked,
    Claim,
    Claimed,
    PlanHost,
    PlanRow,
    Shown,
    decide_claim,
    decide_end,
)
from dogwatch.fleet.book.rows import to_json
from dogwatch.store.database import Database, Tx

# What a sealed document begins with: others begin as JSON, or as a packed mapping, does.
_SEALED = b"sealed\0"
_SEALED_TEXT = "sealed:"


class PlanDesk:
    """What the rest asks of plans. Every call that changes something writes its audit event in the same transaction.

    sealer: seals documents, diffs and the files that were sent along, where this program has a key: they have contents
    of files, of which nobody may have said that they are secret.
    """

    def __init__(self, database: Database, sealer: Callable[[], Sealer | None] = lambda: None) -> None:
        self._database = database
        self._sealer = sealer
        self._mint = Mint()

    async def open(self, new: NewPlan, *, reason: str = "") -> str:
        """Write that a plan is asked for; return its id. One that is there already stays as it is."""

        def work(tx: Tx) -> str:
            asked = msgspec.structs.replace(
                new,
                plan_id=new.plan_id or self._mint.next(tx.now_s),
                bundle=None if new.bundle is None else self._seal(new.bundle),
                orders=self._sealed_orders(new.orders),
            )
            if rows.open_plan(tx, asked):
                told = {"playbook": new.playbook, "targets": new.targets, "kind": new.kind}
                _record(tx, new.actor, "plan", asked.plan_id, reason=reason, after=told)
            return asked.plan_id

        return await self._database.write(work)

    async def belongs(self, plan_id: str, run_id: str) -> None:
        """Write which run makes it."""
        await self._database.write(lambda tx: rows.change(tx, plan_id, run_id=run_id))

    async def made(self, plan_id: str, made: Made) -> PlanRow:
        """Write the plan. Of drift, hosts keep the time since when they have been another."""
        made = msgspec.structs.replace(made, document=self._seal(made.document))

        def work(tx: Tx) -> PlanRow:
            row = rows.show(tx, plan_id)
            if row.kind == DRIFT:
                since = rows.wandered_since(tx, row.playbook, plan_id)
                hosts = [
                    msgspec.structs.replace(one, since_s=since.get(one.host, tx.now_s)) if one.changes else one
                    for one in made.hosts
                ]
                rows.make(tx, plan_id, msgspec.structs.replace(made, hosts=hosts), self._seal_text)
            else:
                rows.make(tx, plan_id, made, self._seal_text)
            return rows.show(tx, plan_id)

        return await self._database.write(work)

    async def failed(self, plan_id: str, reason: str) -> None:
        """Write that no plan came of it."""

        def work(tx: Tx) -> None:
            if rows.show(tx, plan_id).state == "planning":
                rows.change(tx, plan_id, state="failed", reason=reason[:4000], ended_s=tx.now_s)

        await self._database.write(work)

    async def decide(self, plan_id: str, actor: Actor, *, approve: bool, comment: str = "") -> PlanRow:
        """Agree to a plan, or reject it. Raises: NotAllowed where it is one's own, Conflict."""

        def work(tx: Tx) -> PlanRow:
            row = rows.show(tx, plan_id)
            if row.state != READY or row.kind != PLAN:
                told = f"is {row.state}" if row.kind == PLAN else f"belongs to run {row.run_id}"
                raise Conflict(f"plan {plan_id} {told}, and does not wait for anybody here")
            if approve and str(row.actor) == str(actor):
                raise NotAllowed(f"{actor} made this plan, and cannot agree to it", hint="somebody else must")
            if approve:
                rows.change(tx, plan_id, approved_by=to_json(actor), comment=comment)
            else:
                told = f"rejected by {actor}{f': {comment}' if comment else ''}"
                rows.change(tx, plan_id, state="rejected", reason=told, ended_s=tx.now_s)
            about = {"digest": row.digest, "hosts": row.changing}
            _record(tx, actor, "approve" if approve else "reject", plan_id, reason=comment, after=about)
            return rows.show(tx, plan_id)

        return await self._database.write(work)

    async def claim(self, plan_id: str, claim: Claim, actor: Actor, *, other_ended: bool) -> Claimed:
        """Let a run apply a plan, and no other. Raises: Conflict, NotAllowed, NotFound."""

        def work(tx: Tx) -> Claimed:
            tx.lock(f"fleet plan {plan_id}")
            row = rows.show(tx, plan_id)
            claimed = decide_claim(row, claim, other_ended=other_ended)
            rows.change(
                tx,
                plan_id,
                state=APPLYING,
                reason="",
                apply_run=claim.run_id,
                apply_id=claimed.apply_id,
                unfinished=1,
                ended_s=None,
            )
            told = {"apply": claimed.apply_id, "playbook": row.playbook, "digest": row.digest, "run": claim.run_id}
            _record(tx, actor, _verb(claim), plan_id, outcome="begun", after=told)
            return claimed

        return await self._database.write(work)

    async def ended(
        self,
        plan_id: str,
        claim: Claim,
        actor: Actor,
        results: Mapping[str, tuple[str, str]],
        *,
        former: PlanRow,
        stopped: str = "",
        cut: bool = False,
    ) -> str:
        """Write how an apply ended, and return that. former: the plan before it. cut: it was ended from outside."""
        states = {host: state for host, (state, _) in results.items()}
        state, unfinished = decide_end(states, back=claim.back, cut=cut)
        # One that has touched nothing leaves what was applied before to be resumed or taken back.
        untouched = not claim.resume and not claim.back and set(states.values()) <= UNTOUCHED

        def work(tx: Tx) -> str:
            row = rows.show(tx, plan_id)
            rows.results(tx, plan_id, results)
            rows.change(
                tx,
                plan_id,
                state=state,
                reason=stopped,
                unfinished=int(former.unfinished if untouched and not cut else unfinished),
                apply_id=former.apply_id
                if untouched and not cut and former.apply_run != claim.run_id
                else row.apply_id,
                ended_s=tx.now_s,
            )
            counts: dict[str, int] = {}
            for one in states.values():
                counts[one] = counts.get(one, 0) + 1
            told = {"apply": row.apply_id, "state": state, "hosts": counts}
            outcome = "failed" if unfinished or state == "refused" else "done"
            _record(tx, actor, _verb(claim), plan_id, outcome=outcome, reason=stopped, after=told)
            return state

        return await self._database.write(work)

    async def closed(self, plan_id: str, results: Mapping[str, tuple[str, str]], stopped: str) -> None:
        """Write how a step ended that applied its plan by itself; its run has the audit events."""
        state, _ = decide_end({host: one for host, (one, _) in results.items()}, back=False, cut=False)

        def work(tx: Tx) -> None:
            rows.results(tx, plan_id, results)
            rows.change(tx, plan_id, state=state, reason=stopped, ended_s=tx.now_s)

        await self._database.write(work)

    async def resolve(self, given: str) -> str:
        """Raises: NotFound, Conflict."""
        return await self._database.read(lambda tx: rows.resolve(tx, given))

    async def show(self, plan_id: str) -> PlanRow:
        """Raises: NotFound."""
        return await self._database.read(lambda tx: rows.show(tx, plan_id))

    async def document(self, plan_id: str) -> bytes:
        """Raises: PermanentError where there is none."""
        found = await self._database.read(lambda tx: rows.blob(tx, plan_id, "document"))
        if found is None:
            raise PermanentError(f"plan {plan_id} has no document")
        return self._opened(found)

    async def bundle(self, plan_id: str) -> bytes | None:
        found = await self._database.read(lambda tx: rows.blob(tx, plan_id, "bundle"))
        return None if found is None else self._opened(found)

    def orders(self, row: PlanRow) -> Asked:
        """Return how a plan is made, with the variables that were given. Raises: PermanentError."""
        if not row.orders.sealed:
            return row.orders
        given = msgspec.json.decode(self._open_text(row.orders.sealed), type=dict[str, Any])
        return msgspec.structs.replace(row.orders, vars=given, sealed="")

    def _sealed_orders(self, orders: Asked) -> Asked:
        """Return them as they may lie on disk: of a variable nobody may have said that it is secret."""
        text = self._seal_text(msgspec.json.encode(orders.vars).decode()) if orders.vars else ""
        return msgspec.structs.replace(orders, vars={}, sealed=text) if text.startswith(_SEALED_TEXT) else orders

    def _seal(self, data: bytes) -> bytes:
        sealer = self._sealer()
        if sealer is None:
            return data
        try:
            return _SEALED + sealer.seal(data)
        except UsageError:
            return data  # it has only keys of former times

    def _opened(self, data: bytes) -> bytes:
        if not data.startswith(_SEALED):
            return data
        sealer = self._sealer()
        if sealer is None:
            raise PermanentError("the plan is sealed, and there is no key", hint="set engine.key, the same everywhere")
        return sealer.open(data.removeprefix(_SEALED))

    def _seal_text(self, text: str) -> str:
        data = self._seal(text.encode())
        return _SEALED_TEXT + base64.b64encode(data).decode() if data.startswith(_SEALED) else text

    def _open_text(self, text: str) -> str:
        if not text.startswith(_SEALED_TEXT):
            return text
        return self._opened(base64.b64decode(text.removeprefix(_SEALED_TEXT))).decode()

    async def find(
        self, *, limit: int = 50, cursor: str = "", kind: str = "", playbook: str = ""
    ) -> tuple[list[PlanRow], str]:
        return await self._database.read(
            lambda tx: rows.find(tx, limit=limit, cursor=cursor, kind=kind, playbook=playbook)
        )

    async def looks(self) -> list[PlanRow]:
        """Return for each playbook the newest look for drift."""
        return await self._database.read(rows.newest_looks)

    async def hosts(self, plan_id: str, *, after: int = -1, limit: int = 1_000_000) -> list[PlanHost]:
        return await self._database.read(lambda tx: rows.hosts(tx, plan_id, after=after, limit=limit))

    async def labels(self, plan_ids: Sequence[str]) -> dict[str, list[Mapping[str, str]]]:
        """Return which labels the hosts of these plans carry, each set once."""
        return await self._database.read(lambda tx: rows.labels(tx, plan_ids))

    async def texts(self, plan_id: str, digests: Sequence[str]) -> dict[str, Shown]:
        return await self._database.read(lambda tx: rows.texts(tx, plan_id, digests, self._open_text))


def _verb(claim: Claim) -> str:
    return "roll back" if claim.back else "resume" if claim.resume else "apply"


def _record(
    tx: Tx,
    actor: Actor,
    verb: str,
    plan_id: str,
    *,
    outcome: str = "done",
    reason: str = "",
    after: Mapping[str, Any] | None = None,
) -> None:
    record(tx, actor, verb, Subject(noun="fleet", name=f"plan {plan_id}"), outcome=outcome, reason=reason, after=after)
