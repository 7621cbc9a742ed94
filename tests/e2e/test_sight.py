"""What somebody may not see does not appear: another team's things are put into a real daemon, of every kind, and then
every address is asked by one who is limited to a label. A word of the other team's anywhere is a leak.
"""

from __future__ import annotations

import html
import http.client
import itertools
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from tests.e2e.running import Daemon, running, wait_until
from tests.e2e.test_changes import Api, an_administrator, inner

from dogwatch.web.permissions import STREAMS, routes

# In every name, label, address, message and output of the other team. What is asked for in its place is nowhere.
WORD, NOBODY = "zebra", "xylem"
CONFIG = """
access:
  public: []
  roles:
    shop: [{nouns: ["*"], verbs: ["*"], labels: {team: shop}}]
server: {streams: 20}
probes:
  - name: shop
    tcp: "127.0.0.1:9"
    every: 1h
    timeout: 1s
    failures: 1
    labels: {team: shop}
    group: web
    depends_on: [zebra-db]
  - {name: shop-two, exec: ["false"], every: 1s, timeout: 900ms, failures: 1, labels: {team: shop}}
  - name: zebra-leaf
    exec: ["false"]
    every: 1s
    timeout: 900ms
    failures: 1
    labels: {team: zebra}
    depends_on: [shop-two]
  - {name: shop-up, exec: ["true"], every: 1h, labels: {team: shop}, group: web}
  - name: zebra-db
    exec: ["sh", "-c", "echo zebra-message; exit 1"]
    every: 1s
    timeout: 900ms
    failures: 1
    labels: {team: zebra}
    group: zebra-group
  - {name: zebra-up, exec: ["true"], every: 1s, timeout: 900ms, labels: {team: zebra}, group: web}
  - {name: zebra-beat, heartbeat: {period: 1d, grace: 1h}, labels: {team: zebra}}
incidents: {settle: 0s, notify: [ops]}
rules:
  - name: zebra-rule
    when: "!probe.success"
    match: {team: zebra}
    for: 0s
    labels: {team: zebra}
    summary: zebra-summary
  - {name: shop-rule, when: "!probe.success", match: {team: shop}, for: 0s, labels: {team: shop}}
maintenance:
  - {name: zebra-window, match: {team: zebra}, cron: "0 2 * * 0", duration: 2h, reason: zebra-reason}
jobs:
  - name: job
    labels: {team: shop}
    steps: [{name: one, exec: "echo mine"}]
  - name: zebra-job
    doc: zebra-doc
    labels: {team: zebra}
    steps: [{name: zebra-step, exec: "echo zebra-output; exit 3"}]
  - name: zebra-waits
    labels: {team: zebra}
    steps: [{name: zebra-gate, approve: {by: ["role:admin"]}}]
schedules:
  - {name: nightly, job: job, cron: "0 3 1 1 *", labels: {team: shop}}
  - {name: zebra-nightly, job: zebra-job, cron: "0 3 1 1 *", labels: {team: zebra}}
hooks:
  - {name: incoming, job: job, labels: {team: shop}, token: {secrets: ["a-token-of-a-hook"]}}
  - {name: zebra-hook, job: zebra-job, labels: {team: zebra}, token: {secrets: ["a-token-of-a-hook"]}}
notify:
  ops: {command: ["false", "zebra-argument"], retry: {base: 100ms, cap: 100ms, attempts: 1}}
fleet:
  hosts:
    box: {connection: local, labels: {team: shop}, vars: {dogwatch_state: PLACE/state}}
    zebra-box: {connection: local, labels: {team: zebra}, address: zebra.example, vars: {zebra_variable: zebra-value}}
  groups:
    all-of-us: {hosts: [box, zebra-box]}
    zebra-group: {hosts: [zebra-box]}
logs:
  sources:
    - {name: app, labels: {team: shop}, file: {paths: [PLACE/app.log]}}
    - {name: zebra-app, labels: {team: zebra}, file: {paths: [PLACE/zebra.log]}}
  routes: [{from: [app, zebra-app], to: [kept]}]
  sinks:
    - {name: kept, store: {age: 30d, size: 1GiB}}
"""
# What everybody is told, whoever they are; and the status page, which says what configuration made public.
OPEN = ("/static", "/status", "/ping", "/ack/", "/approve/", "/login", "/setup", "/healthz", "/readyz", "/favicon.ico")
# Names in addresses: of the other team, and of nobody.
THEIRS = {
    "/targets/": "zebra-db",
    "/target/": "zebra-db",
    "/hosts/": "zebra-host",
    "/host/": "zebra-host",
    "/jobs/": "zebra-job",
    "/job/": "zebra-job",
    "/schedules/": "zebra-nightly",
    "/schedule/": "zebra-nightly",
    "/schedule-plan/": "zebra-nightly",
    "/hooks/": "zebra-hook",
    "/users/": "zebra-user",
    "/notify/": "ops",
    "/badge/": "zebra-db",
    "/group-badge/": "zebra-group",
}


