"""What every kind of probe keeps to, whatever it asks."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop
from tests.probe_cases import CASES, SECRET
from tests.probing import ask, children, new_attempt, open_descriptors

from dogwatch.config.load import load
from dogwatch.config.section import Fault
from dogwatch.probes.kinds import PROBES
from dogwatch.probes.probe import EVIDENCE_BYTES, REASONS, Evidence, Probe, ProbeResult, attempt_once
from dogwatch.probes.spec import probes_section

KINDS = sorted(CASES)
SILENT = [kind for kind in KINDS if CASES[kind].silent]
TYPES: dict[str, Any] = {
    "int": int,
    "double": (int, float),
    "string": str,
    "bool": bool,
    "list": (list, tuple),
    "map": dict,
    "dyn": object,
}


def test_every_kind_is_in_the_table() -> None:
    # http has a suite of its own beside its engine.
    assert set(PROBES.kinds()) - {"http"} == set(CASES)


def check(probe: Probe, result: ProbeResult) -> None:
    """Check what holds for every result."""
    assert result.reason == "" if result.success else result.reason in REASONS
    assert bool(result.message) is not result.success
    assert result.duration_s >= 0
    assert SECRET not in result.message
    unknown = set(result.values) - set(probe.variables)
    assert not unknown, "values that no expectation may read"
    for name, value in result.values.items():
        assert isinstance(value, TYPES[probe.variables[name]]), name
        if probe.variables[name] in ("int", "double"):
            assert not isinstance(value, bool), name
    evidence = result.evidence() if result.evidence else Evidence()
    assert len(evidence.body) <= EVIDENCE_BYTES


@pytest.mark.parametrize("kind", KINDS)
async def test_success(kind: str, tmp_path: Path) -> None:
    await _success(kind, tmp_path)


async def _success(kind: str, tmp_path: Path) -> None:
    async with CASES[kind].good(tmp_path) as found:
        result = await ask(found.probe, **found.extra)
        assert result.success, result
        check(found.probe, result)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if CASES[kind].refused])
async def test_refusal(kind: str, tmp_path: Path) -> None:
    await _refusal(kind, tmp_path)


async def _refusal(kind: str, tmp_path: Path) -> None:
    opener = CASES[kind].refused
    assert opener is not None
    async with opener(tmp_path) as found:
        result = await ask(found.probe, **found.extra)
        assert not result.success
        assert result.reason in {"refused", "unreachable", "local", "exit"}
        check(found.probe, result)


@pytest.mark.parametrize("kind", SILENT)
async def test_timeout_is_kept_and_says_what_it_waited_for(kind: str, tmp_path: Path) -> None:
    await _timeout(kind, tmp_path)


async def _timeout(kind: str, tmp_path: Path) -> None:
    opener = CASES[kind].silent
    assert opener is not None
    async with opener(tmp_path) as found:
        before, family = open_descriptors(), children()
        loop = asyncio.get_running_loop()
        started = loop.time()
        attempt = new_attempt(0.3, **found.extra)
        result = await attempt_once(found.probe, attempt)
        took_s = loop.time() - started
        assert result.reason == "timeout"
        assert 0.25 < took_s < 5
        assert re.search("while (waiting|doing|running|asking)", result.message)
        check(found.probe, result)
        await _all_gone(attempt, before, family)


async def _all_gone(attempt: Any, before: dict[str, str], family: set[str]) -> None:
    async with asyncio.timeout(60):
        await asyncio.gather(*attempt.env.tasks, return_exceptions=True)
    assert not attempt.env.tasks
    now = open_descriptors()
    assert {name: now[name] for name in now.keys() - before.keys()} == {}
    assert children() == family


@pytest.mark.parametrize("kind", SILENT)
async def test_cancel_leaves_nothing_and_is_final(kind: str, tmp_path: Path) -> None:
    await _cancel(kind, tmp_path)


async def _cancel(kind: str, tmp_path: Path) -> None:
    opener = CASES[kind].silent
    assert opener is not None
    async with opener(tmp_path) as found:
        before, family = open_descriptors(), children()
        attempt = new_attempt(5.0, **found.extra)
        calls: list[ProbeResult] = []
        cancel = found.probe.launch(attempt, calls.append)
        await asyncio.sleep(0.1)  # until it is in the middle of something
        cancel()
        cancel()
        await asyncio.sleep(0)
        await _all_gone(attempt, before, family)
        assert calls == []
        cancel()


@pytest.mark.parametrize("kind", KINDS)
async def test_cancel_at_once_and_after_the_end(kind: str, tmp_path: Path) -> None:
    async with CASES[kind].good(tmp_path) as found:
        await ask(found.probe, **found.extra)  # what is made once (contexts, imports) is there now
        family = children()
        calls: list[ProbeResult] = []
        attempt = new_attempt(2.0, **found.extra)
        before = open_descriptors()
        found.probe.launch(attempt, calls.append)()
        await _all_gone(attempt, before, family)
        assert calls == []
        result_came = asyncio.Event()

        def done(result: ProbeResult) -> None:
            calls.append(result)
            result_came.set()

        cancel = found.probe.launch(attempt, done)
        assert calls == [], "done was called from within launch"
        await result_came.wait()
        cancel()
        await asyncio.sleep(0)
        assert len(calls) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_on_the_daemons_loop(kind: str, tmp_path: Path) -> None:
    """Tests run on asyncio's loop and the daemon on uvloop's, which treats descriptors and cancellation differently."""

    async def all_of_it() -> None:
        if kind != "grpc":  # its server, not our probe, cannot change loops within a process
            await _success(kind, tmp_path)
        if CASES[kind].refused:
            await _refusal(kind, tmp_path)
        if CASES[kind].silent:
            await _timeout(kind, tmp_path)
            await _cancel(kind, tmp_path)

    uvloop.run(all_of_it())


def configured(folder: Path, kind: str, options: Any) -> Probe:
    """Return the probe that a configuration file makes of a kind's options."""
    section = probes_section(PROBES)
    file = folder / "dogwatch.yaml"
    # JSON is YAML, too.
    file.write_bytes(msgspec.json.encode({"probes": [{"name": "t", kind: options, "every": "1m"}]}))
    return load([file], [section], environ={}).get(section)[0].check


