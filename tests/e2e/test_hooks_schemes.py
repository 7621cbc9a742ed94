"""Every way of proving who calls a webhook, signed here as its sender documents it, against a real daemon."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping

import pytest
from tests.e2e.running import Daemon, running, wait_until

SECRET = "a secret of a test"
KEY = base64.b64encode(b"a key of a test, 24 bytes").decode()
CONFIG = f"""
jobs:
  - name: note
    parameters: {{n: {{type: integer}}}}
    steps: [{{name: say, exec: {{run: "echo number {{{{ params.n }}}}"}}}}]
hooks:
  - {{name: github, job: note, github: {{secrets: ["{SECRET}"]}}, parameters: {{n: payload.n}}}}
  - {{name: gitlab, job: note, gitlab: {{secrets: ["{SECRET}"]}}, parameters: {{n: payload.n}}}}
  - {{name: standard, job: note, standard: {{secrets: ["whsec_{KEY}"]}}, parameters: {{n: payload.n}}}}
  - {{name: stripe, job: note, stripe: {{secrets: ["old secret of a test", "{SECRET}"]}}, parameters: {{n: payload.n}}}}
  - name: slack
    job: note
    hmac:
      header: X-Slack-Signature
      prefix: v0=
      signed: "v0:{{timestamp}}:{{body}}"
      timestamp_header: X-Slack-Request-Timestamp
      secrets: ["{SECRET}"]
    parameters: {{n: payload.n}}
  - {{name: bearer, job: note, token: {{secrets: ["{SECRET}"], prefix: "Bearer "}}, parameters: {{n: payload.n}}}}
"""
Sign = Callable[[bytes, str, int], Mapping[str, str]]


def _hex(signed: bytes, secret: str) -> str:
    return hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def _github(body: bytes, secret: str, _at: int) -> Mapping[str, str]:
    return {"X-GitHub-Event": "push", "X-Hub-Signature-256": f"sha256={_hex(body, secret)}"}


def _gitlab(body: bytes, secret: str, _at: int) -> Mapping[str, str]:
    key = hashlib.sha256(body).hexdigest()
    return {"X-Gitlab-Event": "Push Hook", "X-Gitlab-Token": secret, "Idempotency-Key": key}


def _standard(body: bytes, secret: str, at: int) -> Mapping[str, str]:
    key = base64.b64decode(KEY) if secret == SECRET else b"another"
    name = "msg_" + hashlib.sha256(body).hexdigest()[:20]
    mac = hmac.new(key, f"{name}.{at}.".encode() + body, hashlib.sha256).digest()
    told = f"v1,{base64.b64encode(b'of an older key').decode()} v1,{base64.b64encode(mac).decode()}"
    return {"webhook-id": name, "webhook-timestamp": str(at), "webhook-signature": told}


def _stripe(body: bytes, secret: str, at: int) -> Mapping[str, str]:
    return {"Stripe-Signature": f"t={at},v1={_hex(f'{at}.'.encode() + body, secret)},v0=6ffbb59b2300aae6"}


def _slack(body: bytes, secret: str, at: int) -> Mapping[str, str]:
    signature = f"v0={_hex(f'v0:{at}:'.encode() + body, secret)}"
    return {"X-Slack-Request-Timestamp": str(at), "X-Slack-Signature": signature}


def _bearer(_body: bytes, secret: str, _at: int) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {secret}"}


SIGNED: Mapping[str, Sign] = {"github": _github, "standard": _standard, "stripe": _stripe, "slack": _slack}
SENDERS: Mapping[str, Sign] = {**SIGNED, "gitlab": _gitlab, "bearer": _bearer}
TIMED = ("standard", "stripe", "slack")
# A secret that is sent says nothing about the body: without an id every request is a new one.
KNOWN_AGAIN = (*SIGNED, "gitlab")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("schemes"), CONFIG) as one:
        yield one


def send(daemon: Daemon, name: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60)
    try:
        connection.request("POST", f"/hooks/{name}", body, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


@pytest.mark.parametrize("name", sorted(SENDERS))
def test_each_sender_is_known_and_nobody_else(daemon: Daemon, name: str) -> None:
    sign, now = SENDERS[name], int(time.time())
    body = json.dumps({"n": len(name), "id": f"evt_{name}"}).encode()
    status, told = send(daemon, name, body, sign(body, SECRET, now))
    assert (status, told["state"]) == (202, "accepted"), told
    ended = wait_until(lambda: _ended(daemon, told["run"]), what="the run's end")
    assert ended["state"] == "succeeded"
    assert f"number {len(name)}" in daemon.run("run", "logs", told["run"]).stdout
    if name in KNOWN_AGAIN:
        again, twice = send(daemon, name, body, sign(body, SECRET, now))
        assert (again, twice["id"], twice["state"]) == (200, told["id"], "duplicate")
    forged = body.replace(b"evt", b"evil")
    assert send(daemon, name, forged, sign(forged, "not the secret", now))[0] == 401
    assert send(daemon, name, forged, {})[0] == 401
    if name in SIGNED:
        assert send(daemon, name, forged, sign(body, SECRET, now))[0] == 401
    if name in TIMED:
        for off_s in (-3600, 3600):
            assert send(daemon, name, forged, sign(forged, SECRET, now + off_s))[0] == 401
    replayed = daemon.run("hook", "replay", told["id"], "--json")
    assert replayed.returncode == 0, replayed.stderr
    assert json.loads(replayed.stdout)["run_id"] not in ("", told["run"])


def _ended(daemon: Daemon, run_id: str) -> dict[str, str] | None:
    run: dict[str, str] = daemon.get(f"/api/v1/runs/{run_id}")
    return run if run["state"] in ("succeeded", "failed", "cancelled") else None