class World:
    """A daemon with two teams' things. ids: of the other team's, by the kind of address that they are in."""

    def __init__(self, api: Api, mine: Api, ids: dict[str, str], mines: dict[str, str]) -> None:
        self.api, self.mine, self.ids, self.mines = api, mine, ids, mines
        # Their ids are words of theirs, too. A number of an incident says only how many there have been.
        self.words = [WORD, *(one for one in {*ids.values()} if len(one) > 5 and WORD not in one)]

    def leaks(self, where: str, content: bytes, asked: str = "") -> list[str]:
        """Return what is told of the other team. asked: what was in the question, and may be in the answer."""
        text = html.unescape(content.decode("utf-8", "replace")).lower()
        for form in {asked, quote(asked, safe=""), json.dumps(asked)[1:-1]} - {""}:
            text = text.replace(form.lower(), "")
        found = [word for word in self.words if word.lower() in text]
        return [
            f"{where}: …{text[max(0, text.index(one) - 150) : text.index(one) + 60]}…" for one in map(str.lower, found)
        ]


def ended(api: Api, run: str) -> str:
    wait_until(lambda: api.get(f"/api/v1/runs/{run}")["ended_s"] is not None, what="the end of a run")
    return run


def hook(api: Api, name: str) -> str:
    answer = api.call("POST", f"/hooks/{name}", {"what": f"{name}-payload"}, authorization="a-token-of-a-hook")
    assert answer.status in (200, 202), answer.content  # type: ignore[attr-defined]
    found: str = api.get(f"/api/v1/deliveries?endpoint={name}")["items"][0]["delivery_id"]
    return found


def settle(api: Api) -> None:
    for name in ("shop", "shop-up"):
        api.ask("POST", f"/api/v1/targets/{name}/run")

    def both() -> bool:
        found = api.get("/api/v1/incidents?state=open")["items"]
        return {one["labels"].get("team") for one in found if one["explains"]} >= {"shop", WORD}

    wait_until(both, what="incidents of both teams, which explain things of the other")
    wait_until(lambda: api.get("/api/v1/outbox?state=dead")["items"], what="a dead letter")


