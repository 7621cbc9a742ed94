"""Remedies in the state database: plain functions of a transaction."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from dogwatch.errors import NotFound
from dogwatch.rules.remedy.evidence import Found
from dogwatch.rules.remedy.values import Episode, Start
from dogwatch.rules.watcher import Key
from dogwatch.store.database import Row, Tx

_MOST_OPEN = 20_000
_MOST_SHOWN = 500


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """An action that was decided, and how it ended. outcome: "" while it is under way."""

    start: Start
    run_id: str
    started_s: float
    ended_s: float | None = None
    outcome: str = ""
    reason: str = ""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked at before an action. size_bytes: of the text."""

    evidence_id: str
    number: int
    run_id: str
    time_s: float
    target: str
    source: str
    note: str
    size_bytes: int
    text: str = ""


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A rule's text as it was. text: JSON."""

    version: str
    name: str
    first_s: float
    text: str


def load(tx: Tx) -> tuple[dict[Key, Episode], dict[str, str]]:
    """Return how far remedies are, and the runs of actions that are under way, by key."""
    episodes = {
        (str(rule), str(target)): msgspec.json.decode(str(body), type=Episode)
        for rule, target, body in tx.rows("SELECT rule, target, body FROM remedy_episodes ORDER BY rule, target")
    }
    rows = tx.rows(
        "SELECT action_key, run_id FROM remedy_actions WHERE outcome = '' ORDER BY started_s DESC LIMIT :limit",
        limit=_MOST_OPEN,
    )
    return episodes, {str(key): str(run_id) for key, run_id in rows}


def save_episodes(tx: Tx, before: Mapping[Key, Episode], after: Mapping[Key, Episode]) -> None:
    """Write the rows that are not what they were. Values are replaced, never changed: identity tells."""
    gone = [{"rule": key[0], "target": key[1]} for key in before if key not in after]
    if gone:
        tx.many("DELETE FROM remedy_episodes WHERE rule = :rule AND target = :target", gone)
    new = [
        {"rule": key[0], "target": key[1], "body": msgspec.json.encode(value).decode()}
        for key, value in after.items()
        if before.get(key) is not value
    ]
    if new:
        tx.many(
            "INSERT INTO remedy_episodes (rule, target, body) VALUES (:rule, :target, :body)"
            " ON CONFLICT (rule, target) DO UPDATE SET body = excluded.body",
            new,
        )


def began(tx: Tx, start: Start, run_id: str) -> None:
    tx.send(
        "INSERT INTO remedy_actions (action_key, number, run_id, started_s, outcome, reason, body)"
        " VALUES (:key, :number, :run_id, :now_s, '', '', :body) ON CONFLICT (action_key) DO NOTHING",
        key=start.key,
        number=start.number,
        run_id=run_id,
        now_s=tx.now_s,
        body=msgspec.json.encode(start).decode(),
    )


def ended(tx: Tx, key: str, outcome: str, reason: str) -> None:
    tx.send(
        "UPDATE remedy_actions SET outcome = :outcome, reason = :reason, ended_s = :now_s"
        " WHERE action_key = :key AND outcome = ''",
        key=key,
        outcome=outcome,
        reason=reason[:2000],
        now_s=tx.now_s,
    )


def note_version(tx: Tx, version: str, name: str, text: str) -> None:
    tx.send(
        "INSERT INTO rule_versions (version, name, first_s, body) VALUES (:version, :name, :now_s, :body)"
        " ON CONFLICT (version) DO NOTHING",
        version=version,
        name=name,
        now_s=tx.now_s,
        body=text,
    )


def version(tx: Tx, wanted: str) -> Version | None:
    row = tx.one("SELECT version, name, first_s, body FROM rule_versions WHERE version = :version", version=wanted)
    if row is None:
        return None
    return Version(version=str(row[0]), name=str(row[1]), first_s=float(row[2] or 0), text=str(row[3]))


