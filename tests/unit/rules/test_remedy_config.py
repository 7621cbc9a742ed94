"""Mistakes of `do:` and what belongs to it: all are told, with their place; and what a good one becomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from dogwatch.config.load import Loader
from dogwatch.daemon.sections import SECTIONS
from dogwatch.errors import ConfigError
from dogwatch.features import DOING, RULES
from dogwatch.rules.remedy.text import on_wire, text_of, version_of
from dogwatch.rules.spec import RuleSpec

GOOD = """
jobs:
  - {name: restart, parameters: {who: {}}, steps: [{name: a, exec: "echo {{ params.who }}"}]}
probes:
  - name: a
    tcp: "127.0.0.1:1"
    do: [{exec: "touch {{ params.target }}", undo: {exec: "rm x"}, undo_when: both}]
    mode: auto
rules:
  - name: slow
    when: probe.duration_s > 1
    do:
      - {job: {job: restart, parameters: {who: "{{ params.target }}"}}, verify: 1m, attempts: 2}
      - {http: {url: "http://127.0.0.1/{{ params.incident }}", method: POST, password: geheim, username: u}}
    budget: {max: 3, per: 1h, group: web, at_once: 20%}
    mode: approve
    remedy: {approvers: ["group:ops"], expires: 5m, evidence: {enabled: false}}
services:
  - {name: shop, container: shop, liveness: {probes: [a]}, mode: auto}
"""


def load(folder: Path, text: str) -> Any:
    path = folder / "dogwatch.yaml"
    path.write_text(text)
    loader = Loader([path], SECTIONS, environ={})
    return loader.validate(loader.parse())


def told(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    return "\n".join(map(str, caught.value.problems))


def test_what_types_cannot_say_is_told_all_at_once(tmp_path: Path) -> None:
    text = """
rules:
  - {name: x, when: probe.success, mode: auto, budget: {max: 1}}
  - name: "probe:y"
    when: probe.success
    do: [{exec: a, verify: 0s}, {exec: b, undo_when: both}, {exec: c, name: n}, {exec: d, name: n}]
    budget: {at_once: 200%}
    remedy: {backoff: {base: 2h}, cooldown: 1m}
remediation: {freeze: [{name: a, from: "25:00", to: "26:00"}]}
"""
    found = told(tmp_path, text)
    for expected in (
        "rules[0].mode: means nothing without 'do'",
        "rules[0].budget: means nothing without 'do'",
        "rules[1].name: 'probe:' and 'service:'",
        "rules[1].do[0].verify: a step that proves nothing never fails",
        "rules[1].do[1].undo_when: means nothing without 'undo'",
        "rules[1].do[3].name: the name 'n' is used twice",
        "rules[1].budget.at_once: '200%'",
        "rules[1].remedy.backoff.base: is more than cap",
        "remediation.freeze[0].from: '25:00' is no time of day",
    ):
        assert expected in found, found


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("touch {{ params.target }}", "touch {{ params.targt }}", "probes[0].do[0].exec.run"),
        ("rm x", "rm {{ steps.x.outputs.y }}", "probes[0].do[0].undo.exec.run"),
        ("job: restart,", "job: restar,", "rules[0].do[0].job.job: unknown job 'restar'"),
        ('parameters: {who: "{{ params.target }}"}', "parameters: {}", "wants the parameter 'who'"),
        ("http: {url:", "htp: {url:", "did you mean 'http'?"),
        ("liveness: {probes: [a]}", "liveness: {probes: [aa]}", "services[0].liveness.probes[0]: unknown probe 'aa'"),
        ("mode: approve", "mode: always", "rules[0].mode"),
    ],
)
def test_actions_are_checked_as_steps_of_jobs_are(tmp_path: Path, before: str, after: str, expected: str) -> None:
    assert GOOD.count(before) == 1, before
    assert expected in told(tmp_path, GOOD.replace(before, after))


def test_a_remedy_becomes_jobs(tmp_path: Path) -> None:
    loaded = load(tmp_path, GOOD)
    jobs = {job.name: [(step.name, step.action.kind) for step in job.steps] for job in DOING.jobs(loaded)}
    assert jobs == {
        "remedy:slow:job-1": [("ask", "approve"), ("act", "job")],
        "remedy:slow:http-2": [("ask", "approve"), ("act", "http")],
        "remedy:probe:a:exec-1": [("evidence", "evidence"), ("act", "exec")],
        "remedy:probe:a:exec-1:undo": [("act", "exec")],
        "remedy:service:shop:liveness:restart": [("evidence", "evidence"), ("act", "exec")],
    }


def test_a_rules_text_has_a_version_and_no_secret(tmp_path: Path) -> None:
    loaded = load(tmp_path, GOOD)
    (spec,) = loaded.get(RULES)
    text = text_of(spec)
    assert "geheim" not in text
    assert msgspec.json.decode(text)["do"][0]["job"] == {"job": "restart", "parameters": {"who": "{{ params.target }}"}}
    other = load(tmp_path, GOOD.replace("max: 3", "max: 4")).get(RULES)[0]
    assert version_of(text) == version_of(text_of(load(tmp_path, GOOD).get(RULES)[0]))
    assert version_of(text) != version_of(text_of(other))


def test_a_rule_goes_to_a_rehearsal_in_words(tmp_path: Path) -> None:
    (spec,) = load(tmp_path, GOOD).get(RULES)
    wire = on_wire(spec)
    assert "geheim" not in str(wire)
    back = msgspec.convert(msgspec.json.decode(msgspec.json.encode(wire)), RuleSpec)
    assert [step.says for step in back.do] == [step.action.plan().summary for step in spec.do]
    assert (back.budget, back.mode) == (spec.budget, spec.mode)