def seeded(api: Api, daemon: Daemon) -> tuple[dict[str, str], dict[str, str]]:
    """Do something of everything for both teams, and return what came of it."""
    settle(api)
    theirs, mines = {}, {}
    theirs["/runs/"] = ended(api, api.ask("POST", "/api/v1/jobs/zebra-job/runs", {"reason": "zebra-reason"})["run_id"])
    mines["/runs/"] = ended(api, api.ask("POST", "/api/v1/jobs/job/runs", {})["run_id"])
    api.ask("POST", "/api/v1/jobs/zebra-waits/runs", {})
    theirs["/deliveries/"], mines["/deliveries/"] = hook(api, "zebra-hook"), hook(api, "incoming")
    theirs["/outbox/"] = api.get("/api/v1/outbox?state=dead")["items"][0]["message_id"]
    for at, targets in enumerate(("zebra-box", "box", "all-of-us")):
        command = "echo zebra-said; exit 1" if at == 0 else "case $PWD in x) ;; esac; true"
        run = ended(api, api.ask("POST", "/api/v1/fleet/runs", {"targets": targets, "command": command})["run_id"])
        if at != 1:
            theirs["/fleet/runs/"] = theirs.get("/fleet/runs/") or f"{run}/go"
        mines["/fleet/runs/"] = f"{run}/go" if at == 2 else ""
    wait_until(lambda: len(api.get("/api/v1/fleet/runs")["items"]) == 3, what="the fleet's runs")
    by_targets = {one["targets"]: one["run"] for one in api.get("/api/v1/fleet/runs")["items"]}
    theirs["/fleet/runs/"], mines["/fleet/runs/"] = by_targets["zebra-box"], by_targets["all-of-us"]
    incidents = api.get("/api/v1/incidents?state=open")["items"]
    theirs["/incidents/"] = str(next(one["number"] for one in incidents if one["labels"].get("team") == WORD))
    mines["/incidents/"] = str(next(one["number"] for one in incidents if one["labels"].get("team") == "shop"))
    api.ask("POST", f"/api/v1/incidents/{theirs['/incidents/']}/comment", {"text": "zebra-comment"})
    body = {"name": "zebra-planned", "duration": "1h", "match": {"team": WORD}, "reason": "zebra-reason"}
    theirs["/maintenance/"] = api.ask("POST", "/api/v1/maintenance", body)["window_id"]
    made = api.ask("POST", "/api/v1/silences", {"duration": "1h", "match": {"team": WORD}, "reason": "zebra-reason"})
    theirs["/silences/"] = made["silence_id"]
    user = {"name": "zebra-user", "password": "battery staple horse", "roles": ["viewer"], "title": "zebra-title"}
    api.ask("POST", "/api/v1/users", user)
    theirs["/tokens/"] = api.ask("POST", "/api/v1/tokens", {"name": "zebra-token", "labels": {"team": WORD}})["token"][
        "id"
    ]
    for name in ("app", "zebra"):
        (daemon.folder / f"{name}.log").write_text(f'{name} wrote this trace_id="abc"\n' * 3)
    # There is no store before the first line.
    wait_until(lambda: texts(api.call("GET", "/api/v1/logs?limit=100")).count(b"wrote this") >= 6, what="the logs")
    api.call("POST", "/ping/zebra-beat", {"note": "zebra-note"})
    return theirs, mines


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("sight")
    (folder / "app.log").touch()
    (folder / "zebra.log").touch()
    with running(folder, CONFIG.replace("PLACE", str(folder))) as daemon:
        api = Api(daemon, an_administrator(daemon))
        api.ask("POST", "/api/v1/users", {"name": "sam", "password": "horse battery staple", "roles": ["shop"]})
        body = {"name": "sam", "password": "horse battery staple"}
        mine = Api(daemon, json.loads(api.call("POST", "/api/v1/login", body).content)["secret"])  # type: ignore[attr-defined]
        theirs, mines = seeded(api, daemon)
        yield World(api, mine, theirs, mines)


def named(path: str, world: World, kind: str) -> tuple[str, str]:
    """Return an address with names in it, and the name. kind: theirs, mine, or nobody's."""
    mine = {"/targets/": "shop", "/target/": "shop", "/jobs/": "job", "/job/": "job", "/hooks/": "incoming"}
    mine |= {"/schedules/": "nightly", "/schedule/": "nightly", "/schedule-plan/": "nightly", "/badge/": "shop"}
    mine |= {"/users/": "sam", "/group-badge/": "web"}
    aliases = {
        "/run/": "/runs/",
        "/incident/": "/incidents/",
        "/fleet-run/": "/fleet/runs/",
        "/explain/": "/incidents/",
    }
    told = ""

    def name(found: re.Match[str]) -> str:
        nonlocal told
        place = next(
            (one for one in sorted(THEIRS | world.ids, key=len, reverse=True) if path[: found.start()].endswith(one)),
            "",
        )
        short = re.search(r"/[^/]+/$", path[: found.start()])
        place = place or aliases.get(short[0] if short else "", "")
        known = {**THEIRS, **world.ids}.get(place, "zebra-anything")
        text = (
            known
            if kind == "theirs"
            else (mine | world.mines).get(place, "")
            if kind == "mine"
            else known.replace(WORD, NOBODY)
        )
        if kind == "nobody" and WORD not in known:
            text = "999999" if known.isdigit() else "nobody0000"
        if not told:
            told = text
        file = ".svg" if found[0] == "{file:str}" else ""
        return quote(text, safe="") + file

    return re.sub(r"\{[^}]+\}", name, path), told


def addresses() -> list[str]:
    return sorted(
        {
            route.path
            for route, method, _opt in routes(inner())
            if method == "GET" and not route.path.startswith(OPEN) and not route.path.endswith(STREAMS)
        }
    )


def texts(answer: http.client.HTTPResponse) -> bytes:
    content: bytes = answer.content  # type: ignore[attr-defined]
    return content + b"\n" + str(answer.headers).encode()