@pytest.mark.parametrize("kind", KINDS)
def test_example_is_configuration_without_fault(kind: str, tmp_path: Path) -> None:
    probe = configured(tmp_path, kind, CASES[kind].example)
    assert type(probe) is PROBES.get(kind)
    assert probe.faults() == []
    assert probe.address()


SHORT: dict[str, tuple[Any, str]] = {
    "unix": ("/run/app.sock", "/run/app.sock"),
    "tcp": ("db-1:5432", "db-1:5432"),
    "tls": ("shop.example", "shop.example:443"),
    "dns": ("shop.example", "shop.example A"),
    "icmp": ("2001:db8::1", "2001:db8::1"),
    "grpc": ("[::1]:50051", "[::1]:50051"),
    "websocket": ("wss://shop.example/live?token=x", "wss://shop.example/live"),
    "exec": (["/bin/check", "--password=x"], "/bin/check"),
    "docker": ("web", "web"),
    "remote": ("web01", "web01"),
    "heartbeat": ("1d", "every 1d, grace 1h"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_short_form(kind: str, tmp_path: Path) -> None:
    written, address = SHORT[kind]
    assert configured(tmp_path, kind, written).address() == address


@pytest.mark.parametrize(("kind", "options", "where"), [(kind, *bad) for kind in KINDS for bad in CASES[kind].bad])
def test_bad_options_are_faults_at_their_place(kind: str, options: dict[str, Any], where: str) -> None:
    probe = msgspec.convert(options, PROBES.get(kind), strict=True)
    faults = [Fault(*fault) for fault in probe.faults()]
    assert any(where in fault.path for fault in faults), faults
    assert all(fault.message for fault in faults)
    assert isinstance(probe.address(), str), "shown even where it is wrong"


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_variable_and_metric_is_documented(kind: str) -> None:
    component = PROBES.get(kind)
    doc = re.sub(r"\s+", " ", component.__doc__ or "")
    inherited = {"expect", "degraded_if"}
    for option in component.__struct_fields__:
        assert option in inherited or re.search(rf"\b{option}(, \w+)*: ", doc), f"{option} is not in the docstring"
    assert set(component.variables.values()) <= set(TYPES)
    assert set(component.metrics) <= set(component.variables)
    for name, help_ in component.metrics.values():
        assert re.fullmatch(r'probe_[a-z0-9_]+(\{[a-z_]+(="[a-z]+")?\})?', name)
        assert help_
    assert not component.short or component.short in component.__struct_fields__


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_options_are_the_same_probe(kind: str, tmp_path: Path) -> None:
    """Reload keeps a probe whose options did not change."""
    one, two = (configured(tmp_path, kind, CASES[kind].example) for _ in range(2))
    assert one == two
    assert msgspec.json.encode(one) == msgspec.json.encode(two)
