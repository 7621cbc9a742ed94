"""Every change that the API offers, against a real daemon: none without its audit event, where the store fails in the
middle; none to what has changed since it was seen; none twice under one key. A new route without a row here fails.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import sqlite3
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from litestar import Litestar
from tests.e2e.running import Daemon, running, wait_until
from tests.fakes import FakeProgram

from dogwatch.web.application import create_web
from dogwatch.web.orders import changes
from dogwatch.web.permissions import routes

PASSWORD = "battery staple horse"
CONFIG = """
probes:
  - {name: shop, tcp: "127.0.0.1:9", every: 1h, timeout: 1s, failures: 100}
  - {name: gone, tcp: "127.0.0.1:9", every: 1s, timeout: 500ms, failures: 1}
  - {name: away, tcp: "127.0.0.1:9", every: 1s, timeout: 500ms, failures: 100, labels: {zone: far}}
incidents:
  settle: 0s
  escalations:
    - {name: slow, steps: [{notify: [ops]}, {after: 20h, notify: [ops]}, {after: 30h, notify: [ops]}]}
rules:
  - {name: is-away, when: "!probe.success", match: {zone: far}, for: 0s, escalation: slow}
jobs:
  - {name: quick, steps: [{name: one, exec: "true"}]}
  - {name: failing, steps: [{name: one, exec: "false"}]}
  - name: asked
    steps: [{name: gate, approve: {by: ["role:admin"]}}]
schedules:
  - {name: nightly, job: quick, cron: "0 3 1 1 *"}
hooks:
  - {name: incoming, job: quick, token: {secrets: ["a-token-of-a-hook"]}}
notify:
  ops: {command: ["false"], retry: {base: 100ms, cap: 100ms, attempts: 1}}
fleet:
  hosts:
    box1: {connection: local, vars: {dogwatch_state: PLACE/state}}
