"""Rules: what one pass of 1,000 rules over 10,000 targets costs, and how soon an action is started."""

from __future__ import annotations

import gc
import http.client
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.daemon import _free_port, _ready
from dogwatch.core.values import Signal
from dogwatch.rules.driver import moments
from dogwatch.rules.spec import RuleSpec, compile_rule
from dogwatch.rules.watcher import Watcher

NAME = "rules"
RULES, TARGETS = 1_000, 10_000
START_S = 1_800_000_000.0
_BEGUN = time.perf_counter()
# Results of half a second.
_BATCH = 334
# What is written in the rules, by turns: newest values, windows, two values, a quantile, a text.
CONDITIONS = (
    "probe.duration_s > 2.5",
    'avg(probe.duration_s, "5m") > 1.5',
    "!probe.success && probe.duration_s > 0.2",
    'quantile(0.95, probe.duration_s, "5m") > 2.0',
    'changes(probe.status, "10m") > 3',
    'probe.status == "down" || rate(probe.duration_s, "5m") > 10.0',
    'probe.status == "down" && probe.reason != ""',
    '!probe.success && probe.reason == "timeout"',
)


def _say(text: str) -> None:
    print(f"   {time.perf_counter() - _BEGUN:6.1f} s  {text}", flush=True)


def _rules(each: int) -> list[RuleSpec]:
    """Return rules of which each target has `each`: as many as teams ask for theirs by label."""
    groups = RULES // each
    return [
        RuleSpec(
            name=f"r{number}",
            when=CONDITIONS[number % len(CONDITIONS)],
            for_=60.0,
            match={"team": f"t{number % groups}"},
        )
        for number in range(RULES)
    ]


def _signals(time_s: float, each: int, turn: int) -> list[Signal]:
    groups = RULES // each
    return [
        Signal(
            source="probe",
            target=f"target{number:05}",
            time_s=time_s + number / TARGETS * 4.0,
            values={
                "probe.success": True,
                "probe.status": "up",
                "probe.reason": "",
                "probe.duration_s": 0.1 + (number * 7 + turn * 13) % 100 / 1000,
            },
            labels={"team": f"t{number % groups}", "zone": "a"},
        )
        for number in range(TARGETS)
    ]


def _every() -> list[RuleSpec]:
    """Return rules each of which looks at all targets, with a number of its own."""
    return [
        RuleSpec(
            name=f"r{number}",
            when=CONDITIONS[number % len(CONDITIONS)].replace(".5", f".5{number:03}").replace(".2", f".2{number:03}"),
            for_=60.0,
        )
        for number in range(RULES)
    ]


def _pass(each: int, turns: int) -> dict[str, float]:
    """Measure a pass: a result of each target, and the ticks of its time. Results come in batches of half a second, as
    to a daemon that asks each target every 15 s.
    """
    watcher = Watcher([compile_rule(spec) for spec in (_every() if each == RULES else _rules(each))])
    gc.collect()
    gc.freeze()
    signals_s, ticks_s = [], []
    for turn in range(turns):
        _say(f"pass {turn + 1} of {turns}, {each} rules of each target")
        signals = _signals(START_S + turn * 15.0, each, turn)
        for _moment in moments(watcher, [], START_S + turn * 15.0):
            pass
        begun_s = time.process_time()
        for at in range(0, TARGETS, _BATCH):
            part = signals[at : at + _BATCH]
            for _moment in moments(watcher, part, part[-1].time_s):
                pass
        signals_s.append(time.process_time() - begun_s)
        begun_s = time.process_time()
        found = list(moments(watcher, [], START_S + turn * 15.0 + 5.0))
        ticks_s.append((time.process_time() - begun_s) / max(1, len(found)))
    pairs = sum(len(seen.rules) for seen in watcher.gauge.seen.values())
    return {
        "rules_of_each_target": each,
        "pairs": pairs,
        # The first turns fill windows and caches.
        "signals_core_s": statistics.median(signals_s[2:]),
        "tick_core_s": statistics.median(ticks_s[2:]),
    }


