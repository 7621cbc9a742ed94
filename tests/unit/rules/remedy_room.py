"""A remedy decider that is played through time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dogwatch.engine.kinds.exec import ExecAction
from dogwatch.engine.schedules.plan import shared_zones
from dogwatch.rules.desk import Setting
from dogwatch.rules.driver import Moment, decide
from dogwatch.rules.escalation import Escalation, IncidentOptions, Policy
from dogwatch.rules.escalation import Step as Told
from dogwatch.rules.incident import Decisions, Note, Order, State
from dogwatch.rules.maintenance import Calendar, MaintenanceSpec, build_maintenance
from dogwatch.rules.remedy.compile import Wanted, remedies_of
from dogwatch.rules.remedy.services import (
    ServiceSpec,
)
from dogwatch.rules.remedy.spec import BackoffSpec, BudgetSpec, DoSpec, RemediationOptions, RemedySpec
from dogwatch.rules.remedy.values import Remedies, Result, Start
from dogwatch.rules.spec import RuleSpec
from dogwatch.rules.topology import Node, Topology
from dogwatch.rules.watcher import Alert, AlertEdge

START = 1_800_000_000.0
RESTART = DoSpec(action=ExecAction(run="restart"), name="restart", verify=60.0)
NODES = (Node(name="host"), Node(name="shop", depends_on=("host",)), Node(name="a"), Node(name="b"), Node(name="c"))


def rule(*do: DoSpec, **changes: Any) -> RuleSpec:
    base = {
        "name": "bad", "when": "probe.success", "do": do or (RESTART,), "mode": "auto",
        "budget": BudgetSpec(max=10, per=3600.0, at_once=10),
        "remedy": RemedySpec(backoff=BackoffSpec(base=30.0, cap=100.0, reset=600.0), cooldown=0.0),
    }  # fmt: skip
    return RuleSpec(**{**base, **changes})


class Room:
    """Drives both deciders with a clock of its own, and keeps all that was decided."""

    def __init__(
        self,
        *rules: RuleSpec,
        services: Sequence[ServiceSpec] = (),
        freeze: Sequence[MaintenanceSpec] = (),
        most: Any = "auto",
        nodes: Sequence[Node] = NODES,
    ) -> None:
        wanted = Wanted(rules=rules, services=services, options=RemediationOptions(mode=most))
        remedies: Remedies = remedies_of(wanted, lambda _host, script: ExecAction(run=script), nodes)
        options = IncidentOptions(
            notify=("ops",),
            settle=30.0,
            escalations=(Escalation(name="up", steps=(Told(after=3600.0, notify=("boss",)),)),),
        )
        self.setting = Setting(
            policy=Policy(options),
            topology=Topology(nodes),
            calendar=Calendar(),
            remedies=remedies,
            freeze=Calendar(build_maintenance(one, shared_zones()) for one in freeze),
        )
        self.state, self.now_s = State(), START
        self.out: dict[tuple[str, str], Alert] = {}
        self.notes: list[Note] = []
        self.starts: list[Start] = []
        self.every: list[Decisions] = []

    def feed(self, *inputs: Any) -> Decisions:
        orders = [one for one in inputs if isinstance(one, Order | Result)]
        edges = tuple(one for one in inputs if not isinstance(one, Order | Result))
        seen = [Moment(time_s=self.now_s, edges=edges)] if edges or not orders else []
        self.state, decisions = decide(self.setting, self.state, seen, orders, now_s=self.now_s)
        self.notes += decisions.notes
        self.starts += decisions.starts
        self.every.append(decisions)
        return decisions

    def down(self, *targets: str, name: str = "bad", **labels: str) -> None:
        edges = []
        for target in targets:
            alert = Alert(
                rule=name, group=target, targets=(target,), since_s=self.now_s, severity="error", labels=labels,
                summary=f"{target} is bad", escalation="up", notify=("ops",),
            )  # fmt: skip
            self.out[name, target] = alert
            edges.append(AlertEdge(time_s=self.now_s, fired=True, alert=alert))
        self.feed(*edges)

    def up(self, *targets: str, name: str = "bad") -> None:
        self.feed(
            *(AlertEdge(time_s=self.now_s, fired=False, alert=self.out.pop((name, target))) for target in targets)
        )

    def wait(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s = min(until_s, self.now_s + 5.0)
            self.feed()

    def ended(self, *, ok: bool = True, start: int = -1, **changes: Any) -> None:
        self.feed(Result(key=self.starts[start].key, ok=ok, **{"reason": "" if ok else "exit code 1", **changes}))

    @property
    def kinds(self) -> list[str]:
        return [note.kind for note in self.notes if note.kind not in ("opened", "joined", "told", "ended", "resolved")]

    @property
    def told(self) -> list[str]:
        parts = [part for one in self.every for notice in one.notices for part in notice.parts]
        return [f"{part.kind} {','.join(part.to)}" for part in parts]
