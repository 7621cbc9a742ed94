"""Kinds that outside packages bring are loaded when a configuration names them, and not before."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.unit.config.watchlike import PROBES

from dogwatch.config.build import Catalog
from dogwatch.config.files import Reading, SourceFile
from dogwatch.config.load import Loaded, Loader
from dogwatch.errors import ConfigError

MODULE = """
from typing import ClassVar
from tests.unit.config.watchlike import Probe

class Redis(Probe, frozen=True, kw_only=True):
    kind: ClassVar[str] = "redis"
    short: ClassVar[str] = "address"
    address: str
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a distribution that brings the probe kind `redis`, and one kind that cannot be imported."""
    info = tmp_path / "dogwatch_redis-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dogwatch-redis\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[dogwatch.probes]\nredis = dogwatch_redis_kind:Redis\nbroken = dogwatch_gone:Gone\n"
    )
    (tmp_path / "dogwatch_redis_kind.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "dogwatch_redis_kind", raising=False)


def load(text: str) -> Loaded:
    loader = Loader([], Catalog([PROBES]), environ={})
    return loader.validate(loader.parse_reading(Reading(files=(SourceFile("a.yaml", text.encode()),))))


def test_a_kind_is_loaded_when_it_is_named(package: None) -> None:
    load("probes: [{name: a, icmp: {}}]")
    assert "dogwatch_redis_kind" not in sys.modules
    probe = load("probes: [{name: a, redis: 'cache:6379'}]").get(PROBES)[0].probe
    assert (probe.kind, probe.address) == ("redis", "cache:6379")  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"a\.yaml:1: probes\[0\]\.redis\.adress: unknown option; did you mean"):
        load("probes: [{name: a, redis: {address: x, adress: y}}]")


def test_a_package_that_cannot_be_loaded_is_a_problem(package: None) -> None:
    with pytest.raises(ConfigError, match=r"probes\[0\]\.broken: the package that brings this kind cannot be loaded"):
        load("probes: [{name: a, broken: {}}]")
