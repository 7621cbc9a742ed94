"""Secrets that are stored: sealed, and opened with keys of now and then."""

from __future__ import annotations

from pathlib import Path

import pytest

from dogwatch.access.sealing import FileSealer, rotate_key
from dogwatch.errors import PermanentError

SECRET = b"battery staple horse"


def test_what_is_sealed_is_opened_and_nothing_of_it_shows(tmp_path: Path) -> None:
    sealer = FileSealer(tmp_path / "state.key")
    one, two = sealer.seal(SECRET), sealer.seal(SECRET)
    assert one != two
    assert SECRET not in one
    assert FileSealer(tmp_path / "state.key").open(one) == SECRET
    assert (tmp_path / "state.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("place", [0, 1, 13, -1])
def test_what_was_changed_is_not_opened(tmp_path: Path, place: int) -> None:
    sealer = FileSealer(tmp_path / "state.key")
    sealed = bytearray(sealer.seal(SECRET))
    sealed[place] ^= 1
    with pytest.raises(PermanentError, match="another key"):
        sealer.open(bytes(sealed))


def test_a_new_key_seals_and_the_old_ones_still_open(tmp_path: Path) -> None:
    path = tmp_path / "state.key"
    old = FileSealer(path).seal(SECRET)
    assert rotate_key(path) == 2
    assert path.stat().st_mode & 0o777 == 0o600
    renewed = FileSealer(path)
    new = renewed.seal(SECRET)
    assert renewed.open(old) == renewed.open(new) == SECRET
    path.write_bytes(path.read_bytes()[:32])
    assert FileSealer(path).open(new) == SECRET
    with pytest.raises(PermanentError):
        FileSealer(path).open(old)


def test_a_file_that_is_no_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.key").write_bytes(b"x" * 33)
    with pytest.raises(PermanentError, match="not a key"):
        FileSealer(tmp_path / "state.key").seal(b"")