def actions(tx: Tx, number: int) -> list[Action]:
    """Return the actions of an incident, the oldest first."""
    rows = tx.rows(
        "SELECT body, run_id, started_s, ended_s, outcome, reason FROM remedy_actions WHERE number = :number"
        " ORDER BY started_s, action_key LIMIT :limit",
        number=number,
        limit=_MOST_SHOWN,
    )
    return [_action(row) for row in rows]


def _action(row: Row) -> Action:
    return Action(
        start=msgspec.json.decode(str(row[0]), type=Start),
        run_id=str(row[1]),
        started_s=float(row[2] or 0),
        ended_s=None if row[3] is None else float(row[3]),
        outcome=str(row[4]),
        reason=str(row[5]),
    )


def action_of_run(tx: Tx, run_id: str) -> Action | None:
    """Return what a run was started for; None where it was started by no remedy."""
    row = tx.one(
        "SELECT body, run_id, started_s, ended_s, outcome, reason FROM remedy_actions WHERE run_id = :run_id",
        run_id=run_id,
    )
    return None if row is None else _action(row)


def open_runs(tx: Tx, number: int) -> list[str]:
    """Return the runs of an incident's actions that are under way."""
    rows = tx.rows(
        "SELECT run_id FROM remedy_actions WHERE number = :number AND outcome = '' AND run_id <> ''"
        " ORDER BY started_s LIMIT 20",
        number=number,
    )
    return [str(row[0]) for row in rows]


def incident_of_run(tx: Tx, run_id: str) -> int | None:
    """Return the incident that a run was started for; None where it was for none."""
    row = tx.one("SELECT number FROM remedy_actions WHERE run_id = :run_id", run_id=run_id)
    return None if row is None else int(row[0] or 0)


def keep_evidence(tx: Tx, found: Found, key: str) -> None:
    tx.run(
        "INSERT INTO remedy_evidence (evidence_id, number, run_id, time_s, target, source, note, body)"
        " VALUES (:key, :number, :run_id, :now_s, :target, :source, :note, :body)"
        " ON CONFLICT (evidence_id) DO UPDATE SET body = excluded.body, note = excluded.note, time_s = excluded.time_s",
        key=key,
        number=found.number,
        run_id=found.run_id,
        now_s=tx.now_s,
        target=found.target,
        source=found.source,
        note=found.note,
        body=found.text,
    )


def evidence(tx: Tx, number: int) -> list[Evidence]:
    """Return what there is of an incident, without its text."""
    rows = tx.rows(
        "SELECT evidence_id, number, run_id, time_s, target, source, note, LENGTH(body) FROM remedy_evidence"
        " WHERE number = :number ORDER BY time_s, evidence_id LIMIT :limit",
        number=number,
        limit=_MOST_SHOWN,
    )
    return [
        Evidence(
            evidence_id=str(row[0]),
            number=int(row[1] or 0),
            run_id=str(row[2]),
            time_s=float(row[3] or 0),
            target=str(row[4]),
            source=str(row[5]),
            note=str(row[6]),
            size_bytes=int(row[7] or 0),
        )
        for row in rows
    ]


def evidence_text(tx: Tx, number: int, evidence_id: str) -> str:
    """Raises: NotFound."""
    row = tx.one(
        "SELECT body FROM remedy_evidence WHERE evidence_id = :evidence_id AND number = :number",
        evidence_id=evidence_id,
        number=number,
    )
    if row is None:
        raise NotFound(f"incident #{number} has no evidence '{evidence_id}'")
    return str(row[0])


def purge(tx: Tx, before_s: float) -> None:
    """Forget what belongs to incidents that are not kept any more."""
    gone = "number NOT IN (SELECT number FROM incidents) AND"
    tx.send(f"DELETE FROM remedy_evidence WHERE {gone} time_s < :before_s", before_s=before_s)  # noqa: S608
    tx.send(
        f"DELETE FROM remedy_actions WHERE {gone} started_s < :before_s AND outcome <> ''",  # noqa: S608
        before_s=before_s,
    )
    tx.send("DELETE FROM rule_versions WHERE first_s < :before_s", before_s=before_s)