"""
# What is no change of anything that is kept: computations in memory, and what places report many times a minute.
NOT_KEPT = {
    "POST /api/v1/backtests": "a computation",
    "DELETE /api/v1/backtests/{backtest_id:str}": "ends a computation",
    "POST /api/v1/rules/backtest": "a computation",
    "POST /api/v1/locations/{name:str}/report": "as a heartbeat",
    "POST /api/v1/fleet/files": "a piece of a file: the run that puts it somewhere has its event",
    "POST /api/v1/me/password": "by a session only: test_one_s_own_password",
}
# Tables that change by themselves.
MOVING = ("audit_", "repeats", "sqlite_", "workers", "tokens", "sessions", "notify_", "outbox", "leases", "fires")


class Api:
    """The API with an administrator's token."""

    def __init__(self, daemon: Daemon, token: str) -> None:
        self.daemon, self._token = daemon, token

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.daemon.port, timeout=20)
        sent = {"authorization": f"Bearer {self._token}", "content-type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, json.dumps(body).encode() if body is not None else None, sent)
        answer = connection.getresponse()
        answer.content = answer.read()  # type: ignore[attr-defined]
        connection.close()
        return answer

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        answer = self.call(method, path, body, **headers)
        content: bytes = answer.content  # type: ignore[attr-defined]
        assert answer.status < 300, (method, path, answer.status, content)
        return json.loads(content) if content else None

    def get(self, path: str) -> Any:
        return self.ask("GET", path)

    def database(self) -> sqlite3.Connection:
        return sqlite3.connect(self.daemon.data / "state.db", timeout=10)

    def kept(self) -> dict[str, list[Any]]:
        """Return what is in the database, but for what changes by itself."""
        with contextlib.closing(self.database()) as database:
            names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return {
                name: sorted(map(repr, database.execute(f'SELECT * FROM "{name}"')))
                for name in names
                if not name.startswith(MOVING)
            }

    def events(self) -> int:
        with contextlib.closing(self.database()) as database:
            query = "SELECT COUNT(*) FROM audit_events WHERE actor LIKE 'token:%' AND outcome <> 'refused'"
            return int(database.execute(query).fetchone()[0])

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """Let the store refuse the audit event, in the middle of the transaction that makes the change."""
        with contextlib.closing(self.database()) as database:
            database.execute(
                "CREATE TRIGGER failing BEFORE INSERT ON audit_events WHEN NEW.actor LIKE 'token:%' "
                "BEGIN SELECT RAISE(ABORT, 'the disk is on fire'); END"
            )
            database.commit()
            try:
                yield
            finally:
                database.execute("DROP TRIGGER failing")
                database.commit()


def user(api: Api) -> str:
    name = f"u{uuid.uuid4().hex[:8]}"
    api.ask("POST", "/api/v1/users", {"name": name, "password": PASSWORD, "roles": ["viewer"]})
    return name


def disabled(api: Api) -> str:
    name = user(api)
    api.ask("POST", f"/api/v1/users/{name}/disable")
    return name


def silence(api: Api) -> str:
    return str(api.ask("POST", "/api/v1/silences", {"duration": "1h", "rule": "target-down"})["silence_id"])


def window(api: Api) -> str:
    body = {"name": f"w{uuid.uuid4().hex[:8]}", "duration": "1h", "targets": ["shop"]}
    return str(api.ask("POST", "/api/v1/maintenance", body)["window_id"])


def token(api: Api) -> str:
    return str(api.ask("POST", "/api/v1/tokens", {"name": "other", "roles": ["viewer"]})["token"]["id"])


def run(job: str, state: str) -> Callable[[Api], str]:
    def started(api: Api) -> str:
        found = str(api.ask("POST", f"/api/v1/jobs/{job}/runs", {})["run_id"])

        def reached() -> bool:
            run = api.get(f"/api/v1/runs/{found}")
            return bool(run["state"] == state and (job != "asked" or run["waiting_for"]))

        wait_until(reached, what=f"{job} is {state}")
        return found

    return started


def paused(api: Api) -> str:
    found = run("asked", "running")(api)
    api.ask("POST", f"/api/v1/runs/{found}/pause", {})
    wait_until(lambda: api.get(f"/api/v1/runs/{found}")["state"] == "paused", what="the pause")
    return found


def incident(api: Api) -> str:
    found = wait_until(lambda: api.get("/api/v1/incidents?state=open")["items"], what="an incident")
    return str(found[0]["number"])


def acknowledged(api: Api) -> str:
    found = api.get("/api/v1/incidents?state=acknowledged")["items"]
    number = str(found[0]["number"]) if found else incident(api)
    if not found:
        api.ask("POST", f"/api/v1/incidents/{number}/ack", {})
    return number


def unacknowledged(api: Api) -> str:
    for one in api.get("/api/v1/incidents?state=acknowledged")["items"]:
        api.ask("POST", f"/api/v1/incidents/{one['number']}/unack", {})
    return incident(api)


def escalating(api: Api) -> str:
    """Return the incident that has further steps to be told."""
    unacknowledged(api)

    def found() -> Any:
        return [one for one in api.get("/api/v1/incidents?state=open")["items"] if "away" in json.dumps(one)]

    return str(wait_until(found, what="the incident of away")[0]["number"])


def delivery(api: Api) -> str:
    body = {"n": uuid.uuid4().hex}
    answer = api.call("POST", "/hooks/incoming", body, authorization="a-token-of-a-hook")
    assert answer.status in (200, 202), answer.content  # type: ignore[attr-defined]
    return str(api.get("/api/v1/deliveries")["items"][0]["delivery_id"])


def dead(api: Api) -> str:
    api.ask("POST", "/api/v1/notify/ops/test")
    found = wait_until(lambda: api.get("/api/v1/outbox?state=dead")["items"], what="a dead letter")
    return str(found[0]["message_id"])


def fleet_run(api: Api) -> str:
    # `false` on the first host: a run that failed can be done again.
    body = {"targets": "box1", "command": "false"}
    api.ask("POST", "/api/v1/fleet/runs", body)

    def ended() -> Any:
        return [one for one in api.get("/api/v1/fleet/runs")["items"] if one["state"] == "failed"]

    return str(wait_until(ended, what="the run over the fleet")[0]["run"]).replace("/", "%2F")


def plan(api: Api) -> str:
    found = str(api.ask("POST", "/api/v1/fleet/plans", PLAN)["plan"])
    wait_until(lambda: api.get(f"/api/v1/fleet/plans/{found}")["state"] == "ready", what="the plan")
    return found


def held(api: Api) -> str:
    api.ask("POST", "/api/v1/schedules/nightly/pause", {})
    return "nightly"


def nothing(_api: Api) -> str:
    return ""


def worker(api: Api) -> str:
    return str(wait_until(lambda: api.get("/api/v1/workers")["items"], what="a worker")[0]["worker_id"])


def another(api: Api, path: str) -> str:
    """Return the same order about another run."""
    parts = path.split("/")
    return "/".join([*parts[:-2], run("quick", "succeeded")(api), parts[-1]])


class Row(msgspec.Struct, frozen=True):
    """prepare: makes what is changed and returns its name. shown: an address whose tag is that of what is changed."""

    prepare: Callable[[Api], str]
    body: Mapping[str, Any] | None = None
    keyed: bool = False
    secret: bool = False
    # With the key of a keyed start: (address, body) of something else.
    otherwise: Callable[[Api, str], tuple[str, Mapping[str, Any]]] = lambda _api, path: (path, {"labels": {"a": "b"}})


PLAYBOOK = b"hosts: all\noperations: [{command: {run: 'true', always: true}}]\n"
PLAN = {"main": "p.yaml", "files": {"p.yaml": base64.b64encode(PLAYBOOK).decode()}}
NEW_USER = {"name": "new-one", "password": PASSWORD, "roles": ["viewer"]}
ROWS = {
    "DELETE /api/v1/silences/{silence_id:str}": Row(silence),
    "DELETE /api/v1/users/{name:str}": Row(user),
    "POST /api/v1/deliveries/{delivery_id:str}/replay": Row(delivery),
    "POST /api/v1/fleet/plans": Row(nothing, PLAN),
    "POST /api/v1/fleet/plans/{plan_id:str}/apply": Row(plan, {}),
    "POST /api/v1/fleet/plans/{plan_id:str}/decision": Row(plan, {"approve": False, "comment": "no"}),
    "POST /api/v1/fleet/runs": Row(nothing, {"targets": "box1", "command": "true"}),
    "POST /api/v1/fleet/runs/{run_id:str}/again": Row(fleet_run, {"what": "failed"}),
    "POST /api/v1/incidents/{number:int}/ack": Row(unacknowledged, {"text": "mine"}),
    "POST /api/v1/incidents/{number:int}/unack": Row(acknowledged, {}),
    "POST /api/v1/incidents/{number:int}/comment": Row(incident, {"text": "look"}),
    "POST /api/v1/incidents/{number:int}/escalate": Row(escalating, {"text": "nobody looks"}),
    "POST /api/v1/incidents/{number:int}/resolve": Row(unacknowledged, {"text": "done"}),
    "POST /api/v1/jobs/{name:str}/runs": Row(lambda _api: "quick", {}, keyed=True),
    "POST /api/v1/maintenance": Row(nothing, {"name": "planned", "duration": "1h", "targets": ["shop"]}),
    "POST /api/v1/maintenance/{window_id:str}/end": Row(window, {}),
    "POST /api/v1/notify/{name:str}/redeliver": Row(lambda api: dead(api) and "ops"),
    "POST /api/v1/notify/{name:str}/test": Row(lambda _api: "ops"),
    "POST /api/v1/outbox/{message_id:str}/redeliver": Row(dead),
    "POST /api/v1/reload": Row(nothing),
    "POST /api/v1/runs/{run_id:str}/cancel": Row(run("asked", "running"), {"reason": "enough"}),
    "POST /api/v1/runs/{run_id:str}/decide": Row(run("asked", "running"), {"step": "gate", "approve": True}),
    "POST /api/v1/runs/{run_id:str}/pause": Row(run("asked", "running"), {"reason": "wait"}),
    "POST /api/v1/runs/{run_id:str}/resume": Row(paused, {}),
    "POST /api/v1/runs/{run_id:str}/rerun": Row(
        run("quick", "succeeded"), {}, keyed=True, otherwise=lambda api, path: (another(api, path), {})
    ),
    "POST /api/v1/schedules/{name:str}/pause": Row(lambda _api: "nightly", {"reason": "wait"}),
    "POST /api/v1/schedules/{name:str}/resume": Row(held, {}),
    "POST /api/v1/schedules/{name:str}/run": Row(lambda _api: "nightly", {}),
    "POST /api/v1/silences": Row(nothing, {"duration": "2h", "rule": "target-down"}),
    "POST /api/v1/targets/{name:str}/pause": Row(lambda _api: "shop"),
    "POST /api/v1/targets/{name:str}/resume": Row(lambda _api: "shop"),
    "POST /api/v1/targets/{name:str}/run": Row(lambda _api: "shop"),
    "POST /api/v1/tokens": Row(nothing, {"name": "new"}, secret=True),
    "POST /api/v1/tokens/{token_id:str}/revoke": Row(token),
    "POST /api/v1/users": Row(nothing, NEW_USER),
    "POST /api/v1/users/{name:str}/disable": Row(user),
    "POST /api/v1/users/{name:str}/enable": Row(disabled),
    "POST /api/v1/users/{name:str}/password": Row(user, {"password": "another good one"}),
    "POST /api/v1/users/{name:str}/roles": Row(user, {"roles": ["operator"]}),
    "POST /api/v1/workers/{worker_id:str}/drain": Row(worker),
    "POST /api/v1/workers/{worker_id:str}/resume": Row(worker),
}


def inner() -> Litestar:
    web: Any = create_web(FakeProgram().services)
    found: Litestar = web._guarded._inner
    return found


def test_every_change_has_a_row() -> None:
    known = {
        f"{method} {route.path}"
        for route, method, _opt in routes(inner())
        if method not in ("GET", "HEAD") and route.path.startswith("/api/v1/")
        for handler in getattr(route, "route_handlers", ())
        if method in handler.http_methods and changes(handler)
    }
    assert known == ROWS.keys() | NOT_KEPT.keys()


def test_the_description_tells_of_keys_and_tags() -> None:
    """Every change of the OpenAPI document takes both headers, and says how it refuses."""
    web: Any = create_web(FakeProgram().services)
    document = web.description()
    kept = {name.replace(":str}", "}").replace(":int}", "}") for name in ROWS.keys() | NOT_KEPT.keys()}
    told = set()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            headers = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "header"}
            if {"Idempotency-Key", "If-Match"} <= headers:
                told.add(f"{method.upper()} {path}")
                assert {"409", "412", "422"} <= operation["responses"].keys(), (method, path)
            elif method != "get":
                # Computations, and logging in: nothing is changed by them that was seen before.
                assert path.rpartition("/")[2] in ("plan", "preview", "verify", "login"), (method, path)
    assert told == kept


