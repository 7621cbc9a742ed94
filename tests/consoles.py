"""A console with something on every page: a real server, a real database, a fake program around them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from playwright.async_api import Browser, Page, expect

from dogwatch.access.options import AccessOptions
from dogwatch.access.service import Access
from dogwatch.access.tables import access_tables
from dogwatch.core.clock import ManualClock, SystemClock
from dogwatch.fleet.book.tables import fleet_tables
from dogwatch.notify.section import NOTIFY
from dogwatch.notify.tables import notify_tables
from dogwatch.rules.planned.part import MaintenancePart, once
from dogwatch.rules.planned.tables import maintenance_tables
from dogwatch.rules.quorum.part import LocationsPart
from dogwatch.rules.quorum.spec import Locations, Quorum
from dogwatch.rules.remedy.tables import remedy_tables
from dogwatch.rules.spec import RuleSpec
from dogwatch.rules.tables import incident_tables
from dogwatch.status.part import Around, StatusPart
from dogwatch.status.section import StatusGroup, StatusOptions, Subscriptions
from dogwatch.status.tables import status_tables
from dogwatch.store.state_sqlite import open_sqlite
from tests.access import CHEAP, LOCAL, PASSWORD
from tests.fakes import FakeProgram
from tests.fakes_console import furnish_schedules, furnish_settings, furnish_traffic
from tests.fakes_fleet import furnish_fleet
from tests.fakes_runs import furnish
from tests.incidents import Target, Watched
from tests.web_server import Running, running

CHROMIUM = Path("/usr/bin/chromium")
needs_chromium = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed")
AXE = Path(__file__).parent / "e2e" / "vendor" / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
# Every page that has an address of its own.
PAGES = (
    "/",
    "/?q=shop",
    "/targets/shop",
    "/targets/nightly-backup",
    "/hosts/watch-1",
    "/compare",
    "/compare?of=target%3Ashop&of=target%3Ablog&of=target%3Alogin&of=host%3Awatch-1&of=host%3Abuild-2",
    "/incidents",
    "/incidents?state=all",
    "/incidents/1",
    "/rules",
    "/maintenance",
    "/status",
    "/reports/availability",
    "/reports/daily",
    "/fleet",
    "/fleet?q=web",
    "/fleet/runs/fleet1%2Fgo",
    "/fleet/plans",
    "/fleet/plans/plan1",
    "/fleet/plans/plan2",
    "/jobs",
    "/jobs/deploy",
    "/runs",
    "/runs/01991111",
    "/runs/01992222",
    "/workers",
    "/schedules",
    "/schedules/nightly%2Fdeploy",
    "/webhooks",
    "/deliveries",
    "/deliveries/dlv_0001",
    "/outbox",
    "/outbox/msg_0003",
    "/settings",
    "/settings/configuration",
    "/users",
    "/tokens",
    "/audit",
)
SLOW = RuleSpec(name="slow-checkout", when='avg(probe.duration_s, "1m") > 1', for_=20.0, labels={"team": "shop"})


PUBLIC = StatusOptions(
    title="Shop status",
    url="https://status.example",
    groups=(
        StatusGroup(title="Shop", targets=("shop",), groups=("web",), names={"shop": "Web shop"}),
        StatusGroup(title="Data", targets=("db-1",), text="Where orders are kept."),
    ),
    subscriptions=Subscriptions(email="mail", webhook="hooks"),
)


PLACES = Locations(
    name="berlin",
    quorum=tuple(Quorum(target=name, locations=("berlin", "oslo", "rome"), down=2) for name in ("shop", "blog")),
)


def _never_spawned(_name: str, coroutine: Any) -> Any:
    raise AssertionError("nothing of this runs by itself here")


class Console:
    """A running server. Incidents are decided on while it runs."""

    def __init__(self, server: Running, program: FakeProgram, watched: Watched, access: Access) -> None:
        self.server, self.program, self.watched, self.access = server, program, watched, access
        self.url = server.url
        self.access_actor = LOCAL

    async def user(self, name: str, *roles: str) -> None:
        await self.access.add_user(LOCAL, name, PASSWORD, roles)


async def _turn(watched: Watched, program: FakeProgram) -> None:
    with watched.bus.subscribe("incident", capacity=1000) as told:
        while True:
            await asyncio.sleep(0.05)
            await watched.part.turn()
            for event in told.take():
                program.bus.publish(event)


@asynccontextmanager
async def console(
    folder: Path,
    options: AccessOptions | None = None,
    program: FakeProgram | None = None,
    *,
    public: StatusOptions | None = None,
    **changes: Any,
) -> AsyncIterator[Console]:
    clock = SystemClock()
    tables = (
        access_tables(),
        notify_tables(),
        incident_tables(),
        maintenance_tables(),
        status_tables(),
        remedy_tables(),
        fleet_tables(),
    )
    database = await open_sqlite(folder / "state.db", tables, clock)
    access = Access(database, folder, clock, msgspec.structs.replace(options or AccessOptions(), password=CHEAP))
    await access.open()
    watched = Watched(database, (SLOW,), ManualClock(now_s=time.time() - 70))
    watched.targets = [
        Target(name="db", labels={"team": "base"}),
        Target(name="shop", depends_on=("db",), labels={"team": "shop"}),
        Target(name="mail", labels={"team": "secret-mail"}),
    ]
    program = program or FakeProgram(clock=clock)
    furnish(program.runs)
    furnish_settings(program)
    furnish_schedules(program)
    furnish_traffic(program)
    program.services.access, program.services.database = access, database
    program.services.fleet = await furnish_fleet(folder, database)
    program.services.incidents = watched.part
    program.services.maintenance = maintenance = MaintenancePart(
        database, program.store, clock=clock, spawn=_never_spawned
    )
    program.services.locations = LocationsPart(
        database, clock=clock, spawn=_never_spawned, targets=program.watch.targets
    )
    program.services.locations.options = PLACES
    program.services.status = StatusPart(
        Around(
            database=database,
            clock=clock,
            bus=program.bus,
            spawn=_never_spawned,
            enqueue=watched.enqueue,
            targets=program.watch.targets,
            incidents=watched.part,
            maintenance=maintenance,
            destinations=NOTIFY,
        )
    )
    program.services.status.options = PUBLIC if public is None else public
    window = once("switch", time.time() + 3600, time.time() + 7200, targets=("shop",), reason="status: new switches")
    await maintenance.add(window, LOCAL)
    try:
        await watched.pass_time(30, db=0.1, shop=0.1, mail=0.1)
        await watched.pass_time(30, db=-1, shop=-1, mail=-1)
        async with running(program, **changes) as server:
            task = asyncio.create_task(_turn(watched, program))
            try:
                yield Console(server, program, watched, access)
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
    finally:
        await watched.part.stop()
        await database.close()


async def live(page: Page) -> None:
    """Wait until a page hears the server; what is public does not listen."""
    if "/status" in page.url:
        await page.wait_for_load_state("load")
        return
    await expect(page.locator("#live")).to_have_attribute("data-state", "live")


@asynccontextmanager
async def opened(
    browser: Browser, server: Running, path: str = "/", *, width: int = 1280, scheme: str = "light", expected: str = ""
) -> AsyncIterator[Page]:
    """Open a page that is live; afterwards demand that it asked nobody else and complained about nothing but what
    holds `expected`.
    """
    context = await browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,  # type: ignore[arg-type]
        locale="en-GB",
    )
    page = await context.new_page()
    complaints: list[str] = []
    foreign: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda one: foreign.append(one.url) if not one.url.startswith(server.url) else None)
    await page.goto(server.url + path)
    await expect(page.locator("#live")).to_have_attribute("data-state", "live")
    try:
        yield page
        assert foreign == []
        assert [one for one in complaints if not expected or expected not in one] == []
    finally:
        await context.close()


async def violations(page: Page, rules: Sequence[str] = RULES) -> list[Any]:
    """Return what axe has to say against a page. It must have been opened with bypass_csp."""
    if not await page.evaluate("'axe' in window"):
        await page.add_script_tag(path=AXE)
    found = await page.evaluate("(rules) => axe.run(document, {runOnly: rules})", list(rules))
    return [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found["violations"]]


async def violations_in_both_themes(page: Page) -> list[Any]:
    """The same, and once more in the other theme: there only colours differ."""
    found = await violations(page)
    await page.emulate_media(color_scheme="dark")
    found += [("dark", *one) for one in await violations(page, ("color-contrast",))]
    await page.emulate_media(color_scheme="light")
    return found
