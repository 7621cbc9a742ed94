"""What a reload would change is shown before anything is done: command line, API and console, of a real daemon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, expect
from tests.consoles import needs_chromium
from tests.e2e.running import Daemon, running, wait_until

BEFORE = """
probes:
  - {name: shop, exec: ["true"], every: 1h}
  - {name: gone, exec: ["true"], every: 1h}
rules:
  - {name: slow, when: "probe.duration_s > 1", for: 1m}
jobs:
  - {name: backup, steps: [{name: one, exec: "true"}]}
schedules:
  - {name: nightly, job: backup, cron: "30 3 * * *"}
"""
AFTER = """
probes:
  - {name: shop, exec: ["true"], every: 2h, timeout: 7s}
  - {name: blog, exec: ["true"], every: 1h}
rules:
  - {name: slow, when: "probe.duration_s > 2", for: 1m}
jobs:
  - {name: backup, steps: [{name: one, exec: "true"}]}
schedules:
  - {name: nightly, job: backup, cron: "30 3 * * *"}
  - {name: weekly, job: backup, cron: "30 3 * * 0"}
"""
# Right, but only from a restart on: what is on disk stays different from what is in force.
ELSEWHERE = "database: {url: 'postgresql://ann:hunter22-of-the-plan@127.0.0.1:1/watch'}\n"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path, BEFORE) as one:
        yield one


def planned(daemon: Daemon, *arguments: str) -> tuple[int, Any]:
    done = daemon.run("reload", "plan", "--json", *arguments)
    return done.returncode, json.loads(done.stdout)


def in_force(daemon: Daemon) -> Any:
    """Return what a plan must not touch."""
    return (
        sorted((one["name"], one["every_s"]) for one in daemon.get("/api/v1/targets")["items"]),
        [one["when"] for one in daemon.get("/api/v1/rules")["items"]],
        [one["name"] for one in daemon.get("/api/v1/schedules")["items"]],
        len(daemon.get("/api/v1/reloads")["items"]),
        len(daemon.get("/api/v1/audit")["items"]),
    )


def refused(daemon: Daemon) -> int:
    return sum(one["outcome"] == "failed" for one in daemon.get("/api/v1/reloads")["items"])


def noted(daemon: Daemon) -> int:
    return int(daemon.get("/api/v1/audit?verb=reload")["total"])


def write(daemon: Daemon, text: str) -> None:
    """Write a configuration that cannot be put in force, and wait until that was tried."""
    before = refused(daemon), noted(daemon)
    daemon.config.write_text(text)
    wait_until(lambda: refused(daemon) > before[0], what="the refusal")
    # It is in the trail a moment after it has ended.
    wait_until(lambda: noted(daemon) > before[1], what="its audit event")


def test_nothing_would_change(daemon: Daemon) -> None:
    assert planned(daemon, "--exit-code") == (0, planned(daemon)[1])
    assert planned(daemon)[1]["outcome"] == "unchanged"
    assert daemon.run("reload", "plan").stdout == "Nothing would change: the files say what is in force.\n"


def test_what_would_change_is_told_and_nothing_is_done(daemon: Daemon) -> None:
    write(daemon, AFTER + ELSEWHERE)
    before = in_force(daemon)
    code, plan = planned(daemon)
    assert (code, plan["outcome"]) == (2, "fails")
    assert [(one["section"], one["name"], one["what"], one["keys"]) for one in plan["differences"]] == [
        ("probes", "shop", "changed", ["every", "timeout"]),
        ("probes", "blog", "added", []),
        ("rules", "slow", "changed", ["when"]),
        ("schedules", "weekly", "added", []),
        ("database", "url", "added", []),
        ("probes", "gone", "removed", []),
    ]
    assert plan["counts"]["probes"] == {"added": 1, "changed": 1, "removed": 1}
    assert "database.url: cannot change while running" in plan["restart"][0]
    assert plan["problems"] == plan["restart"]
    text = daemon.run("reload", "plan").stdout
    assert "probes: 1 added, 1 changed, 1 removed" in text
    assert "  ~ shop (every, timeout)" in text
    assert "Needs a restart" in text
    assert daemon.run("reload", "now", "--plan").returncode == 2
    assert in_force(daemon) == before, "a plan has changed something"
    # What is not right is told with its place.
    write(daemon, AFTER.replace('cron: "30 3 * * 0"', 'cron: "99 3 * * 0"'))
    code, plan = planned(daemon)
    assert (code, plan["outcome"], plan["restart"]) == (2, "fails", [])
    assert "dogwatch.yaml:" in plan["problems"][0]
    # Mended it is put in force, and there is nothing left to plan.
    daemon.config.write_text(AFTER)
    wait_until(lambda: [one["name"] for one in daemon.get("/api/v1/targets")["items"]] == ["shop", "blog"])
    wait_until(lambda: planned(daemon)[1]["outcome"] == "unchanged", what="the end of the reload")


def test_secrets_are_not_told(daemon: Daemon) -> None:
    secret = "hunter22-of-the-plan"
    write(daemon, AFTER + f"notify: {{ops: {{webhook: {{url: 'https://x.example/{secret}'}}}}}}\n" + ELSEWHERE)
    text = daemon.run("reload", "plan").stdout + json.dumps(planned(daemon)[1])
    assert "ops" in text
    assert secret not in text


@needs_chromium
async def test_the_button_shows_the_plan_first(daemon: Daemon, browser: Browser) -> None:
    write(daemon, AFTER + ELSEWHERE)
    before = in_force(daemon)
    context = await browser.new_context(locale="en-GB")
    page = await context.new_page()
    await page.goto(f"{daemon.server}/settings")
    await page.click("text=Reload…")
    dialog = page.locator("dialog")
    await expect(dialog).to_contain_text("It would fail, and all stays as it is")
    await expect(dialog).to_contain_text("Needs a restart")
    for name in ("probes.shop", "probes.blog", "probes.gone", "schedules.weekly"):
        await expect(dialog).to_contain_text(name)
    await expect(dialog.locator("table tbody tr")).to_have_count(4)
    await page.click("dialog >> text=Leave it")
    await expect(dialog).to_have_count(0)
    assert in_force(daemon) == before
    await context.close()