def _post(port: int, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", path)
        if connection.getresponse().status != 200:
            raise RuntimeError(f"{path} was refused")
    finally:
        connection.close()


def _config(number: int, *, evidence: bool) -> str:
    probes = "".join(
        f"""
  - name: t{at}
    heartbeat: {{period: 1h}}
    do: [{{exec: {{command: ["true"]}}, verify: 0s}}]
    mode: auto
    budget: {{max: 1000, at_once: 1000, group: all}}
    remedy: {{evidence: {{enabled: {str(evidence).lower()}}}}}"""
        for at in range(number)
    )
    return f"probes:{probes}\n"


def _acts(folder: Path, number: int) -> dict[str, float]:
    """Return when the action of each target began, once all have."""
    end_s = time.monotonic() + 60.0
    while True:
        database = sqlite3.connect(f"file:{folder}/data/state.db?mode=ro", uri=True)
        try:
            rows = database.execute(
                "SELECT json_extract(a.body, '$.group'), json_extract(s.body, '$.started_s') FROM remedy_actions a"
                " JOIN steps s ON s.run_id = a.run_id AND s.name = 'act' WHERE s.state = 'succeeded'"
            ).fetchall()
        finally:
            database.close()
        if len(rows) >= number or time.monotonic() > end_s:
            return {str(group): float(started_s) for group, started_s in rows}
        time.sleep(0.2)


def _latency(number: int, *, evidence: bool) -> dict[str, float]:
    """Measure from a failure that is told to the daemon to the begin of the action, by a real daemon."""
    port = _free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "dogwatch.yaml").write_text(_config(number, evidence=evidence))
        command = [sys.executable, "-m", "dogwatch", "up", "--config", str(folder / "dogwatch.yaml")]
        command += ["--data", str(folder / "data"), "--listen", f"127.0.0.1:{port}"]
        with (folder / "log").open("wb") as log:
            daemon = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ})
        try:
            while not _ready(port):
                if daemon.poll() is not None:
                    raise RuntimeError((folder / "log").read_text())
                time.sleep(0.1)
            for at in range(number):
                _post(port, f"/ping/t{at}")
            time.sleep(2.0)
            failed_s = {}
            for at in range(number):
                if at % 50 == 0:
                    _say(f"{at} of {number} targets failed, {'with' if evidence else 'no'} evidence")
                failed_s[f"t{at}"] = time.time()
                _post(port, f"/ping/t{at}/fail")
                time.sleep(0.2)
            began_s = _acts(folder, number)
        finally:
            daemon.terminate()
            daemon.wait()
    late = sorted(began_s[name] - failed_s[name] for name in began_s)
    return {
        "actions": len(late),
        "evidence": evidence,
        "p50_s": statistics.median(late),
        "p99_s": late[min(len(late) - 1, int(len(late) * 0.99))],
        "max_s": late[-1],
    }


def run(quick: bool = False) -> dict[str, Any]:
    passes = [_pass(each, 4 if quick else 8) for each in (1, 10, RULES)]
    number = 20 if quick else 200
    latencies = [_latency(number, evidence=evidence) for evidence in (False, True)]
    whole, every = (
        max(row["signals_core_s"] + row["tick_core_s"] for row in some) for some in (passes[:2], passes[2:])
    )
    late = latencies[0]["p99_s"]
    seen = latencies[1]["p99_s"]
    return {
        "rows": [*passes, *latencies],
        "targets": [
            {
                "what": "one pass of 1,000 rules over 10,000 targets, 10 rules each, core-seconds",
                "measured": whole,
                "target": "<= 1",
                "met": whole <= 1.0,
            },
            {
                "what": "one pass of 1,000 rules that each look at all 10,000 targets, core-seconds",
                "measured": every,
                "target": "<= 1",
                "met": every <= 1.0,
            },
            {
                "what": "state change to action started, p99, seconds (no evidence)",
                "measured": late,
                "target": "<= 1",
                "met": late <= 1.0 and latencies[0]["actions"] == number,
            },
            {
                "what": "the same, evidence looked at before, p99, seconds",
                "measured": seen,
                "target": "<= 1",
                "met": seen <= 1.0 and latencies[1]["actions"] == number,
            },
        ],
    }
