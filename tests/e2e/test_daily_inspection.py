"""The daily inspection leaves a real daemon at its time of day: by mail and by webhook, and says what is to be said."""

from __future__ import annotations

import asyncio
import base64
import email
import email.policy
import json
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from tests.e2e.running import Daemon, running
from tests.receiver import Receiver, receiving
from tests.smtp import Mailbox, mailbox

from dogwatch.notify import standard

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
EVIL = "<img src=x onerror=alert(1)>"
ZONE = ZoneInfo("Asia/Kathmandu")  # +05:45: an hour that is nobody's own
# A busy machine, or a disk that is full, is nothing that somebody should be told of here.
CONFIG = """
self_watch: {lag_warn: 1h}
host: {collectors: {filesystem: {enabled: false}}}
server: {external_url: "https://watch.example"}
probes:
  - {name: "EVIL", tcp: "127.0.0.1:1", every: 500ms, timeout: 400ms, failures: 1}
  - {name: fine, exec: ["true"], every: 1h}
incidents: {settle: 0s}
jobs:
  - {name: broken, steps: [{name: one, exec: "false"}]}
  - name: daily-inspection
    steps: [{name: send, report: {to: [post, hook, chinese]}}]
notify:
  post: {email: {host: 127.0.0.1, port: MAILPORT, tls: none, from: watch@example.org, to: [ada@example.org]}}
  hook: {webhook: {url: "HOOK/one", secrets: ["SECRET"]}}
  chinese: {language: zh, webhook: {url: "HOOK/two", secrets: ["SECRET"]}}
"""
# Further tries begin later: a busy machine may take its time to put the schedule in force.
AHEAD_S = (6, 15, 40)


def configured(box: Mailbox, hook: Receiver) -> str:
    text = CONFIG.replace("EVIL", EVIL).replace("MAILPORT", str(box.port))
    return text.replace("HOOK", hook.url).replace("SECRET", SECRET)


async def ask(daemon: Daemon, path: str) -> Any:
    return await asyncio.to_thread(daemon.get, path)


async def until(true: Callable[[], Awaitable[bool]], within_s: float = 60.0) -> None:
    """Ask until it is so."""
    end_s = time.monotonic() + within_s
    while not await true():
        if time.monotonic() > end_s:
            raise TimeoutError
        await asyncio.sleep(0.1)  # the daemon is another process: it tells nobody here


async def at_its_time(daemon: Daemon, text: str, arrived: Callable[[], Awaitable[bool]]) -> datetime:
    """Add a schedule for a time of day that comes soon, and return it once the report has come."""
    for ahead_s in AHEAD_S:
        at = datetime.fromtimestamp(time.time() + ahead_s, ZONE)
        cron = f"{at.second} {at.minute} {at.hour} * * *"
        line = f'  - {{name: every-morning, job: daily-inspection, cron: "{cron}", time_zone: {ZONE.key}}}\n'
        daemon.config.write_text(f"{text}schedules:\n{line}")
        try:
            await until(arrived, ahead_s + 30)
        except TimeoutError:
            continue
        return at
    raise AssertionError("no report came at any of its times")


def letter_of(box: Mailbox) -> tuple[email.message.EmailMessage, str]:
    letter: Any = email.message_from_string(box.letters[0], policy=email.policy.default)
    return letter, str(letter.get_content()).replace("\r\n", "\n")


def parts_of(text: str, *titles: str) -> list[str]:
    """Return what stands below each of the titles, which come in this order."""
    found = []
    for title in titles:
        assert f"{title}\n" in text, (title, text)
        before, _, text = text.partition(f"{title}\n")
        found.append(before)
    return [*found[1:], text]


@pytest.mark.timeout(240)
async def test_it_comes_at_its_time_by_mail_and_webhook(tmp_path: Path) -> None:
    async with mailbox() as box, receiving() as hook:
        text = configured(box, hook)
        daemon = Daemon(tmp_path, text)
        try:
            await asyncio.to_thread(daemon.start)
            # Something is wrong, something ended badly, and something was changed.
            assert (await asyncio.to_thread(daemon.run, "job", "run", "broken", "--follow")).returncode == 1
            await asyncio.to_thread(daemon.run, "probe", "pause", "fine")

            async def wrong() -> bool:
                return bool((await ask(daemon, "/api/v1/incidents?state=open"))["items"])

            await until(wrong)
            reports: list[Any] = []

            async def arrived() -> bool:
                reports[:] = [one for one in hook.requests if json.loads(one.body).get("type") == "report.daily"]
                return len(reports) == 2 and bool(box.letters)

            due = await at_its_time(daemon, text, arrived)
            fires = (await ask(daemon, "/api/v1/schedules/every-morning/fires"))["items"]
            assert fires[0]["state"] == "started"
            fired = datetime.fromtimestamp(fires[0]["fire_s"], ZONE)
            assert (fired.hour, fired.minute, fired.second) == (due.hour, due.minute, due.second)

            letter, said = letter_of(box)
            assert letter["Subject"].startswith("Dogwatch: ")
            assert "need a person" in letter["Subject"]
            # Text, whatever a name looks like: there is nothing in it that a reader's program would run.
            assert letter.get_content_type() == "text/plain"
            assert not letter.is_multipart()
            person, checked, changed = parts_of(said, "Needs a person", "Checked", "Changed")
            assert EVIL in person
            assert "nobody has taken incident #1" in person
            assert "broken failed" in person
            assert "https://watch.example/incidents/1" in person
            assert "targets: 2" in checked
            assert "1 down" in checked
            assert "incidents: 1 opened" in changed
            assert "the configuration was changed (file): +schedules.every-morning" in changed
            assert "1 × pause probe" in changed
            assert "https://watch.example/reports/daily" in said

            keys = [standard.parse_secret(SECRET)]
            told = {one.path: json.loads(one.body) for one in reports}
            for one in reports:
                moment = int(one.headers["webhook-timestamp"])
                signed = dict(standard.headers(keys, one.headers["webhook-id"], moment, one.body))
                given = {name.lower(): value for name, value in signed.items()}
                assert one.headers["webhook-signature"] == given["webhook-signature"]
            assert EVIL in json.dumps(told["/one"])
            assert "nobody has taken incident #1" in json.dumps(told["/one"])
            assert "需要人处理" in json.dumps(told["/two"], ensure_ascii=False)

            # The page of the same: names are text there, too.
            status, page = await asyncio.to_thread(daemon.request, "GET", "/reports/daily")
            assert status == 200
            assert EVIL.encode() not in page
            assert b"&lt;img src=x" in page
        finally:
            await asyncio.to_thread(daemon.close)


@pytest.mark.timeout(120)
async def test_a_day_that_needs_nobody_is_quiet_if_asked_for(tmp_path: Path) -> None:
    async with mailbox() as box, receiving() as hook:
        text = configured(box, hook).replace('127.0.0.1:1"', f'127.0.0.1:{box.port}"')
        text = text.replace("{to: [post, hook, chinese]}", "{to: [post], only_if_needed: true}")
        with running(tmp_path, text) as daemon:

            async def up() -> bool:
                page = await ask(daemon, "/api/v1/targets?status=up")
                return bool(page["total"] == 2)

            await until(up)
            done = await asyncio.to_thread(daemon.run, "job", "run", "daily-inspection", "--follow")
            assert done.returncode == 0, done.stderr
            assert "nothing" in done.stdout
            assert (await ask(daemon, "/api/v1/outbox"))["total"] == 0
            assert box.letters == []
