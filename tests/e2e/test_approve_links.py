"""An action approved by the link in its notice, in a real daemon: looking does nothing, the button does it once."""

from __future__ import annotations

import http.client
import json
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.e2e.running import Daemon, free_port, running, wait_until

CONFIG = """
server: {{external_url: "https://watch.example"}}
notify:
  ops: {{webhook: {{url: "http://127.0.0.1:{port}/", unsigned: true}}}}
  eve: {{webhook: {{url: "http://127.0.0.1:{port}/", unsigned: true}}}}
incidents: {{notify: [ops, eve], settle: 0s}}
probes:
  - name: shop
    heartbeat: {{period: 1h}}
    failures: 1
    successes: 1
    do: [{{says: restart the shop, exec: "echo did >> {acts}", verify: 0s}}]
    mode: approve
    remedy: {{approvers: ["link:ops"], expires: {expires}, cooldown: 0s, evidence: {{enabled: false}}}}
"""


def config(folder: Path, *, expires: str = "10m") -> str:
    return CONFIG.format(port=free_port(), acts=folder / "acts", expires=expires)


def asked(daemon: Daemon) -> dict[str, Any]:
    """Return the questions that were told, by destination, once the run waits for its answer."""

    def look() -> dict[str, Any]:
        state = sqlite3.connect(f"file:{daemon.data}/state.db?mode=ro", uri=True)
        try:
            bodies = [json.loads(row[0]) for row in state.execute("SELECT body FROM outbox")]
        finally:
            state.close()
        return {one["to"][0]: one for one in bodies if one["type"] == "incident.asked"}

    found: dict[str, Any] = wait_until(lambda: len(look()) == 2 and look(), within_s=20, what="the question")
    (run_id,) = found["ops"]["data"]["runs"]
    wait_until(lambda: "approval" in daemon.get(f"/api/v1/runs/{run_id}")["waiting_for"], what="it")
    return found


def fall(daemon: Daemon) -> None:
    assert daemon.request("POST", "/ping/shop")[0] == 200
    wait_until(lambda: daemon.target("shop")["status"] == "up", what="health")
    assert daemon.request("POST", "/ping/shop/fail")[0] == 200


def answer(daemon: Daemon, path: str, body: str) -> tuple[int, str]:
    """Send the form as a browser does that never logged in."""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=10)
    try:
        connection.request("POST", path, body=body, headers={"Content-Type": "application/x-www-form-urlencoded"})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_whoever_was_named_approves_by_the_link_once(tmp_path: Path) -> None:
    acts = tmp_path / "acts"
    with running(tmp_path, config(tmp_path)) as daemon:
        fall(daemon)
        told = asked(daemon)
        (run_id,) = told["ops"]["data"]["runs"]
        url = told["ops"]["data"]["approve_urls"][run_id]
        assert url in told["ops"]["text"]
        # Only a destination that the rule names as one that approves has a link.
        assert "approve_urls" not in told["eve"]["data"]
        assert "/approve/" not in told["eve"]["text"]
        path = urlsplit(url).path
        for method in ("GET", "HEAD", "GET"):
            status, body = daemon.request(method, path)
            assert status == 200
            assert method == "HEAD" or b"restart the shop?" in body
        assert not acts.exists()
        assert answer(daemon, path, "")[0] == 400
        assert daemon.request("GET", path.replace("/approve/", "/ack/"))[0] == 404
        assert not acts.exists()
        status, page = answer(daemon, path, "answer=approve")
        assert (status, "Approved" in page) == (200, True)
        wait_until(acts.exists, within_s=20, what="the action")
        assert answer(daemon, path, "answer=approve")[0] == 404
        assert daemon.request("GET", path)[0] == 404
        wait_until(lambda: daemon.get(f"/api/v1/runs/{run_id}")["state"] == "succeeded", what="its end")
        assert acts.read_text() == "did\n"
        state = sqlite3.connect(f"file:{daemon.data}/state.db?mode=ro", uri=True)
        try:
            events = state.execute("SELECT actor, name FROM audit_events WHERE actor LIKE 'link:%'").fetchall()
        finally:
            state.close()
        assert events == [("link:ops", run_id)]


def test_a_link_is_of_no_use_after_the_time_to_approve(tmp_path: Path) -> None:
    with running(tmp_path, config(tmp_path, expires="1s")) as daemon:
        fall(daemon)
        told = asked(daemon)
        (run_id,) = told["ops"]["data"]["runs"]
        path = urlsplit(told["ops"]["data"]["approve_urls"][run_id]).path
        wait_until(lambda: daemon.get(f"/api/v1/runs/{run_id}")["state"] == "failed", what="the end of its time")
        assert "Nothing is asked any more" in daemon.request("GET", path)[1].decode()
        assert answer(daemon, path, "answer=approve")[0] == 409
        assert not (tmp_path / "acts").exists()


def test_a_link_rejects(tmp_path: Path) -> None:
    with running(tmp_path, config(tmp_path)) as daemon:
        fall(daemon)
        told = asked(daemon)
        (run_id,) = told["ops"]["data"]["runs"]
        path = urlsplit(told["ops"]["data"]["approve_urls"][run_id]).path
        status, page = answer(daemon, path, "answer=reject")
        assert (status, "Rejected" in page) == (200, True)
        wait_until(lambda: daemon.get(f"/api/v1/runs/{run_id}")["state"] == "failed", what="its end")
        assert not (tmp_path / "acts").exists()
        escalated = daemon.run("incident", "escalate", "1")
        # There is no further step: whoever asks hears so.
        assert (escalated.returncode, "everybody was told" in escalated.stderr) == (11, True)


def test_a_destination_that_is_not_there_cannot_approve(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(config(tmp_path).replace("link:ops", "link:opps"))
    daemon = Daemon(tmp_path, config(tmp_path))
    checked = daemon.run("config", "check", "--config", str(file))
    assert checked.returncode == 2
    assert "unknown destination 'opps'" in checked.stderr + checked.stdout
    assert "ops" in checked.stderr + checked.stdout