def an_administrator(daemon: Daemon) -> str:
    """Make the first user, and return a token of it."""
    env = {**os.environ, "DOGWATCH_SERVER": daemon.server, "DOGWATCH_SOCKET": str(daemon.data / "admin.sock")}
    made = daemon.command("user", "add", "root", "--role", "admin")
    subprocess.run(made, env=env, input=PASSWORD + "\n", text=True, check=True, capture_output=True, timeout=30)
    answer: Any = Api(daemon, "").call("POST", "/api/v1/login", {"name": "root", "password": PASSWORD})
    return str(json.loads(answer.content)["secret"])


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder: Path = tmp_path_factory.mktemp("changes")
    with running(folder, CONFIG.replace("PLACE", str(folder))) as daemon:
        one = Api(daemon, an_administrator(daemon))
        # Both incidents are there before anything is compared.
        wait_until(lambda: len(one.get("/api/v1/incidents?state=open")["items"]) == 2, what="two incidents")
        yield one


def differing(before: dict[str, list[Any]], after: dict[str, list[Any]]) -> list[tuple[str, Any]]:
    return [(name, set(after[name]) ^ set(rows)) for name, rows in before.items() if after[name] != rows]


def settled(api: Api) -> tuple[dict[str, list[Any]], int]:
    """Return what is kept and how many events there are, once what was begun before has ended."""
    found = (api.kept(), api.events())

    def quiet() -> bool:
        nonlocal found
        open_runs = [one for one in api.get("/api/v1/runs?state=open&limit=500")["items"] if one["job"] != "asked"]
        time.sleep(0.3)  # two looks must not be one
        before, found = found, (api.kept(), api.events())
        return before == found and not open_runs

    wait_until(quiet, what="quiet")
    return found


