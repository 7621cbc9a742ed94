"""What the program tells of its configuration: effective values, schema, starter."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest
import yaml
from tests.unit.config.watchlike import CATALOG, HttpProbe, Probe, problems, read

from dogwatch.config.schema import field_docs, schema
from dogwatch.config.show import rows
from dogwatch.config.starter import starter

WHOLE = """
server: {listen: ':80', token: hunter2, share: 0.3, grace: 90s, origins: [b, a]}
probes:
  - {name: a, http: https://a}
  - name: b
    http: {url: '${file:/u}', password: '${P}', headers: {x: '${file:/u}'}, statuses: [200]}
    version: 1.10
    labels: {b: no}
    port: ${PORT}
  - {name: c, tcp: {host: c, port: 22}, every: 1m, icmp_: }
rules:
  - {name: r, when: a == 1, do: [{ssh: {run: ls}}], extra: {deep: ['${file:/u}']}}
notify: {ops: {slack: {webhook: hunter2}}}
""".replace(", icmp_: ", "")
INPUTS: dict[str, Any] = {"environ": {"P": "hunter2", "PORT": "5"}, "secrets": {"/u": b"https://u:hunter2@b"}}


def test_every_setting_is_shown_with_its_origin_and_no_secret() -> None:
    found = {row.path: (row.value, row.origin) for row in rows(read(WHOLE, **INPUTS))}
    assert "hunter2" not in repr(found)
    assert found["server.listen"] == (":80", "a.yaml:2")
    assert found["server.workers"] == (2, "default")
    assert found["server.token"] == ("***", "a.yaml:2")
    assert found["server.share"] == ("30%", "a.yaml:2")
    assert found["server.grace"] == ("1m30s", "a.yaml:2")
    assert found["server.origins"] == (["a", "b"], "a.yaml:2")
    assert found["server.window"] == (None, "default")
    assert found["probes[0].http.url"] == ("https://a", "a.yaml:4")
    assert found["probes[0].http.method"] == ("GET", "default")
    assert found["probes[0].http.body_limit"] == ("64KiB", "default")
    assert found["probes[0].every"] == ("15s", "default")
    assert found["probes[1].http.url"] == ("${file:/u}", "a.yaml:6")
    assert found["probes[1].http.password"] == ("***", "a.yaml:6")
    assert found["probes[1].port"] == (5, "a.yaml:9")
    assert found["rules[0].do[0].ssh.run"] == ("ls", "a.yaml:12")
    assert found["notify.ops.slack.webhook"] == ("***", "a.yaml:13")


def test_what_is_shown_can_be_written() -> None:
    for shown in ("1m30s", "0.3333s", "1h1m1s"):
        row = next(row for row in rows(read(f"server: {{grace: {shown}}}")) if row.path == "server.grace")
        again = next(row for row in rows(read(f"server: {{grace: {row.value}}}")) if row.path == "server.grace")
        assert row.value == again.value
        assert read(f"server: {{grace: {row.value}}}").digest


def validator() -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(schema(CATALOG))


@pytest.mark.parametrize(
    "text",
    [
        WHOLE,
        "server:\nprobes:\n",
        "x-anything: [1]\nserver: {workers: '${W}', debug: '${D:-true}', level: warning, window: [1, a]}",
        "probes: [{name: a, icmp: }, {name: b, tcp: {host: h, port: '${PORT}'}, every: 0, port: 80, version: 1.1}]",
    ],
)
def test_the_schema_accepts_what_the_loader_accepts(text: str) -> None:
    document = yaml.safe_load(text)
    assert [error.message for error in validator().iter_errors(document)] == []


@pytest.mark.parametrize(
    "text",
    [
        "sevrer: {}",
        "server: {lisen: x}",
        "server: {workers: 0}",
        "server: {workers: many}",
        "server: {grace: 30}",
        "server: {level: loud}",
        "server: {debug: 1}",
        "probes: [{name: a}]",
        "probes: [{http: x}]",
        "probes: [{name: a, http: x, icmp: {}}]",
        "probes: [{name: a, http: {method: GET}}]",
        "probes: [{name: a, tcp: 'db:1'}]",
        "probes: [{name: a, icmp: {}, labels: [x]}]",
        "notify: {a: {}}",
        "notify: {a: {email: {}}}",
        "rules: [{name: a, when: b, do: [{ssh: {run: x}, x: 1}]}]",
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(text: str) -> None:
    assert problems(text)
    assert list(validator().iter_errors(yaml.safe_load(text)))


def test_the_schema_carries_docs_and_defaults() -> None:
    whole = schema(CATALOG)
    target = whole["$defs"]["Target"]["properties"]
    assert target["every"]["description"] == "between attempts."
    assert target["every"]["default"] == "15s"
    assert whole["$defs"]["HttpProbe"]["description"] == "Asks a web server."
    assert whole["$defs"]["Server"]["properties"]["level"]["default"] == "info"
    assert "default" not in whole["$defs"]["Server"]["properties"]["token"]


def test_field_docs_come_from_docstrings_bases_included() -> None:
    assert field_docs(HttpProbe) == {
        "expect": "CEL that must be true.",
        "url": "where to.",
        "method": "the HTTP method.",
        "password": "sent as basic authentication.",
        "body_limit": "what is read of the answer.",
    }
    assert field_docs(Probe) == {"expect": "CEL that must be true."}


def test_the_starter_passes_the_check_and_the_schema() -> None:
    text = starter(CATALOG)
    assert problems(text) == []
    assert not list(validator().iter_errors(yaml.safe_load(text)))
    assert "#   workers: 2" in text
    assert max(map(len, text.splitlines())) <= 90


def test_the_starters_comments_are_valid_when_they_are_uncommented() -> None:
    lines = starter(CATALOG).splitlines()
    live = "\n".join(line[2:] for line in lines if line.startswith(("# server:", "#   ")) and "dogwatch" not in line)
    assert problems(live) == []
