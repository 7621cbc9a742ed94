from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dogwatch.errors import ConfigError
from dogwatch.store.limits import STORE, Keep, MaxSize, StoreLimits, StoreOptions
from dogwatch.store.part import StorePart


def test_defaults_have_no_fault() -> None:
    assert list(STORE.check(STORE.default())) == []
    assert STORE.default().limits() == StoreLimits()


def test_every_fault_is_found() -> None:
    options = StoreOptions(
        batch=0.0,
        keep=Keep(raw=100.0, five_minutes=50.0, hours=10.0),
        max_size=MaxSize(pings=5),
        failures_per_target=0,
        path="",
    )
    assert [fault.path for fault in STORE.check(options)] == [
        ("batch",),
        ("keep", "five_minutes"),
        ("keep", "hours"),
        ("max_size", "pings"),
        ("failures_per_target",),
        ("path",),
    ]


class _Store:
    def __init__(self) -> None:
        self.limits: StoreLimits | None = None
        self.closed = False

    def set_limits(self, limits: StoreLimits) -> None:
        self.limits = limits

    async def close(self) -> None:
        self.closed = True


class _Configuration:
    def __init__(self, options: StoreOptions) -> None:
        self.options = options

    def get(self, _section: Any) -> Any:
        return self.options


async def test_limits_change_at_the_swap(tmp_path: Path) -> None:
    store = _Store()
    part = StorePart(store, tmp_path / "x.db")
    change = part.prepare(_Configuration(StoreOptions(path=str(tmp_path / "x.db"), failures_per_target=7)))
    await change.start()
    assert store.limits is None
    change.swap()
    assert store.limits is not None
    assert store.limits.failures_per_target == 7
    await change.finish()
    await part.stop()
    assert store.closed


def test_the_path_cannot_change(tmp_path: Path) -> None:
    part = StorePart(_Store(), tmp_path / "x.db")
    with pytest.raises(ConfigError, match=r"store\.path: cannot change from"):
        part.prepare(_Configuration(StoreOptions(path=str(tmp_path / "y.db"))))
