"""The whole way on a real daemon: a webhook comes in, a job runs, a notification goes out, signed."""

from __future__ import annotations

import http.client
import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.e2e.running import Daemon, running, wait_until
from tests.hooking import SECRET, github

from dogwatch.notify import standard
from dogwatch.webhooks.request import RawRequest
from dogwatch.webhooks.schemes import StandardScheme

KEY = standard.new_secret()
CONFIG = """
jobs:
  - name: deploy
    parameters: {{sha: {{}}}}
    steps:
      - name: build
        exec: "echo building {{{{ params.sha }}}}"
      - name: tell
        notify:
          to: [ops]
          title: "{{{{ params.sha }}}} is out"
          data: {{event: "{{{{ trigger.data.event }}}}"}}

hooks:
  - name: shop
    job: deploy
    github: {{secrets: ["{secret}"]}}
    filter: 'event == "push"'
    parameters: {{sha: payload.after}}

notify:
  ops:
    webhook: {{url: "{url}", secrets: ["{key}"]}}
    retry: {{base: 100ms, cap: 100ms}}
"""


@contextmanager
def receiver() -> Iterator[tuple[str, queue.Queue[tuple[dict[str, str], bytes]]]]:
    seen: queue.Queue[tuple[dict[str, str], bytes]] = queue.Queue()

    class Taker(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.put(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taker)
    thread = threading.Thread(target=server.serve_forever, name="receiver")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/in", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def push(daemon: Daemon, sha: str, **options: str) -> tuple[int, dict[str, str]]:
    body = json.dumps({"after": sha}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60)
    try:
        connection.request("POST", "/hooks/shop", body, github(body, **options))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_from_a_webhook_to_a_notification(tmp_path: Path) -> None:
    with receiver() as (url, seen):
        config = CONFIG.format(secret=SECRET, url=url, key=KEY)
        with running(tmp_path, config) as daemon:
            status, told = push(daemon, "abc")
            assert (status, told["state"]) == (202, "accepted"), daemon.output()
            headers, body = seen.get(timeout=30)
            request = RawRequest(headers=headers, body=body)
            now_s = float(headers["webhook-timestamp"])
            StandardScheme(secrets=(KEY,)).verify(request, now_s=now_s, tolerance_s=5.0)
            message = json.loads(body)
            assert message["data"]["title"] == "abc is out"
            assert message["data"]["event"] == "push"
            assert message["data"]["run_id"] == told["run"]
            ended = lambda: daemon.get(f"/api/v1/runs/{told['run']}")["state"] == "succeeded"  # noqa: E731
            wait_until(ended, within_s=60, what="the run's end")
            # The same again is no second run, whatever happens in between.
            assert push(daemon, "abc")[1] == {"id": told["id"], "state": "duplicate", "run": ""}
            assert daemon.stop() == 143
            daemon.start()
            assert push(daemon, "abc", delivery="again")[1]["id"] == told["id"]
            assert seen.empty()
            listed = daemon.run("hook", "deliveries", "--json")
            assert [one["duplicates"] for one in json.loads(listed.stdout)] == [2]
            assert daemon.run("notify", "test", "ops").returncode == 0
            replayed = daemon.run("hook", "replay", told["id"], "--json")
            assert replayed.returncode == 0, replayed.stderr
            assert SECRET not in daemon.output()


def test_a_hook_without_its_job_is_refused_with_its_name(tmp_path: Path) -> None:
    config = tmp_path / "dogwatch.yaml"
    config.write_text("hooks:\n  - {name: x, job: absent, none: {unsafe: true}}\n")
    daemon = Daemon(tmp_path, config.read_text())
    daemon.spawn()
    assert daemon.process is not None
    assert daemon.process.wait(60) == 2
    assert "no job is called 'absent'" in daemon.output()
