"""Durations, sizes and shares."""

import pytest

from dogwatch.core import units


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("30s", 30), ("1h30m", 5400), ("7d", 604800), ("1.5h", 5400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "-5s", "5x", "1h 30m"])
def test_bad_durations_say_what_is_accepted(text: str) -> None:
    with pytest.raises(ValueError, match="write it as"):
        units.parse_duration(text)


def test_sizes_and_shares() -> None:
    assert units.parse_size("64KiB") == 65536
    assert units.parse_size("10MB") == 10_000_000
    assert units.parse_share("25%") == 0.25


def test_format_round_trip() -> None:
    assert units.format_duration(0.25) == "250ms"
    assert units.format_duration(5400) == "1h30m"
    assert units.format_size(64 * 2**20) == "64 MiB"
