"""Storing a delivery together with the run that it starts, or finding the one that it repeats: functions of a
transaction only.
"""

from __future__ import annotations

import msgspec

from dogwatch.access import audit
from dogwatch.access.actor import Actor, Subject
from dogwatch.engine.port import Starter
from dogwatch.rules.outside import book as outside
from dogwatch.store.database import Tx
from dogwatch.webhooks import deliveries
from dogwatch.webhooks.deliveries import Content
from dogwatch.webhooks.delivery import Answer, Delivery, DeliveryState
from dogwatch.webhooks.route import Reading, Route
from dogwatch.webhooks.scheme import Verified


def store(
    tx: Tx,
    *,
    one: Delivery,
    reading: Reading,
    content: Content,
    starter: Starter | None,
    verified: Verified,
    route: Route,
) -> Answer:
    """Store a delivery with its run. A function of its transaction only.

    Raises: Known, Conflict.
    """
    deliveries.remember(tx, one.endpoint, one.delivery_id, _proofs(tx.now_s, reading, verified, route))
    one = _told(tx, _started(tx, one, starter), reading)
    deliveries.insert(tx, one, content)
    if reading.ping:
        return Answer(status=200, id=one.delivery_id, state="pong")
    return Answer(status=202, id=one.delivery_id, state=one.state.value, run=one.run_id)


def duplicate(tx: Tx, *, reading: Reading, verified: Verified, route: Route) -> Answer | None:
    """Return the answer to what is known; None where it is not known any more."""
    name = route.endpoint.name
    known = deliveries.seen(tx, name, sorted(_proofs(tx.now_s, reading, verified, route)))
    if not known:
        return None
    deliveries.count_duplicate(tx, known)
    return Answer(status=200, id=known, state=DeliveryState.DUPLICATE.value)


def _proofs(now_s: float, reading: Reading, verified: Verified, route: Route) -> dict[str, float]:
    """Return what the delivery is known again by, and until when."""
    remember_s = now_s + route.endpoint.remember
    proofs: dict[str, float] = {}
    if reading.known_by:
        proofs[f"id:{reading.known_by}"] = remember_s
    if verified.proof:
        proofs[f"signed:{verified.proof}"] = remember_s if verified.until_s is None else verified.until_s + 60.0
    return proofs


def store_replay(
    tx: Tx, *, one: Delivery, reading: Reading, content: Content, starter: Starter | None, actor: Actor, route: Route
) -> Delivery:
    one = _told(tx, _started(tx, one, starter), reading)
    deliveries.insert(tx, one, content)
    subject = Subject(noun="delivery", name=one.replay_of, labels=route.endpoint.labels)
    told = {"endpoint": one.endpoint, "delivery": one.delivery_id, "state": one.state.value, "run": one.run_id}
    _ = audit.record(tx, actor, "replay", subject, reason=one.reason, after=told)
    return one


def _started(tx: Tx, one: Delivery, starter: Starter | None) -> Delivery:
    if starter is None:
        return one
    return msgspec.structs.replace(one, run_id=starter(tx).run.run_id)


def _told(tx: Tx, one: Delivery, reading: Reading) -> Delivery:
    """Keep the alerts of a delivery, in its own transaction: what was answered is known."""
    if not reading.alerts or one.state is not DeliveryState.ACCEPTED:
        return one
    changed = outside.take(tx, reading.alerts)
    return msgspec.structs.replace(one, reason=f"{len(reading.alerts)} alerts, of which {changed} were new")
