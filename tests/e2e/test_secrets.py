"""Secrets of every kind are planted in a real daemon, everything is used, and then everything is searched for them."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.e2e.running import Daemon, running, wait_until
from tests.e2e.test_changes import PASSWORD, Api, an_administrator, inner

from dogwatch.web.permissions import routes

# What each is, and itself: words that stand nowhere else.
PLANTED = {
    name: f"{name}-K7q{number}xW9vPz"
    for number, name in enumerate(
        (
            *("environment", "file", "header", "basic", "hook", "channel", "parameter", "password", "payload"),
            *("item", "part", "variable", "sink", "collector"),
        )
    )
}
CONFIG = """
probes:
  - name: shop
    http:
      url: "http://127.0.0.1:{port}/health"
      headers: {{X-Api-Key: "{header}", Authorization: "Bearer ${{PLANTED_ENVIRONMENT}}"}}
    every: 1s
    timeout: 500ms
    failures: 1
  - name: inside
    http: {{url: "http://watch:{basic}@127.0.0.1:{port}/health"}}
    every: 1s
    timeout: 500ms
incidents: {{settle: 0s, notify: [ops]}}
jobs:
  - name: deploy
    parameters:
      token: {{secret: true}}
    secrets: {{kept: "${{file:{folder}/planted}}"}}
    steps:
      - name: show
        exec: "echo param {{{{ params.token }}}} {{{{ secrets.kept }}}}; echo {{{{ secrets.kept }}}} >&2; exit 3"
  - name: spread
    parameters:
      hosts: {{type: list, secret: true}}
    secrets: {{both: "{part}"}}
    steps:
      - name: each
        map:
          over: "{{{{ params.hosts }}}}"
          on_error: collect
          exec: "echo item {{{{ item }}}}; sleep 1; exit 3"
      - name: split
        always: true
        map:
          over: "{{{{ [secrets.both] }}}}"
          on_error: collect
          exec: "echo part {{{{ item }}}}; sleep 1; exit 3"
traces: {{url: "http://127.0.0.1:{port}", headers: {{X-Api-Key: "{collector}"}}}}
fleet:
  hosts:
    box1: {{connection: local, vars: {{dogwatch_state: {folder}/state}}}}
logs:
  sources:
    - {{name: app, file: {{paths: [{folder}/app.log]}}}}
  routes: [{{from: [app], to: [away]}}]
  sinks:
    - name: away
      http: {{url: "http://127.0.0.1:{port}/sink", headers: {{Authorization: "Bearer {sink}"}}}}
hooks:
  - {{name: incoming, job: deploy, token: {{secrets: ["{hook}"]}}, parameters: {{token: payload.token}}}}
notify:
  ops:
    webhook: {{url: "http://127.0.0.1:{port}/{channel}", unsigned: true}}
    retry: {{base: 100ms, cap: 100ms}}
"""


@contextmanager
def refusing(heard: list[tuple[str, bytes]]) -> Iterator[int]:
    """Serve what echoes the request's own headers in its refusals, as careless servers do. heard: is given bodies."""

    class Careless(BaseHTTPRequestHandler):
        def answer(self) -> None:
            heard.append((f"sent to {self.path}", self.rfile.read(int(self.headers.get("content-length") or 0))))
            body = f"no: {dict(self.headers)}".encode()
            self.send_response(400 if self.path == "/sink" else 500)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = answer  # noqa: N815 as the library calls it
        do_POST = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Careless)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def forms(secret: str) -> list[bytes]:
    """Return a secret as it may be written."""
    plain = secret.encode()
    return [plain, base64.b64encode(plain).rstrip(b"=")[:-1], quote(secret).encode(), plain.hex().encode()]


def found_in(where: str, content: bytes, wanted: dict[str, str]) -> list[str]:
    return [f"{name} in {where}" for name, secret in wanted.items() if any(form in content for form in forms(secret))]


