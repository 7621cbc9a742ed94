"""Runs that do not run, and signed requests, for tests of webhooks."""

from __future__ import annotations

import hmac
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from dogwatch.engine.values import Json, Run, RunState, Started, StartRun
from dogwatch.errors import Conflict, NotFound, UsageError
from dogwatch.store.database import Tables, Tx
from dogwatch.webhooks.request import RawRequest
from dogwatch.webhooks.schemes import GithubScheme
from dogwatch.webhooks.section import Endpoint

FAKE_RUNS = Tables(
    name="fakeruns",
    steps=((1, "CREATE TABLE fake_runs (run_id TEXT PRIMARY KEY, job TEXT NOT NULL, body TEXT NOT NULL);"),),
)
SECRET = "only-github-and-we-know"
_numbers = itertools.count()


class FakeRuns:
    """The part of engine.port.Runs that webhooks use: a run is a row, written in the caller's transaction.

    busy: jobs whose concurrency rule refuses every run.
    """

    def __init__(self, *jobs: str) -> None:
        self._jobs = jobs or ("deploy",)
        self.busy: set[str] = set()

    def starter(self, request: StartRun) -> Callable[[Tx], Started]:
        if request.job not in self._jobs:
            raise NotFound(f"no job is called '{request.job}'")
        if "wrong" in request.parameters:
            raise UsageError("parameter 'wrong': is unknown")
        body = msgspec.json.encode(request).decode()

        def start(tx: Tx) -> Started:
            run_id = f"run_{next(_numbers)}"
            tx.run("INSERT INTO fake_runs VALUES (:run_id, :job, :body)", run_id=run_id, job=request.job, body=body)
            if request.job in self.busy:
                raise Conflict(f"a run of {request.job} is there already")
            run = Run(
                run_id=run_id,
                job=request.job,
                state=RunState.QUEUED,
                actor=request.actor,
                trigger=request.trigger,
                created_s=tx.now_s,
            )
            return Started(run=run, created=True)

        return start


class Fixed:
    """A configuration in which every section has the same value."""

    def __init__(self, **sections: object) -> None:
        self._sections = sections

    def get(self, section: Any) -> Any:
        return self._sections[section.key]


def runs_of(tx: Tx) -> list[StartRun]:
    rows = tx.rows("SELECT body FROM fake_runs")
    return [msgspec.json.decode(str(body), type=StartRun) for (body,) in rows]


def endpoint(**options: Any) -> Endpoint:
    return Endpoint(**{"name": "shop", "job": "deploy", "scheme": GithubScheme(secrets=(SECRET,)), **options})


def github(body: bytes | Json, *, delivery: str = "d-1", event: str = "push", **headers: str) -> dict[str, str]:
    """Return the headers of a request as GitHub sends it."""
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return {
        "x-github-event": event,
        "x-github-delivery": delivery,
        "x-hub-signature-256": "sha256=" + hmac.new(SECRET.encode(), raw, "sha256").hexdigest(),
        "content-type": "application/json",
        **headers,
    }


def signed(body: Json, *, query: Mapping[str, str] = {}, **options: str) -> RawRequest:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return RawRequest(headers=github(raw, **options), query=query, body=raw, remote="192.0.2.7")
