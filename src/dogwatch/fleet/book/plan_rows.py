"""Every query on the tables of plans: functions of a transaction only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from dogwatch.access.actor import Actor
from dogwatch.errors import Conflict, NotFound
from dogwatch.fleet.book.planned import Asked, PlanHost, PlanRow, Shown
from dogwatch.fleet.book.rows import clean, to_json
from dogwatch.store.database import Row, Tx, pages

KEEP_S = 90 * 86400.0
MOST_PLANS = 500
_SLICE = 20
_PLAN = (
    "plan_id, kind, playbook, targets, state, reason, actor, run_id, orders, digest, approval, approved_by, comment, "
    "apply_id, unfinished, apply_run, created_s, made_s, ended_s"
)
_HOST = "host, place, labels, state, changes, shown, since_s, result, message"
TOPIC = "fleet plans"


class NewPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A plan that is to be made."""

    plan_id: str
    kind: str
    playbook: str
    targets: str
    actor: Actor
    run_id: str = ""
    orders: Asked = Asked()
    bundle: bytes | None = None


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What came of planning. texts: digest to what people are told."""

    document: bytes
    digest: str
    approval: bool
    hosts: Sequence[PlanHost]
    texts: Mapping[str, Shown]


def open_plan(tx: Tx, new: NewPlan) -> bool:
    """Write that a plan is to be made; return whether it is new."""
    if tx.one("SELECT 1 FROM fleet_plans WHERE plan_id = :plan_id", plan_id=new.plan_id) is not None:
        return False
    tx.run(
        f"INSERT INTO fleet_plans ({_PLAN}, bundle, document) VALUES (:plan_id, :kind, :playbook, :targets, "
        "'planning', '', :actor, :run_id, :orders, '', 0, '', '', '', 0, '', :now, NULL, NULL, :bundle, NULL)",
        plan_id=new.plan_id,
        kind=new.kind,
        playbook=clean(new.playbook),
        targets=clean(new.targets),
        actor=to_json(new.actor),
        run_id=new.run_id,
        orders=to_json(new.orders),
        bundle=new.bundle,
        now=tx.now_s,
    )
    prune(tx)
    tx.notify(TOPIC)
    return True


def change(tx: Tx, plan_id: str, **values: Any) -> None:
    """Set columns of a plan. Raises: NotFound."""
    sets = ", ".join(f"{name} = :{name}" for name in values)
    if not tx.run(f"UPDATE fleet_plans SET {sets} WHERE plan_id = :plan_id", plan_id=plan_id, **values):
        raise NotFound(f"there is no plan '{plan_id[:60]}'")
    tx.notify(TOPIC)


def make(tx: Tx, plan_id: str, made: Made, seal: Callable[[str], str] = str) -> None:
    """Write a plan that was made; seal: for what people are told.

    Raises: Conflict where it has been applied meanwhile.
    """
    if show(tx, plan_id).apply_run:
        raise Conflict(f"plan {plan_id} has been applied")
    for table in ("fleet_plan_hosts", "fleet_plan_texts"):
        tx.run(f"DELETE FROM {table} WHERE plan_id = :plan_id", plan_id=plan_id)
    tx.many(
        f"INSERT INTO fleet_plan_hosts (plan_id, {_HOST}) VALUES (:plan_id, :host, :place, :labels, :state, :changes, "
        ":shown, :since_s, '', :message)",
        [
            {
                "plan_id": plan_id,
                "host": clean(one.host),
                "place": one.place,
                "labels": to_json(one.labels),
                "state": one.state,
                "changes": one.changes,
                "shown": one.shown,
                "since_s": one.since_s,
                "message": clean(one.message),
            }
            for one in made.hosts
        ],
    )
    tx.many(
        "INSERT INTO fleet_plan_texts (plan_id, digest, shown) VALUES (:plan_id, :digest, :shown)",
        [{"plan_id": plan_id, "digest": digest, "shown": seal(to_json(shown))} for digest, shown in made.texts.items()],
    )
    change(
        tx,
        plan_id,
        state="ready",
        reason="",
        document=made.document,
        digest=made.digest,
        approval=int(made.approval),
        made_s=tx.now_s,
    )


def find(tx: Tx, *, limit: int, cursor: str = "", kind: str = "", playbook: str = "") -> tuple[list[PlanRow], str]:
    """Return plans, the newest first, and the cursor of what follows."""
    rows = tx.rows(
        f"SELECT {_PLAN} FROM fleet_plans WHERE (:cursor = '' OR plan_id < :cursor) AND (:kind = '' OR kind = :kind) "
        "AND (:playbook = '' OR playbook = :playbook) ORDER BY plan_id DESC LIMIT :limit",
        cursor=cursor,
        kind=kind,
        playbook=playbook,
        limit=limit + 1,
    )
    some, more = pages(rows, limit)
    found = [_row(tx, row) for row in some]
    return found, found[-1].plan_id if more else ""


def newest_looks(tx: Tx) -> list[PlanRow]:
    """Return for each playbook the newest look for drift that came to an end."""
    rows = tx.rows(
        f"SELECT {_PLAN} FROM fleet_plans AS one WHERE kind = 'drift' AND made_s IS NOT NULL AND NOT EXISTS "
        "(SELECT 1 FROM fleet_plans AS other WHERE other.kind = 'drift' AND other.made_s IS NOT NULL AND "
        "other.playbook = one.playbook AND other.plan_id > one.plan_id) ORDER BY playbook"
    )
    return [_row(tx, row) for row in rows]


def wandered_since(tx: Tx, playbook: str, before: str) -> dict[str, float]:
    """Return host → since when it has been another, as the newest look before a plan has it."""
    row = tx.one(
        "SELECT plan_id FROM fleet_plans WHERE kind = 'drift' AND made_s IS NOT NULL AND playbook = :playbook AND "
        "plan_id < :before ORDER BY plan_id DESC LIMIT 1",
        playbook=clean(playbook),
        before=before,
    )
    if row is None:
        return {}
    rows = tx.rows(
        "SELECT host, since_s FROM fleet_plan_hosts WHERE plan_id = :plan_id AND since_s IS NOT NULL", plan_id=row[0]
    )
    return {str(one[0]): float(one[1] or 0.0) for one in rows}


def resolve(tx: Tx, given: str) -> str:
    """Return the plan that an id or its beginning names. Raises: NotFound, Conflict."""
    if not given or not given.replace("-", "").replace("_", "").isalnum() or not given.isascii():
        raise NotFound(f"'{given[:60]}' is not the id of a plan", hint="`dogwatch fleet plans` lists them")
    rows = tx.rows(
        "SELECT plan_id FROM fleet_plans WHERE plan_id >= :low AND plan_id < :high ORDER BY plan_id LIMIT 5",
        low=given,
        high=f"{given}{{",
    )
    names = [str(row[0]) for row in rows]
    if given in names or len(names) == 1:
        return given if given in names else names[0]
    if not names:
        raise NotFound(f"there is no plan '{given[:60]}'", hint="`dogwatch fleet plans` lists them")
    raise Conflict(f"'{given[:60]}' may be several: {', '.join(names)}", hint="write more of it")


def show(tx: Tx, plan_id: str) -> PlanRow:
    """Raises: NotFound."""
    row = tx.one(f"SELECT {_PLAN} FROM fleet_plans WHERE plan_id = :plan_id", plan_id=plan_id)
    if row is None:
        raise NotFound(f"there is no plan '{plan_id[:60]}'", hint="`dogwatch fleet plans` lists them")
    return _row(tx, row)


def blob(tx: Tx, plan_id: str, column: str) -> bytes | None:
    """Return the document or the bundle of a plan."""
    row = tx.one(f"SELECT {column} FROM fleet_plans WHERE plan_id = :plan_id", plan_id=plan_id)
    return None if row is None or row[0] is None else bytes(row[0])  # type: ignore[arg-type]


def hosts(tx: Tx, plan_id: str, *, after: int = -1, limit: int = 1_000_000) -> list[PlanHost]:
    rows = tx.rows(
        f"SELECT {_HOST} FROM fleet_plan_hosts WHERE plan_id = :plan_id AND place > :after ORDER BY place LIMIT :limit",
        plan_id=plan_id,
        after=after,
        limit=limit,
    )
    return [
        PlanHost(
            host=str(row[0]),
            place=int(row[1] or 0),
            labels=msgspec.json.decode(str(row[2])),
            state=str(row[3]),
            changes=int(row[4] or 0),
            shown=str(row[5]),
            since_s=None if row[6] is None else float(row[6]),
            result=str(row[7]),
            message=str(row[8]),
        )
        for row in rows
    ]


def labels(tx: Tx, plan_ids: Sequence[str]) -> dict[str, list[Mapping[str, str]]]:
    """Return which labels the hosts of these plans carry, each set once."""
    found: dict[str, list[Mapping[str, str]]] = {plan_id: [] for plan_id in plan_ids}
    if found:
        named = {f"p{at}": plan_id for at, plan_id in enumerate(found)}
        places = ", ".join(f":{name}" for name in named)
        query = f"SELECT DISTINCT plan_id, labels FROM fleet_plan_hosts WHERE plan_id IN ({places})"
        for plan_id, text in tx.rows(query, **named):
            found[str(plan_id)].append(msgspec.json.decode(str(text)))
    return found


def texts(tx: Tx, plan_id: str, digests: Sequence[str], opened: Callable[[str], str] = str) -> dict[str, Shown]:
    """Return what people are told of hosts, by digest."""
    found = {}
    for digest in sorted(set(digests)):
        row = tx.one(
            "SELECT shown FROM fleet_plan_texts WHERE plan_id = :plan_id AND digest = :digest",
            plan_id=plan_id,
            digest=digest,
        )
        if row is not None:
            found[digest] = msgspec.json.decode(opened(str(row[0])), type=Shown)
    return found


def results(tx: Tx, plan_id: str, ended: Mapping[str, tuple[str, str]]) -> None:
    """Write what became of hosts: state and message."""
    tx.many(
        "UPDATE fleet_plan_hosts SET result = :result, message = :message WHERE plan_id = :plan_id AND host = :host",
        [
            {"plan_id": plan_id, "host": clean(host), "result": state, "message": clean(message)[:2000]}
            for host, (state, message) in ended.items()
        ],
    )


def prune(tx: Tx, *, keep_s: float = KEEP_S, most: int = MOST_PLANS) -> None:
    """Delete some of what is old or too much; plans that are carried out stay."""
    rows = tx.rows(
        "SELECT plan_id FROM fleet_plans WHERE state NOT IN ('planning', 'applying') AND (created_s < :old OR "
        "created_s <= COALESCE((SELECT created_s FROM fleet_plans ORDER BY created_s DESC LIMIT 1 OFFSET :most), 0)) "
        "LIMIT :slice",
        old=tx.now_s - keep_s,
        most=most,
        slice=_SLICE,
    )
    for row in rows:
        for table in ("fleet_plan_texts", "fleet_plan_hosts", "fleet_plans"):
            tx.run(f"DELETE FROM {table} WHERE plan_id = :plan_id", plan_id=row[0])


def _counts(tx: Tx, plan_id: str, column: str) -> dict[str, int]:
    rows = tx.rows(
        f"SELECT {column}, count(*) FROM fleet_plan_hosts WHERE plan_id = :plan_id AND {column} <> '' "
        f"GROUP BY {column} ORDER BY {column}",
        plan_id=plan_id,
    )
    return {str(row[0]): int(row[1] or 0) for row in rows}


def _row(tx: Tx, row: Row) -> PlanRow:
    plan_id = str(row[0])
    return PlanRow(
        plan_id=plan_id,
        kind=str(row[1]),
        playbook=str(row[2]),
        targets=str(row[3]),
        state=str(row[4]),
        reason=str(row[5]),
        actor=msgspec.json.decode(str(row[6]), type=Actor),
        run_id=str(row[7]),
        orders=msgspec.json.decode(str(row[8]), type=Asked),
        digest=str(row[9]),
        approval=bool(row[10]),
        approved_by=msgspec.json.decode(str(row[11]), type=Actor) if row[11] else None,
        comment=str(row[12]),
        apply_id=str(row[13]),
        unfinished=bool(row[14]),
        apply_run=str(row[15]),
        created_s=float(row[16] or 0.0),
        made_s=None if row[17] is None else float(row[17]),
        ended_s=None if row[18] is None else float(row[18]),
        hosts=_counts(tx, plan_id, "state"),
        results=_counts(tx, plan_id, "result"),
    )