def test_no_address_tells_of_the_other_team(world: World) -> None:
    found, shown = [], 0
    for pattern in addresses():
        for accept in ("application/json", "text/html"):
            path, _name = named(pattern, world, "mine") if "{" in pattern else (pattern, "")
            answer = world.mine.call("GET", path, accept=accept, **{"accept-language": "en"})
            assert answer.status < 500, (path, answer.status, texts(answer)[:300])
            shown += answer.status == 200
            found += world.leaks(path, texts(answer))
    assert shown > 60, "too little was seen at all"
    assert not found, "\n".join(found)


def said(answer: http.client.HTTPResponse, *asked: str) -> tuple[int, list[str]]:
    """Return what an answer says, without what was asked for, and without what moves by itself."""
    text = html.unescape(texts(answer).decode(errors="replace"))
    for one in asked:
        for form in (quote(one, safe=""), quote(one), one):
            text = text.replace(form, "ASKED") if not form.isdigit() else text
    text = re.sub(r"(?im)^(date|content-length|etag): .*$", "", text)
    return answer.status, re.sub(r"\d+(\.\d+)?(e-?\d+)?", "N", text).splitlines()


def difference(world: World, first: str, second: str, accept: str, asked: tuple[str, str], *more: str) -> str:
    """Return where two addresses answer differently, "" where they do not. Tried again: something may have moved."""
    told = ""
    for _ in range(3):
        one, two = (
            said(world.mine.call("GET", path, accept=accept), who, *more)
            for path, who in zip((first, second), asked, strict=True)
        )
        if one == two:
            return ""
        lines = next(((a, b) for a, b in itertools.zip_longest(one[1], two[1]) if a != b), ("", ""))
        told = f"{first} {one[0]} {lines[0]!r:.300} but {second} {two[0]} {lines[1]!r:.300}"
    return told


def test_their_names_are_like_nobodys(world: World) -> None:
    """Neither an answer nor its headers tell whether there is such a thing that one may not see."""
    found = []
    for pattern in addresses():
        if "{" not in pattern:
            continue
        theirs, name = named(pattern, world, "theirs")
        nobodys, other = named(pattern, world, "nobody")
        for accept in ("application/json", "text/html"):
            found.append(difference(world, theirs, nobodys, accept, (name, other), "zebra-anything", "xylem-anything"))
            found += world.leaks(theirs, texts(world.mine.call("GET", theirs, accept=accept)), name)
    assert not any(found), "\n".join(filter(None, found))


def parameters() -> Iterator[tuple[str, str]]:
    """Yield every address of the API with each of its text parameters; pages have much the same."""
    document: Any = inner().openapi_schema.to_schema()
    for path, methods in document["paths"].items():
        for one in methods.get("get", {}).get("parameters", ()):
            kinds = json.dumps(one.get("schema", {}))
            if one["in"] == "query" and '"string"' in kinds and "enum" not in kinds:
                yield path, one["name"]


SEARCHED = [
    (path, name)
    for path in (
        "/",
        "/incidents",
        "/rules",
        "/fleet",
        "/runs",
        "/jobs",
        "/schedules",
        "/deliveries",
        "/logs",
        "/audit",
    )
    for name in ("q", "where", "text", "source", "job", "endpoint", "targets", "label", "group")
] + [
    (path, name)
    for path in ("/fragments/palette", "/fragments/rows", "/compare", "/maintenance")
    for name in ("q", "target", "of")
]


def test_no_search_finds_the_other_team(world: World) -> None:
    """What is looked for with a word of theirs gives what a word of nobody's gives."""
    found = []
    for path, name in [*parameters(), *SEARCHED]:
        if "{" in path or path.endswith(STREAMS):
            continue
        for sign, word in (
            ("", ""),
            ("", "-db"),
            ("", "-job"),
            ("", "-box"),
            ("@", "-group"),
            ("team=", ""),
            ("", "-app"),
        ):
            asked = (f"{WORD}{word}", f"{NOBODY}{word}")
            first, second = (f"{path}?{name}={quote(sign + one)}" for one in asked)
            # A word of the question may be in the answer, alone, too; whatever else is told of them differs.
            accept = "text/html,application/json"
            found.append(difference(world, first, second, accept, asked, WORD, NOBODY))
    assert not any(found), "\n".join(filter(None, found))