def read_everything(api: Api, names: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """Yield every page and every answer of the API that is got, with the names of what there is in them."""
    for route, method, _opt in routes(inner()):
        path = route.path
        if method != "GET" or path.endswith(("/events", "/follow", "/tail")) or "/oidc" in path:
            continue
        for pattern, name in names.items():
            path = path.replace(pattern, quote(name, safe=""))
        if "{" not in path:
            answer = api.call("GET", path)
            yield path, answer.content + str(answer.headers).encode()  # type: ignore[attr-defined]


def used(daemon: Daemon, api: Api) -> dict[str, str]:
    """Use what holds secrets, wrongly too, and return the names of what came of it."""
    run = api.ask("POST", "/api/v1/jobs/deploy/runs", {"parameters": {"token": PLANTED["parameter"]}})["run_id"]
    api.ask("POST", "/api/v1/jobs/deploy/plan", {"parameters": {"token": PLANTED["parameter"]}})
    sent = {"token": PLANTED["payload"], "note": f"<{PLANTED['payload']}>"}
    answer = api.call("POST", "/hooks/incoming", sent, authorization=PLANTED["hook"])
    assert (answer.status, b"accepted" in answer.content) == (202, True)  # type: ignore[attr-defined]
    api.call("POST", "/hooks/incoming", {"token": 1}, authorization=PLANTED["hook"] + "x")
    api.call("POST", "/api/v1/login", {"name": "root", "password": PLANTED["password"]})
    api.call("POST", "/api/v1/login", {"name": PLANTED["password"], "password": "x"})
    made = {"name": "ann", "password": PLANTED["password"], "roles": ["viewer"]}
    api.ask("POST", "/api/v1/users", made, idempotency_key="one")
    api.call("POST", "/api/v1/users", made)
    api.call("POST", "/api/v1/users", {**made, "roles": 5})
    spread_and_planned(daemon, api)
    wait_until(lambda: api.get(f"/api/v1/runs/{run}")["state"] == "failed", what="the run's end")
    wait_until(lambda: api.get("/api/v1/incidents")["items"], what="an incident")
    wait_until(lambda: api.get("/api/v1/targets/inside/failures")["items"], what="a failure")
    message = wait_until(lambda: api.get("/api/v1/outbox")["items"], what="a message")[0]["message_id"]
    delivery = api.get("/api/v1/deliveries")["items"][0]["delivery_id"]
    replayed = api.ask("POST", f"/api/v1/deliveries/{delivery}/replay")["run_id"]
    wait_until(lambda: api.get(f"/api/v1/runs/{replayed}")["state"] == "failed", what="the replay's end")
    # A secret where it does not belong: the message names the place, not the value.
    good = daemon.config.read_text()
    daemon.config.write_text(good.replace("every: 1s", 'every: "${PLANTED_ENVIRONMENT}"', 1))
    assert api.call("POST", "/api/v1/reload").status < 500
    daemon.config.write_text(good)
    api.call("POST", "/api/v1/reload")
    return {
        "{run_id:str}": run,
        "{message_id:str}": message,
        "{delivery_id:str}": delivery,
        "{number:int}": "1",
        "{subject:str}": "shop",
    }


def spread_and_planned(daemon: Daemon, api: Api) -> None:
    """Run over lists of secrets, killed in the middle; plan with a variable whose name says what it is."""
    body = {"parameters": {"hosts": [PLANTED["item"], f"other-{PLANTED['item']}"]}}
    spread = api.ask("POST", "/api/v1/jobs/spread/runs", body)["run_id"]
    wait_until(lambda: len(api.get(f"/api/v1/runs/{spread}/steps")) > 2, what="the map")
    daemon.process.kill()  # type: ignore[union-attr]
    daemon.process.wait()  # type: ignore[union-attr]
    daemon.start()
    wait_until(lambda: api.get(f"/api/v1/runs/{spread}")["state"] == "failed", within_s=90, what="the end of the map")
    said = api.call("GET", f"/api/v1/runs/{spread}/output").content  # type: ignore[attr-defined]
    assert said.count(b"item ***") >= 2, said
    assert said.count(b"part ***") >= 1, said
    again = api.ask("POST", f"/api/v1/runs/{spread}/rerun", {"failed_only": True})["run_id"]
    wait_until(lambda: api.get(f"/api/v1/runs/{again}")["state"] == "failed", within_s=90, what="the end of the rerun")
    playbook = b"hosts: all\noperations: [{file: {path: '{{ place }}', content: 'is {{ db_password }}'}}]\n"
    given = {"db_password": PLANTED["variable"], "place": str(daemon.folder / "made")}
    files = {"p.yaml": base64.b64encode(playbook).decode()}
    plan = api.ask("POST", "/api/v1/fleet/plans", {"main": "p.yaml", "files": files, "vars": given})["plan"]
    wait_until(lambda: api.get(f"/api/v1/fleet/plans/{plan}")["state"] != "planning", what="the plan")
    shown = api.call("GET", f"/api/v1/fleet/plans/{plan}/hosts").content  # type: ignore[attr-defined]
    assert b"is ***" in shown, shown
    run = api.ask("POST", f"/api/v1/fleet/plans/{plan}/apply", {})["run_id"]
    wait_until(lambda: api.get(f"/api/v1/runs/{run}")["ended_s"], what="the apply")
    assert (daemon.folder / "made").read_text() == f"is {PLANTED['variable']}"


@contextmanager
def command_lines(seen: list[tuple[str, bytes]]) -> Iterator[None]:
    """Look at the command lines of all processes all the time: everybody on the machine may."""
    stop = threading.Event()
    lines: set[bytes] = set()

    def look() -> None:
        while not stop.wait(0.02):
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    lines.add((process / "cmdline").read_bytes())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        seen += [(f"the command line {line[:200]!r}", line) for line in lines]


def said_by_commands(daemon: Daemon, run: str, delivery: str) -> Iterator[tuple[str, bytes]]:
    env = {**os.environ, "DOGWATCH_SERVER": daemon.server, "DOGWATCH_SOCKET": str(daemon.data / "admin.sock")}
    env["PLANTED_ENVIRONMENT"] = PLANTED["environment"]
    for words in (
        ["config", "show", "-c", str(daemon.config)],
        ["config", "check", "-c", str(daemon.config)],
        ["status", "--json"],
        ["run", "show", run],
        ["run", "logs", run],
        ["probe", "show", "inside"],
        ["notify", "outbox"],
        ["hook", "deliveries"],
        ["hook", "delivery", delivery],
        ["hook", "delivery", delivery, "--json"],
        ["audit", "export"],
        ["user", "list", "--json"],
        ["debug", "tasks"],
    ):
        done = subprocess.run(daemon.command(*words), capture_output=True, env=env, timeout=30, check=False)
        yield " ".join(words), done.stdout + done.stderr


@pytest.mark.timeout(180)
def test_no_secret_is_kept_logged_shown_or_told(tmp_path: Path) -> None:
    (tmp_path / "planted").write_text(PLANTED["file"])
    places: list[tuple[str, bytes]] = []
    (tmp_path / "app.log").write_text("a plain line\n")
    with refusing(places) as port, command_lines(places):
        config = CONFIG.format(port=port, folder=tmp_path, **PLANTED)
        env = {"PLANTED_ENVIRONMENT": PLANTED["environment"]}
        with running(tmp_path, config, env=env) as daemon:
            token = an_administrator(daemon)
            api = Api(daemon, token)
            names = used(daemon, api)
            for name in ("shop", "inside", "deploy", "incoming", "ops", "ann"):
                places += read_everything(api, {**names, "{name:str}": name})
            places += said_by_commands(daemon, names["{run_id:str}"], names["{delivery_id:str}"])
            daemon.stop()
        places.append(("the log", daemon.log.read_bytes()))
    kept = [file for file in daemon.data.rglob("*") if file.is_file() and not file.name.endswith(".sock")]
    places += [(f"data/{file.relative_to(daemon.data)}", file.read_bytes()) for file in kept]
    # The search itself works: what is no secret is found on pages, in the log and in the store.
    assert sum(b"shop" in content for _where, content in places) > 10
    assert any(where == "data/state.db" and b"deploy" in content for where, content in places)
    wanted = {**PLANTED, "own password": PASSWORD, "token": token}
    told = sorted({one for where, content in places for one in found_in(where, content, wanted)})
    assert not told, "\n".join(told)
