"""Secrets on disk: sealed, bound to their key, and not to be changed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from dogwatch.access.sealing import FileSealer, OldSealer, sealer_of_text
from dogwatch.engine.book.intents import item_sealed
from dogwatch.engine.ledger import StepRow
from dogwatch.engine.values import StepState
from dogwatch.errors import PermanentError, UsageError


def test_what_was_sealed_is_opened_with_the_same_key_only() -> None:
    sealer = sealer_of_text("a key of sixteen characters")
    sealed = sealer.seal(b"hunter2")
    assert b"hunter2" not in sealed
    assert sealer.seal(b"hunter2") != sealed
    assert sealer_of_text("a key of sixteen characters").open(sealed) == b"hunter2"
    with pytest.raises(PermanentError, match="another key"):
        sealer_of_text("another key of characters").open(sealed)


@pytest.mark.parametrize("at", [0, 5, 20])
def test_a_changed_bit_is_found(at: int) -> None:
    sealer = sealer_of_text("a key of sixteen characters")
    sealed = bytearray(sealer.seal(b"hunter2 and more"))
    sealed[at] ^= 1
    with pytest.raises(PermanentError):
        sealer.open(bytes(sealed))
    with pytest.raises(PermanentError):
        sealer.open(b"")


def test_a_file_keeps_the_key_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "state.key"
    sealed = FileSealer(path).seal(b"hunter2")
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["state.key"]
    assert FileSealer(path).open(sealed) == b"hunter2"
    path.write_bytes(b"short")
    with pytest.raises(PermanentError, match="not a key"):
        FileSealer(path).open(sealed)


def test_a_new_key_opens_what_the_old_one_sealed(tmp_path: Path) -> None:
    old = FileSealer(tmp_path / "state.key")
    sealed = old.seal(b"hunter2")
    both = OldSealer(sealer_of_text("a key of sixteen characters"), old)
    assert both.open(sealed) == b"hunter2"
    assert both.open(both.seal(b"new")) == b"new"
    with pytest.raises(PermanentError):
        old.open(both.seal(b"new"))
    without = OldSealer(None, old)
    assert without.open(sealed) == b"hunter2"
    with pytest.raises(UsageError, match="no key"):
        without.seal(b"new")


def test_a_step_about_a_secret_ends_also_where_no_key_seals(tmp_path: Path) -> None:
    """A worker's own key of old opens what it sealed, and seals nothing."""
    without = OldSealer(None, FileSealer(tmp_path / "state.key"))
    going = StepRow(name="each[0]", kind="exec", state=StepState.RUNNING, item="hush", hidden=True)
    with pytest.raises(UsageError):
        item_sealed(going, without)
    ended = item_sealed(msgspec.structs.replace(going, state=StepState.FAILED), without)
    assert "hush" not in str(ended.item)
