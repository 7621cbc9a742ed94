"""A desk that is played through time, and its dependencies."""

from __future__ import annotations

from collections.abc import Sequence

from dogwatch.engine.schedules.plan import shared_zones
from dogwatch.rules.desk import Setting, step
from dogwatch.rules.escalation import (
    IncidentOptions,
    Policy,
)
from dogwatch.rules.incident import Decisions, Incident, Note, Notice, Order, State
from dogwatch.rules.maintenance import Calendar, MaintenanceSpec, build_maintenance
from dogwatch.rules.topology import Node, Topology
from dogwatch.rules.watcher import Alert, AlertEdge

START = 1_800_000_000.0
# A host, its container, its service; and a service that only says so.
NODES = (
    Node(name="host"),
    Node(name="box", labels={"host": "host"}),
    Node(name="shop", labels={"container": "box"}),
    Node(name="pay", depends_on=("shop",)),
    Node(name="lone"),
)


def options(**changes: object) -> IncidentOptions:
    return IncidentOptions(**{"notify": ("ops",), **changes})  # type: ignore[arg-type]


class Room:
    """Drives the decider with a clock of its own, and keeps all that was decided."""

    def __init__(
        self,
        some: IncidentOptions | None = None,
        nodes: Sequence[Node] = NODES,
        windows: Sequence[MaintenanceSpec] = (),
    ) -> None:
        calendar = Calendar(build_maintenance(one, shared_zones()) for one in windows)
        self.setting = Setting(policy=Policy(some or options()), topology=Topology(nodes), calendar=calendar)
        self.state = State()
        self.now_s = START
        self.notices: list[Notice] = []
        self.notes: list[Note] = []
        self.ended: list[Incident] = []

    def alert(self, target: str, rule: str = "target-down", **labels: str) -> Alert:
        return Alert(
            rule=rule,
            group=target,
            targets=(target,),
            since_s=self.now_s,
            severity="error",
            labels=labels,
            summary=f"{target} is down",
        )

    def feed(self, *inputs: AlertEdge | Order) -> Decisions:
        self.state, decisions = step(self.setting, self.state, inputs, self.now_s)
        self.notices += decisions.notices
        self.notes += decisions.notes
        self.ended += decisions.ended
        return decisions

    def down(self, *targets: str) -> None:
        self.feed(*(AlertEdge(time_s=self.now_s, fired=True, alert=self.alert(name)) for name in targets))

    def up(self, *targets: str) -> None:
        self.feed(*(AlertEdge(time_s=self.now_s, fired=False, alert=self.alert(name)) for name in targets))

    def wait(self, seconds: float, every_s: float = 5.0) -> None:
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s = min(until_s, self.now_s + every_s)
            self.feed()

    @property
    def told(self) -> list[str]:
        return [part.text for notice in self.notices for part in notice.parts]

    @property
    def open(self) -> list[str]:
        return [incident.root for incident in self.state.incidents.values()]
