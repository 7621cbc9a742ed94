"""The live part of incidents with remedies, with a clock that the test drives; nobody works on the runs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from dogwatch.config.section import Section
from dogwatch.engine.runs import RunBook
from dogwatch.engine.values import Run, RunFilter
from dogwatch.probes.kinds.tcp import TcpProbe
from dogwatch.probes.spec import ProbeSpec
from dogwatch.rules.escalation import IncidentOptions, incidents_section
from dogwatch.rules.part import Incidents
from dogwatch.rules.remedy import records
from dogwatch.rules.remedy.acting import Acting
from dogwatch.rules.remedy.compile import jobs_of
from dogwatch.rules.remedy.doing import Doings, Sections
from dogwatch.rules.remedy.records import Action
from dogwatch.rules.remedy.services import services_section
from dogwatch.rules.remedy.spec import (
    REMEDIATION,
    BackoffSpec,
    BudgetSpec,
    DoSpec,
    RemediationOptions,
    RemedySpec,
)
from dogwatch.rules.spec import rules_section
from dogwatch.rules.surroundings import Around
from dogwatch.store.database import Database
from tests.incidents import OPTIONS, Watched
from tests.runs import Nothing
from tests.runs import book as open_book

DO = DoSpec(action=Nothing(), name="restart", says="restart it", verify=60.0, attempts=3)
REMEDY = RemedySpec(backoff=BackoffSpec(base=5.0, cap=5.0), cooldown=0.0)


def probe(name: str, **changes: Any) -> ProbeSpec:
    base: dict[str, Any] = {"do": (DO,), "mode": "auto", "budget": BudgetSpec(max=5, at_once=5), "remedy": REMEDY}
    return ProbeSpec(name=name, check=TcpProbe(host="h", port=1), **{**base, **changes})


class Acted(Watched):
    """As Watched; what is watched has remedies."""

    def __init__(self, database: Database, probes: Sequence[ProbeSpec], **values: Any) -> None:
        self.probes, self.values = list(probes), values
        self.book: RunBook
        self.address = ""
        super().__init__(database, rules=values.pop("rules", ()))
        self.targets = list(probes)  # type: ignore[assignment]

    def begin(self) -> Incidents:
        async def never() -> None:
            await asyncio.get_running_loop().create_future()

        def spawn(_name: str, coroutine: Any) -> asyncio.Task[Any]:
            coroutine.close()
            return asyncio.get_running_loop().create_task(never())

        rules, incidents = rules_section(), incidents_section()
        options: IncidentOptions = self.values.get("incidents", OPTIONS)
        found: Mapping[str, Any] = {
            "rules": self.rules,
            "incidents": options,
            "maintenance": [],
            "probes": self.probes,
            "services": self.values.get("services", []),
            "remediation": self.values.get("remediation", RemediationOptions()),
        }

        class Configuration:
            def get(self, section: Section[Any]) -> Any:
                return found[section.key]

        probes: Section[Any] = Section(key="probes", type=list[ProbeSpec], doc="", default=list)
        services = services_section(None)  # type: ignore[arg-type]
        sections = Sections(rules=rules, probes=probes, services=services, ssh=lambda _host, _script: Nothing())
        assert REMEDIATION.key == "remediation"
        jobs = {one.name: one for one in jobs_of(sections.wanted(Configuration()), sections.ssh)}
        self.book = open_book(self.database, *jobs.values())
        part = Incidents(
            Around(
                database=self.database,
                clock=self.clock,
                bus=self.bus,
                store=self.store,  # type: ignore[arg-type]
                spawn=spawn,
                enqueue=self.enqueue,
                targets=lambda: self.targets,
                rules=rules,
                incidents=incidents,
                remedy=Doings(sections, Acting(self.database, self.book, address=lambda: self.address)),
            )
        )
        part.prepare(Configuration()).swap()
        return part

    async def runs(self) -> list[Run]:
        return sorted((await self.book.find(RunFilter(limit=200))).items, key=lambda run: run.created_s)

    async def actions(self, number: int = 1) -> list[Action]:
        return await self.database.read(lambda tx: records.actions(tx, number))
