"""A fleet for pages: an inventory on disk, and two commands over it in a real database."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dogwatch.access.actor import Actor
from dogwatch.config.load import Loader
from dogwatch.fleet.book.plan_rows import Made, NewPlan
from dogwatch.fleet.book.planned import Claim, PlanHost, Shown, ShownItem, ShownStep
from dogwatch.fleet.book.values import Key, Opening
from dogwatch.fleet.connection import State
from dogwatch.fleet.part import FleetPart
from dogwatch.fleet.results import HostResult
from dogwatch.fleet.section import FLEET
from dogwatch.store.database import Database

ADA = Actor(kind="user", name="ada")
EVIL = "<script>alert(1)</script>"
CONFIG = """
fleet:
  hosts:
    web[01-12]: {address: 192.0.2.7, labels: {team: shop, rack: "7"}}
    db[1-2]: {labels: {team: data}}
  groups:
    shop: {hosts: ["web[01-12]"]}
  playbooks: {site: site.yaml, database: db/main.yaml}
"""


async def furnish_fleet(folder: Path, database: Database) -> FleetPart:
    """Return a fleet with a run that ended in every way, and one that goes on."""
    file = folder / "fleet.yaml"
    file.write_text(CONFIG)
    part = FleetPart(database=database)
    part.prepare(Loader([file], [FLEET], environ={}).load()).swap()
    book = part.book
    assert book is not None
    names = [f"web{at:02}" for at in range(1, 13)]
    hosts: dict[str, Mapping[str, str]] = {name: {"team": "shop"} for name in names}
    opening = Opening(what=f"echo '{EVIL}'; uptime", targets="@shop", orders={}, actor=ADA, hosts=hosts)
    key = await book.open(opening, Key("fleet1", "go"))
    recorder = book.recorder(key, await book.hosts(key), attempt=1)
    ends = [HostResult(host=name, state=State.SUCCEEDED, exit_code=0, stdout=b"up 3 days\n") for name in names[:8]]
    ends.append(HostResult(host="web09", state=State.NON_ZERO, exit_code=3, stdout=EVIL.encode(), stderr=b"no\n"))
    ends.append(
        HostResult(host="web10", state=State.REFUSED, message="192.0.2.7:22 refuses connections", hint="is sshd there?")
    )
    for one in ends:
        await recorder.ended(one)
    await book.close(key, [*ends, HostResult(host="web11", state=State.NOT_STARTED)], "2 of 12 hosts failed", ADA)
    more = Opening(what="apt-get -y upgrade", targets="db*", orders={}, actor=ADA, hosts={"db1": {}, "db2": {}})
    going = await book.open(more, Key("fleet2", "go"))
    await book.recorder(going, await book.hosts(going), attempt=1).begun("db1", 1)
    await furnish_plans(part)
    return part


async def furnish_plans(part: FleetPart) -> None:
    """Add a plan that waits for approval, one that was applied with trouble, and a look for drift."""
    desk = part.desk
    assert desk is not None
    diff = f"--- /etc/motd\n+++ /etc/motd\n@@ -1 +1 @@\n-{EVIL}\n+welcome"
    shown = Shown(
        total=4,
        items=(
            ShownItem(name="main file", kind="file", steps=(ShownStep(title="change /etc/motd", diff=diff),)),
            ShownItem(name="reload", kind="command", handler=True, later="main file"),
        ),
    )
    texts = {"a": shown, "b": Shown(total=4), "c": Shown(problems=(f"site.yaml:3: {EVIL}",))}
    hosts = [
        PlanHost(host=f"web{at:02}", place=at, labels={"team": "shop"}, state="changes", changes=1, shown="a")
        for at in range(1, 9)
    ]
    hosts.append(PlanHost(host="web09", place=9, labels={"team": "shop"}, state="same", shown="b"))
    hosts.append(PlanHost(host="web10", place=10, state="problems", shown="c"))
    hosts.append(PlanHost(host="web11", place=11, state="unread", message="192.0.2.7:22 refuses connections"))
    for plan_id, kind in (("plan1", "plan"), ("plan2", "plan"), ("plan3", "drift")):
        await desk.open(NewPlan(plan_id=plan_id, kind=kind, playbook="site", targets="@shop", actor=ADA, run_id="r1"))
        made = Made(document=b"{}", digest="d", approval=plan_id == "plan1", hosts=hosts, texts=texts)
        await desk.made(plan_id, made)
    claim = Claim(run_id="r2", new_id="a1")
    former = await desk.show("plan2")
    await desk.claim("plan2", claim, ADA, other_ended=False)
    ended = {f"web{at:02}": ("applied", "") for at in range(1, 8)} | {"web08": ("moved", "changed since the plan: x")}
    await desk.ended("plan2", claim, ADA, ended, former=former, stopped="1 of 11 hosts failed")
