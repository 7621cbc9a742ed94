"""docs/hosts.md says everything that a person can set or see."""

from __future__ import annotations

from pathlib import Path

import pytest

from dogwatch.core.clock import ManualClock
from dogwatch.hosts.collector import Collector
from dogwatch.hosts.collectors import COLLECTORS
from dogwatch.hosts.history import KEPT
from dogwatch.hosts.runner import Runner

TEXT = (Path(__file__).parents[3] / "docs" / "hosts.md").read_text()


@pytest.mark.parametrize("kind", COLLECTORS.kinds())
def test_every_collector_option_and_metric_is_documented(kind: str) -> None:
    component = COLLECTORS.get(kind)
    assert f"### {kind}\n" in TEXT
    chapter = TEXT.split(f"### {kind}\n")[1].split("\n## ")[0].split("\n### ")[0]
    for option in set(component.__struct_fields__) - set(Collector.__struct_fields__):
        assert f"`{option}`" in chapter
    for metric in component.metrics:
        assert f"| `{metric.name}` | {metric.kind} | {', '.join(metric.labels)} |" in chapter


def test_everything_that_is_kept_is_documented() -> None:
    for kept in KEPT:
        assert f"| `{kept.name}` | {', '.join(kept.labels)} | {kept.meaning} |" in TEXT


def test_the_collectors_own_metrics_are_documented() -> None:
    names = [family.name for family in Runner(ManualClock(), lambda _at, _entries: None).families()]
    assert len(names) > 5
    for name in [*names, "dogwatch_host_blocking_calls"]:
        assert f"| `{name}` |" in TEXT