@pytest.mark.parametrize("name", ROWS)
def test_a_change_is_made_once_to_what_was_seen_and_never_without_its_event(api: Api, name: str) -> None:
    row = ROWS[name]
    method, _, pattern = name.partition(" ")
    path = "/".join(row.prepare(api) if one.startswith("{") else one for one in pattern.split("/"))
    before, told = settled(api)

    # Not to what has changed since it was seen.
    stale = api.call(method, path, row.body, if_match='"of another time"')
    assert (stale.status, json.loads(stale.content)["code"]) == (412, "conflict")  # type: ignore[attr-defined]
    assert (differing(before, api.kept()), api.events()) == ([], told)

    # Not without its event.
    with api.failing():
        failed = api.call(method, path, row.body)
        assert (failed.status >= 400, b"on fire" in failed.content) == (True, True), failed.content  # type: ignore[attr-defined]
    assert (differing(before, api.kept()), api.events()) == ([], told)

    # Once, however often it is sent under one key.
    address = path if method == "DELETE" else path.rpartition("/")[0]
    seen = {"if_match": tag} if row.prepare is not nothing and (tag := api.call("GET", address).headers["etag"]) else {}
    key = {"idempotency_key": uuid.uuid4().hex}
    first = api.call(method, path, row.body, **key, **seen)
    assert first.status < 300, (first.status, first.content)  # type: ignore[attr-defined]
    wait_until(lambda: api.events() > told, what="its event")
    done = api.events()
    again = api.call(method, path, row.body, **key)
    if row.secret:
        assert (again.status, "is not kept" in again.content.decode()) == (409, True)  # type: ignore[attr-defined]
    elif row.keyed:
        assert again.status == 200
        assert json.loads(again.content)["run_id"] == json.loads(first.content)["run_id"]  # type: ignore[attr-defined]
        assert api.events() == done
        otherwise = row.otherwise(api, path)
        done = api.events()
        other = api.call(method, *otherwise, **key)
        assert (other.status, json.loads(other.content)["code"]) == (422, "usage"), other.content  # type: ignore[attr-defined]
    else:
        assert (again.status, again.content) == (first.status, first.content)  # type: ignore[attr-defined]
        assert again.headers["idempotency-replayed"] == "true"
        other = api.call(method, path, {"other": 1}, **key)
        assert other.status == 422, other.content  # type: ignore[attr-defined]
    assert api.events() == done