def test_what_is_counted_is_mine(world: World) -> None:
    mine = world.mine
    assert mine.get("/api/v1/targets")["total"] == 3
    assert sum(mine.get("/api/v1/status")["targets"].values()) == 3
    assert mine.get("/api/v1/fleet/hosts")["total"] == 1
    assert [one["name"] for one in mine.get("/api/v1/jobs")["items"]] == ["job"]
    runs = {one["targets"]: one for one in mine.get("/api/v1/fleet/runs")["items"]}
    assert set(runs) == {"box"}, "of a run over all, only what was mine"
    assert [(one["hosts_total"], sum(one["counts"].values())) for one in runs.values()] == [(1, 1)] * len(runs)
    counted = mine.get("/api/v1/logs/counts?group=source")
    assert (counted["matched"], [one["values"] for one in counted["groups"]]) == (3, [{"source": "app"}])
    for one in mine.get("/api/v1/incidents")["items"]:
        held = mine.get(f"/api/v1/incidents/{one['number']}")["explains"]
        assert one["explains"] == max(0, len(held) - 1), one
    assert mine.get("/api/v1/tokens")["total"] == 1
    report = mine.get("/api/v1/reports/availability")
    assert len(report["targets"]) == 3
    lines = [
        one for one in texts(mine.call("GET", "/metrics")).decode().splitlines() if one.startswith("probe_success{")
    ]
    assert len(lines) <= 3


def test_others_tokens_cannot_be_ended(world: World) -> None:
    token = world.ids["/tokens/"]
    assert world.mine.call("POST", f"/api/v1/tokens/{token}/revoke").status == 404
    shown = next(one for one in world.api.get("/api/v1/tokens")["items"] if one["id"] == token)
    assert shown["revoked_s"] is None


def test_no_run_is_put_under_the_eyes_of_others(world: World) -> None:
    body = {"labels": {"team": WORD}}
    assert world.mine.call("POST", "/api/v1/jobs/job/runs", body).status == 403


def listening(world: World, path: str, stop: threading.Event) -> tuple[threading.Thread, bytearray]:
    heard = bytearray()
    connection = http.client.HTTPConnection("127.0.0.1", world.mine.daemon.port, timeout=60)
    connection.request("GET", path, headers={"authorization": f"Bearer {world.mine._token}"})
    answer = connection.getresponse()
    heard += f"{answer.status}\n".encode()

    def read() -> None:
        try:
            while not stop.is_set() and (part := answer.read1(65536)):
                heard.extend(part)
        except (OSError, ValueError, AttributeError, http.client.HTTPException):
            pass  # closed by the test

    thread = threading.Thread(target=read)
    thread.start()
    thread.close = lambda: (stop.set(), connection.sock and connection.sock.shutdown(2), connection.close())  # type: ignore[attr-defined]
    return thread, heard


def test_no_stream_tells_of_the_other_team(world: World) -> None:
    streams = sorted(
        {route.path for route, method, _opt in routes(inner()) if method == "GET" and route.path.endswith(STREAMS)}
    )
    assert len(streams) >= 4
    stop = threading.Event()
    heard: dict[str, tuple[threading.Thread, bytearray]] = {}
    try:
        for pattern in streams:
            heard[pattern] = listening(world, named(pattern, world, "mine")[0], stop)
            if "{" in pattern:
                theirs = named(pattern, world, "theirs")[0]
                assert world.mine.call("GET", theirs).status == 404, theirs
        api = world.api
        ended(api, api.ask("POST", "/api/v1/jobs/zebra-job/runs", {})["run_id"])
        number = world.ids["/incidents/"]
        api.ask("POST", f"/api/v1/incidents/{number}/comment", {"text": "zebra-again"})
        api.ask("POST", "/api/v1/targets/zebra-up/pause")
        api.ask("POST", "/api/v1/targets/zebra-up/resume")
        hook(api, "zebra-hook")
        with (world.mine.daemon.folder / "zebra.log").open("a") as file:
            file.write("zebra wrote more\n")
        with (world.mine.daemon.folder / "app.log").open("a") as file:
            file.write("app wrote more\n")
        api.ask("POST", "/api/v1/targets/shop-up/run")
        wait_until(lambda: b"shop-up" in heard["/api/v1/events"][1], what="an event of my own")
        wait_until(lambda: b"app wrote more" in heard["/api/v1/logs/tail"][1], what="a line of my own")
        found = [one for path, (_thread, told) in heard.items() for one in world.leaks(path, bytes(told))]
        assert not found, "\n".join(found)
    finally:
        for thread, _told in heard.values():
            thread.close()  # type: ignore[attr-defined]
            thread.join(30)
