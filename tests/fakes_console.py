"""Schedules, webhooks and messages in memory, for the pages that show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from dogwatch.access.actor import Actor, Subject
from dogwatch.config.show import Row
from dogwatch.core.clock import Clock
from dogwatch.diagnose.sample import Lag, Sample
from dogwatch.engine.schedules.records import FireRow
from dogwatch.engine.schedules.service import ScheduleView
from dogwatch.engine.schedules.spec import ScheduleSpec, describe
from dogwatch.engine.values import Page, Run, Started
from dogwatch.errors import NotFound, UsageError
from dogwatch.notify.message import Enqueued, Message, MessageState, OutboxRow
from dogwatch.notify.view import DestinationView, Preview
from dogwatch.webhooks.delivery import Delivery, DeliveryDetail, DeliveryState, EndpointView, Rejection
from dogwatch.words import Language
from tests.fakes import FakeProgram
from tests.fakes_runs import FakeRuns

EVIL = "<img src=x onerror=window.bad=1>\"'"


class FakeSchedules:
    """What Schedules answers, over lists."""

    def __init__(self, clock: Clock, runs: FakeRuns) -> None:
        self._clock, self._runs = clock, runs
        self.specs: dict[str, ScheduleSpec] = {}
        self.paused: dict[str, str] = {}
        self.rows: dict[str, list[FireRow]] = {}
        self.calls: list[tuple[Any, ...]] = []

    def add(self, spec: ScheduleSpec, *fires: FireRow) -> None:
        self.specs[spec.name] = spec
        self.rows[spec.name] = list(fires)

    def names(self) -> Sequence[str]:
        return list(self.specs)

    def spec(self, name: str) -> ScheduleSpec:
        return self.specs[name]

    def subject(self, name: str) -> Subject:
        return Subject(noun="schedule", name=name, labels=self.specs[name].labels)

    def job(self, name: str) -> str:
        return self.specs[name].job

    def _view(self, name: str) -> ScheduleView:
        spec, rows = self.specs[name], self.rows[name]
        paused = name in self.paused
        last = rows[0] if rows else None
        run = self._runs.runs.get(last.run_id) if last else None
        return ScheduleView(
            name=name,
            job=spec.job,
            doc=spec.doc,
            when=describe(spec),
            time_zone=spec.time_zone,
            labels=spec.labels,
            state="paused" if paused else "disabled" if spec.paused else "active",
            reason=f"by {self.paused[name]}" if paused else "",
            next_s=None if paused or spec.paused else self._clock.now_s() + 754,
            last=last,
            last_run_state=str(run.state) if run else "",
            fired=sum(row.state == "started" for row in rows),
            missed=sum(row.state == "missed" for row in rows),
            refused=sum(row.state == "refused" for row in rows),
        )

    async def list(self, names: Sequence[str]) -> Sequence[ScheduleView]:
        return [self._view(name) for name in names]

    async def show(self, name: str) -> ScheduleView:
        return self._view(name)

    async def fires(self, name: str, *, limit: int = 50, cursor: str = "") -> Page[FireRow]:
        if cursor and not cursor.isdigit():
            raise UsageError(f"'{cursor}' is no cursor of this list")
        start = int(cursor or 0)
        rows = self.rows[name]
        return Page(items=rows[start : start + limit], cursor=str(start + limit) if start + limit < len(rows) else "")

    def upcoming(self, name: str, count: int) -> Sequence[float]:
        return [self._clock.now_s() + 754 + 86400 * at for at in range(count)]

    async def pause(self, name: str, actor: Actor, *, reason: str = "") -> ScheduleView:
        self.calls.append(("pause", name, reason))
        self.paused[name] = f"{actor}: {reason}"
        return self._view(name)

    async def resume(self, name: str, actor: Actor, *, from_now: bool = False) -> ScheduleView:
        self.calls.append(("resume", name, from_now))
        self.paused.pop(name, None)
        return self._view(name)

    async def run(self, name: str, actor: Actor, *, key: str = "", reason: str = "") -> Started:
        self.calls.append(("run", name, key, reason))
        run: Run = self._runs.put("01998888", self.specs[name].job)
        return Started(run=run, created=True)


def furnish_schedules(program: FakeProgram) -> FakeSchedules:
    """Give the program schedules of every kind."""
    found = FakeSchedules(program.clock, program.runs)
    now_s = program.clock.now_s()

    def fire(state: str, back: float, run_id: str = "", reason: str = "") -> FireRow:
        at_s = now_s - back
        return FireRow(
            schedule="", fire=f"{back}", fire_s=at_s, claimed_s=at_s + 1, state=state, run_id=run_id, reason=reason
        )

    found.add(
        ScheduleSpec(
            name="nightly/deploy",
            job="deploy",
            doc="Rolls out what the day has brought.",
            cron="~ 3 * * *",
            time_zone="Europe/Berlin",
            labels={"team": "shop"},
            parameters={"version": "v1.3", "token": "hunter22"},
        ),
        fire("started", 3600, "01991111"),
        fire("missed", 90_000, reason="3 from 2026-11-18T03:00:00Z to 2026-11-20T03:00:00Z, misfire: skip"),
        fire("refused", 180_000, reason="job deploy is running already: 01992222"),
        fire("manual", 200_000, "01994444", "started by user:ann"),
    )
    found.add(
        ScheduleSpec(name=f"evil {EVIL}", job="backup/größe <b>", doc=EVIL, every=900.0, labels={EVIL: EVIL}),
        fire("failed", 60, reason=EVIL),
    )
    found.add(ScheduleSpec(name="invoices", job="deploy", at=["08:00"], paused=True))
    program.services.schedules = found  # type: ignore[assignment]
    return found


class FakeHooks:
    """What webhooks answer, over a list of deliveries, the newest first."""

    def __init__(self, clock: Clock) -> None:
        now_s = clock.now_s()
        self.calls: list[tuple[Any, ...]] = []
        self._endpoints = [
            EndpointView(
                name="shop",
                job="deploy",
                signature="github",
                path="/hooks/shop",
                filter='event == "push" && payload.ref == "refs/heads/main"',
                parameters=["sha"],
                labels={"team": "shop"},
                counts={"accepted": 41, "refused": 1},
                rejections=[Rejection(time_s=now_s - 9, remote="192.0.2.9", status=401, reason=EVIL)],
                last_s=now_s - 40,
            ),
            EndpointView(name=EVIL, job=EVIL, signature="none", path="/hooks/x", paused=True, filter=EVIL),
        ]
        states = (DeliveryState.ACCEPTED, DeliveryState.IGNORED, DeliveryState.REFUSED)
        self.deliveries_kept = [
            Delivery(
                delivery_id=f"dlv_{at:04}",
                endpoint="shop",
                state=states[at % 3],
                reason=("", 'the filter: event == "push" was false: event is ping', EVIL)[at % 3],
                event=("push", "ping", EVIL)[at % 3],
                remote="192.0.2.7",
                run_id="01991111" if at % 3 == 0 else "",
                received_s=now_s - 40 - 60 * at,
                size_bytes=5120,
                duplicates=at % 2,
            )
            for at in range(120)
        ]

    async def endpoints(self) -> Sequence[EndpointView]:
        return self._endpoints

    async def deliveries(
        self,
        *,
        endpoint: str = "",
        state: str = "",
        limit: int = 50,
        cursor: str = "",
        among: Sequence[str] | None = None,
        count: bool = False,
    ) -> Page[Delivery]:
        found = [
            one
            for one in self.deliveries_kept
            if (not endpoint or one.endpoint == endpoint)
            and (not state or one.state == state)
            and (among is None or one.endpoint in among)
        ]
        start = int(cursor) if cursor.isdigit() else 0
        following = str(start + limit) if start + limit < len(found) else ""
        return Page(items=found[start : start + limit], cursor=following, total=len(found) if count else None)

    async def delivery(self, delivery_id: str) -> DeliveryDetail:
        for one in self.deliveries_kept:
            if one.delivery_id == delivery_id:
                return DeliveryDetail(
                    delivery=one,
                    headers={"x-github-event": "push", "x-hub-signature-256": "***", EVIL: EVIL},
                    query={"from": "github"},
                    text='{"ref":"refs/heads/main","who":"' + EVIL.replace('"', '\\"') + '"}',
                )
        raise NotFound(f"'{delivery_id}': no delivery has this id")

    async def replay(self, delivery_id: str, actor: Actor, *, force: bool = False) -> Delivery:
        self.calls.append(("replay", delivery_id, str(actor), force))
        one = (await self.delivery(delivery_id)).delivery
        again = msgspec.structs.replace(
            one, delivery_id="dlv_again", state=DeliveryState.ACCEPTED, replay_of=delivery_id, actor=str(actor)
        )
        self.deliveries_kept.insert(0, again)
        return again


class FakeOutbox:
    """What the outbox answers, over a list of messages, the newest first."""

    def __init__(self, clock: Clock) -> None:
        now_s = clock.now_s()
        self.calls: list[tuple[Any, ...]] = []
        self.languages: dict[str, Language] = {}
        states = tuple(MessageState)
        self.rows = [
            OutboxRow(
                message_id=f"msg_{at:04}",
                destination="ops",
                message=Message(
                    to=["ops"],
                    type="job.message",
                    title=EVIL if at % 5 == 0 else f"backup {at} ended",
                    text=EVIL,
                    data={EVIL: [EVIL]},
                    labels={"team": "shop"},
                ),
                state=states[at % 4],
                attempts=at % 4 + 1,
                failures=at % 4,
                created_s=now_s - 60 * at,
                since_s=now_s - 60 * at,
                due_s=now_s + 300,
                ended_s=now_s - 30 if at % 4 >= 2 else None,
                reason="410 Gone" if at % 4 == 3 else "",
            )
            for at in range(70)
        ]

    def language_of(self, destination: str) -> Language:
        return self.languages.get(destination, "en")

    async def destinations(self) -> Sequence[DestinationView]:
        return [
            DestinationView(name="ops", kind="slack", address="hooks.slack.com", queued=18, delivered=18, dead=17),
            DestinationView(name="old", kind="webhook", address=EVIL, known=False, dead=1, trouble=EVIL, retry_s=None),
        ]

    async def find(
        self, *, destination: str = "", state: str = "", limit: int = 50, cursor: str = "", count: bool = False
    ) -> Page[OutboxRow]:
        found = [
            one
            for one in self.rows
            if (not destination or one.destination == destination) and (not state or one.state == state)
        ]
        start = int(cursor) if cursor.isdigit() else 0
        following = str(start + limit) if start + limit < len(found) else ""
        return Page(items=found[start : start + limit], cursor=following, total=len(found) if count else None)

    async def show(self, message_id: str) -> OutboxRow:
        for one in self.rows:
            if one.message_id == message_id:
                return one
        raise NotFound(f"'{message_id}': no message has this id")

    async def redeliver(self, message_id: str, actor: Actor) -> OutboxRow:
        self.calls.append(("redeliver", message_id, str(actor)))
        at = [one.message_id for one in self.rows].index(message_id)
        self.rows[at] = msgspec.structs.replace(
            self.rows[at], state=MessageState.QUEUED, ended_s=None, reason="", failures=0
        )
        return self.rows[at]

    async def redeliver_dead(self, destination: str, actor: Actor) -> int:
        self.calls.append(("redeliver_dead", destination, str(actor)))
        return 17

    def preview(self, destination: str, message: Message | None = None) -> Preview:
        title = message.title if message is not None else "an example"
        return Preview(destination=destination, kind="slack", address="https://x", title=title, text="", content=None)

    async def test(self, destination: str, actor: Actor) -> Enqueued:
        self.calls.append(("test", destination, str(actor)))
        return Enqueued(message_id="msg_test", destination=destination, created=True)


def furnish_traffic(program: FakeProgram) -> tuple[FakeHooks, FakeOutbox]:
    """Give the program webhooks and messages."""
    hooks, outbox = FakeHooks(program.clock), FakeOutbox(program.clock)
    program.services.hooks = hooks  # type: ignore[assignment]
    program.services.outbox = outbox  # type: ignore[assignment]
    return hooks, outbox


def furnish_settings(program: FakeProgram) -> None:
    """Give the program a configuration of 500 settings and a newest look at itself."""
    rows = [
        Row(path="server.listen", value=":8080", origin="dogwatch.yaml:3"),
        Row(path="schedules[0].parameters.token", value="hunter22", origin="dogwatch.yaml:9"),
        Row(path="server.grace", value="10s", origin="default"),
        Row(path="database.url", value="***", origin="environment DATABASE_URL"),
        Row(path="probes[0].name", value=EVIL, origin="probes/evil.yaml:1"),
        Row(path="probes[0].labels", value={EVIL: ["x" * 900]}, origin="probes/evil.yaml:2"),
        *(Row(path=f"probes[{at}].every", value="15s", origin=f"probes/many.yaml:{at}") for at in range(1, 495)),
    ]
    program.services.settings = lambda: rows
    sample = Sample(
        time_s=program.clock.now_s(),
        at_s=1.0,
        fds=20,
        fd_limit=1024,
        threads=5,
        resident_bytes=61 * 2**20,
        tasks=14,
        task_kinds={"Probe.run": 12},
        gc_counts=(1, 2, 3),
        lag=Lag(0.004, 0.002, 60),
        gauges={"runs_busy": 2.0, "bus_dropped": 0.0},
    )
    program.services.sample = lambda: sample
    program.finding_list = [{"key": "k", "symptom": EVIL, "cause": EVIL, "evidence": [{"what": EVIL, "last": 1.0}]}]
