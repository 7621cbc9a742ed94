"""Rule files with mistakes of every kind at once: all are told with their place, and none hides another."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from dogwatch.config.load import load
from dogwatch.errors import ConfigError, Problem
from dogwatch.features import SECTIONS

VALID = """\
notify:
  ops: {webhook: {url: "http://127.0.0.1:9/x", unsigned: true}, retry: {attempts: 3, cap: 10m}}
  anna: {slack: {webhook: "https://hooks.slack.com/services/anna"}}
jobs:
  - name: drain
    parameters: {host: {}}
    steps:
      - {name: drain, exec: 'lb-ctl drain {{ params.host }}'}
      - {name: restart, exec: 'lb-ctl restart {{ params.host }}'}
schedules:
  - {name: nightly, job: drain, parameters: {host: web-1}, cron: "0 2 * * *", time_zone: Europe/Zurich}
probes:
  - name: web
    http: "http://127.0.0.1:9/"
    every: 5s
    labels: {team: shop, host: box}
    do: [{name: restart, exec: "systemctl restart web", verify: 1m}]
    mode: auto
    budget: {max: 3, per: 1h, group: web, at_once: 20%}
  - {name: api, tcp: "127.0.0.1:9", depends_on: [web], every: 5s}
services:
  - name: shop
    unit: shop.service
    liveness: {probes: [web], attempts: 3}
    mode: plan
    readiness: {probes: [api], out: {exec: "lb out"}, back: {exec: "lb in"}}
rules:
  - name: slow
    when: 'quantile(0.95, probe.duration_s, "5m") > 2.0'
    resolve: 'avg(probe.duration_s, "5m") < 0.5'
    match: {team: shop}
    by: [team]
    at_least: 50%
    for: 5m
    notify: [ops]
    escalation: urgent
    do:
      - {job: {job: drain, parameters: {host: '{{ params.target }}'}}, verify: 5m, attempts: 2}
    mode: approve
    budget: {max: 4, per: 1h, group: web, at_once: 1}
    remedy: {approvers: ['group:ops', 'link:ops'], expires: 15m, cooldown: 10m, escalate: [anna]}
  - {name: both, when: 'probe.duration_s > 1 && alert.firing["X"]', missing: clear, severity: critical}
incidents:
  notify: [ops]
  settle: 30s
  escalations:
    - {name: urgent, steps: [{notify: [ops]}, {after: 15m, notify: ["on-call:first"]}]}
  rotations:
    - {name: first, members: [anna, ops], start: 2026-01-05T09:00, time_zone: Europe/Zurich}
maintenance:
  - {name: patching, match: {team: shop}, cron: "0 2 * * 0", duration: 2h, time_zone: Europe/Zurich}
remediation:
  freeze: [{name: holidays, from: "2026-12-24T12:00", to: "2027-01-02T08:00"}]
locations:
  name: berlin
  quorum: [{target: web, locations: [berlin, paris, tokyo], down: 2}]
"""
ODD: list[Any] = [
    None, "", "x", -1, 0, 1e99, True, [], {}, ["x"], {"x": 1}, "5 parsecs", "120%", "probe.nope > 1", "host.load1 > 1",
    "probe.success &&", "{{ params.nope }}", "{{", "Mars/Phobos", "0 25 * * *", "on-call:nobody", "2026-02-30T00:00",
    "web", "both", "ops", "probe.duration_s",
]  # fmt: skip


def problems(folder: Path, text: str) -> list[Problem]:
    file = folder / "dogwatch.yaml"
    file.write_text(text)
    try:
        load([file], SECTIONS, environ={})
    except ConfigError as error:
        return list(error.problems)
    return []


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, item in items:
        found += places(item, (*path, key))
    return found


def changed(tree: Any, chance: random.Random) -> Any:
    """Return the configuration with some of it gone, twice there, or something else."""
    tree = copy.deepcopy(tree)
    for _ in range(chance.randint(1, 6)):
        path = chance.choice(places(tree))
        node = tree
        for key in path[:-1]:
            node = node[key]
        verb = chance.choice(["odd", "odd", "odd", "gone", "twice", "other"])
        if verb == "gone":
            del node[path[-1]]
        elif verb == "twice" and isinstance(node, list):
            node.append(copy.deepcopy(node[path[-1]]))
        elif verb == "other" and isinstance(node, dict):
            node[chance.choice(["whn", "extra", "name"])] = node.pop(path[-1])
        else:
            node[path[-1]] = copy.deepcopy(chance.choice(ODD))
    return tree


def test_it_is_right_as_it_stands(tmp_path: Path) -> None:
    assert problems(tmp_path, VALID) == []


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_wrong_is_told_with_its_place(tmp_path: Path, seed: int) -> None:
    chance, whole = random.Random(seed), yaml.safe_load(VALID)
    for _ in range(25):
        text = yaml.safe_dump(changed(whole, chance), sort_keys=False)
        for one in problems(tmp_path, text):
            assert one.message, text
            assert one.line > 0, (one, text)
            assert Path(one.file).name == "dogwatch.yaml", (one, text)


def test_what_sections_say_of_each_other_is_told_beside_other_mistakes(tmp_path: Path) -> None:
    text = VALID
    for right, wrong in (
        ("notify: [ops]\n    escalation", "notify: [opps]\n    escalation"),
        ('cron: "0 2 * * 0"', "cron: x"),
        ("escalation: urgent", "escalation: urgnt"),
        ("{job: {job: drain, parameters: {host: '", "{job: {job: drian, parameters: {host: '"),
        ("severity: critical", "severity: bad"),
        ("members: [anna, ops]", "members: [ana, ops]"),
    ):
        assert right in text
        text = text.replace(right, wrong)
    told = {one.path: f"{one.message} {one.hint}" for one in problems(tmp_path, text)}
    assert {path: words for path, words in told.items() if "did you mean" in words}.keys() >= {
        "rules[0].notify[0]", "rules[0].escalation", "incidents.rotations[0].members[0]",
    }  # fmt: skip
    assert {"maintenance[0].cron", "rules[1].severity"} <= set(told)
    assert any(path.startswith("rules[0].do[0]") and "drian" in words for path, words in told.items()), told
