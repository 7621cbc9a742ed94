"""The probes section: every mistake is found, with its path."""

from __future__ import annotations

import msgspec
import pytest
from watch_fakes import FakeProbe, spec

from dogwatch.probes.spec import ProbeSpec, check_probes, fingerprint
from dogwatch.rules.thresholds import Window


def faults(*specs: ProbeSpec) -> list[tuple[tuple[str | int, ...], str]]:
    return [(fault.path, fault.message) for fault in check_probes(specs)]


def test_a_good_section_has_no_faults() -> None:
    assert faults(spec("a", depends_on=["b ünï/x.y-z"]), spec("b ünï/x.y-z", window=Window(failures=1, of=1))) == []


@pytest.mark.parametrize(
    ("fields", "path", "message"),
    [
        ({"every": 1.0}, (0, "timeout"), "longer than every"),
        ({"timeout": 0.0}, (0, "timeout"), "more than nothing"),
        ({"every": 0.01, "timeout": 0.01}, (0, "every"), "100ms"),
        ({"jitter": 10.0}, (0, "jitter"), "half of every"),
        ({"window": Window(failures=4, of=3)}, (0, "window"), "failures ≤ of"),
        ({"window": Window(failures=0, of=3)}, (0, "window"), "failures ≤ of"),
        ({"keep_body": 10**9}, (0, "keep_body"), "at most"),
        ({"url": ""}, (0, "fake", "url"), "not a url"),
        ({"check": FakeProbe(expect="statsu == 1")}, (0, "fake", "expect"), "unknown variable 'statsu'"),
        ({"check": FakeProbe(degraded_if="status")}, (0, "fake", "degraded_if"), "true or false"),
        ({"depends_on": ["b"]}, (0, "depends_on", 0), "unknown target 'b'"),
        ({"depends_on": ["a"]}, (0, "depends_on", 0), "cannot depend on itself"),
    ],
)
def test_a_mistake_is_found(fields: dict[str, object], path: tuple[str | int, ...], message: str) -> None:
    found = faults(spec("a", **fields))
    assert len(found) == 1
    assert found[0][0] == path
    assert message in found[0][1]


@pytest.mark.parametrize("name", ["", " ", " a", "a\n", "a\x00b", "a\u200b", "x" * 101])
def test_names_are_printable_and_bounded(name: str) -> None:
    assert [path for path, _message in faults(spec(name))] == [(0, "name")]


def test_all_mistakes_are_reported_at_once_in_their_order() -> None:
    found = faults(spec("a", timeout=99.0), spec("a", check=FakeProbe(expect="1 +")), spec("c", depends_on=["x"]))
    assert [path for path, _message in found] == [
        (0, "timeout"),
        (1, "name"),
        (1, "fake", "expect"),
        (2, "depends_on", 0),
    ]


def test_a_cycle_is_reported_once_and_named() -> None:
    found = faults(
        spec("a", depends_on=["b"]),
        spec("b", depends_on=["c"]),
        spec("c", depends_on=["a"]),
        spec("d", depends_on=["a"]),
    )
    assert len(found) == 1
    assert "a → b → c → a" in found[0][1]


def test_a_long_chain_is_no_trouble() -> None:
    specs = [spec(f"t{n}", depends_on=[f"t{n + 1}"] if n < 4999 else []) for n in range(5000)]
    assert faults(*specs) == []


def test_the_fingerprint_is_what_is_asked_and_nothing_else() -> None:
    base = spec("a")
    same = msgspec.structs.replace(
        base, every=60.0, labels={"x": "y"}, failures=9, check=FakeProbe(url="fake://a", expect="status == 1")
    )
    assert fingerprint(same) == fingerprint(base)
    assert fingerprint(spec("a", url="fake://b")) != fingerprint(base)
    assert fingerprint(spec("b", url="fake://a")) != fingerprint(base)
