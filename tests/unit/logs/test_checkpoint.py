"""The checkpoint on disk: whole or not at all, and the one before where the newest is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from dogwatch.logs.block import Position
from dogwatch.logs.checkpoint import Checkpoint, CheckpointFile


def at(offset: int) -> Checkpoint:
    return Checkpoint(cursors={"s": {"out": Position(offset, "ab")}}, horizons={"s": 12.5})


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "checkpoint")
    assert file.load() == (Checkpoint(), "")
    file.save(at(1))
    file.save(at(2))
    assert file.load() == (at(2), "")


@pytest.mark.parametrize("damage", [b"", b"\0" * 100, b"dogwatch-logs-1 00000000\n{}", None])
def test_a_damaged_one_is_said_and_the_one_before_is_used(damage: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    file = CheckpointFile(path)
    file.save(at(1))
    file.save(at(2))
    path.write_bytes(path.read_bytes()[:-3] if damage is None else damage)
    found, problem = file.load()
    assert found == at(1)
    assert "cannot be used" in problem


def test_the_one_before_stays_good_after_a_damaged_one_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    file = CheckpointFile(path)
    file.save(at(1))
    file.save(at(2))
    assert file.load()[0] == at(2)
    assert {one.name for one in tmp_path.iterdir()} == {"checkpoint", "checkpoint.previous"}
