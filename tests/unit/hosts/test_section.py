"""The `host:` section through the real loader."""

from __future__ import annotations

from pathlib import Path

import pytest

from dogwatch.config.build import Catalog
from dogwatch.config.load import load
from dogwatch.config.schema import schema
from dogwatch.errors import ConfigError
from dogwatch.hosts.collectors import COLLECTORS
from dogwatch.hosts.section import HOST, HostSpec


def read(folder: Path, text: str) -> HostSpec:
    file = folder / "dogwatch.yaml"
    file.write_text(text)
    return load([file], [HOST], environ={}).get(HOST)


def test_what_is_written_is_what_is_meant(tmp_path: Path) -> None:
    spec = read(
        tmp_path,
        """
host:
  name: web-1
  every: 30s
  root: /host
  collectors:
    cpu: {every: 5s}
    filesystem: {timeout: 2s, exclude_mounts: ^/boot}
    processes: {top: 3}
    containers: {enabled: false}
""",
    )
    assert (spec.name, spec.every, spec.root) == ("web-1", 30.0, "/host")
    enabled = spec.enabled()
    assert enabled.keys() == set(COLLECTORS.kinds()) - {"containers"}
    assert spec.every_s(enabled["cpu"]) == 5.0
    assert spec.every_s(enabled["load"]) == 30.0
    assert enabled["filesystem"].timeout == 2.0


def test_every_mistake_is_found_at_once_with_its_line(tmp_path: Path) -> None:
    text = """host:
  every: 0s
  collectors:
    memory: {every: 0s}
    network: {exclude_devices: "("}
  extra:
    - cpu: {}
"""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert [(problem.line, problem.path) for problem in caught.value.problems] == [
        (2, "host.every"),
        (4, "host.collectors.memory.every"),
        (5, "host.collectors.network.exclude_devices"),
        (7, "host.extra[0].cpu"),
    ]


def test_names_that_are_nearly_right(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'filesystem'"):
        read(tmp_path, "host: {collectors: {filesystm: {}}}")


def test_editors_know_every_collector() -> None:
    found = schema(Catalog([HOST]))
    assert set(found["$defs"]["Collectors"]["properties"]) == set(COLLECTORS.kinds())
