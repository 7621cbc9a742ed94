"""Times in records: formats, zones, hours that come twice or never, and what is no time at all."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dogwatch.logs.block import Block
from dogwatch.logs.records import records
from dogwatch.logs.steps import through
from dogwatch.logs.transform import Step
from dogwatch.logs.transforms.parse import JsonTransform, NginxTransform, TimestampTransform
from dogwatch.logs.transforms.text import SyslogTransform


@pytest.fixture(scope="module", autouse=True)
def _polars() -> None:
    """The library's own runtime begins with the first frame and lasts as long as the process."""
    after(["a"], TimestampTransform(field="a").open())


def after(lines: list[str], *steps: Step) -> list[dict[str, Any]]:
    data = "".join(line + "\n" for line in lines).encode()
    block = Block(source="s", stream="f", path="/p", begin=0, end=len(data), data=data, count=len(lines))
    return records(through(block, steps))


# format, zone, what is in the record → RFC 3339 in UTC; None where it stays unread.
BERLIN = "Europe/Berlin"
CASES = [
    ("iso", "UTC", "2026-11-21T07:00:00Z", "2026-11-21T07:00:00.000000Z"),
    ("iso", "UTC", "2026-11-21T07:00:00.123456789+01:00", "2026-11-21T06:00:00.123456Z"),
    ("iso", "UTC", "2026-11-21 07:00:00", "2026-11-21T07:00:00.000000Z"),
    ("iso", BERLIN, "2026-11-21T07:00:00", "2026-11-21T06:00:00.000000Z"),
    ("iso", BERLIN, "2026-07-21 07:00:00.5", "2026-07-21T05:00:00.500000Z"),
    ("iso", BERLIN, "2026-07-21T07:00:00-03:00", "2026-07-21T10:00:00.000000Z"),
    # The hour that comes twice is taken for its first time; the one that never comes cannot be read.
    ("iso", BERLIN, "2026-10-25T02:30:00", "2026-10-25T00:30:00.000000Z"),
    ("iso", BERLIN, "2026-03-29T02:30:00", None),
    ("iso", "Asia/Kathmandu", "2026-11-21T07:00:00", "2026-11-21T01:15:00.000000Z"),
    ("iso", "UTC", "2024-02-29T00:00:00Z", "2024-02-29T00:00:00.000000Z"),
    ("iso", "UTC", "2026-02-29T00:00:00Z", None),
    ("iso", "UTC", "yesterday", None),
    ("unix", "UTC", 1795244400, "2026-11-21T07:00:00.000000Z"),
    ("unix", "UTC", "1795244400.25", "2026-11-21T07:00:00.250000Z"),
    ("unix", BERLIN, 1795244400, "2026-11-21T07:00:00.000000Z"),
    ("unix_ms", "UTC", 1795244400250, "2026-11-21T07:00:00.250000Z"),
    ("unix", "UTC", "soon", None),
    ("%d/%b/%Y:%H:%M:%S %z", BERLIN, "21/Nov/2026:07:00:00 +0200", "2026-11-21T05:00:00.000000Z"),
    ("%Y-%m-%d %H:%M:%S,%3f", BERLIN, "2026-11-21 07:00:00,123", "2026-11-21T06:00:00.123000Z"),
    ("%Y/%m/%d %H:%M:%S", "America/New_York", "2026/11/01 01:30:00", "2026-11-01T05:30:00.000000Z"),
    ("%Y/%m/%d %H:%M:%S", "America/New_York", "2026/13/01 01:30:00", None),
]  # fmt: skip


@pytest.mark.parametrize(("form", "zone", "given", "wanted"), CASES)
def test_a_time_is_read(form: str, zone: str, given: object, wanted: str | None) -> None:
    step = TimestampTransform(field="t", format=form, zone=zone, to="at").open()
    (one,) = after([json.dumps({"t": given, "n": 1})], JsonTransform().open(), step)
    assert (one["t"], one["n"]) == (given, 1), "what it was read from stays"
    assert one.get("at") == wanted
    assert step.counts["unread"] == (wanted is None)


def test_what_cannot_be_read_keeps_what_was_there() -> None:
    step = TimestampTransform(field="t", to="t").open()
    lines = ['{"t": "2026-11-21T07:00:00+01:00"}', '{"t": "never"}', '{"other": 1}']
    found = after(lines, JsonTransform().open(), step)
    assert [one.get("t") for one in found] == ["2026-11-21T06:00:00.000000Z", "never", None]
    assert step.counts["unread"] == 1


def test_a_record_without_the_column_is_counted_when_none_has_it() -> None:
    step = TimestampTransform(field="t").open()
    assert after(["plain"], step)[0]["message"] == "plain"
    assert step.counts["unread"] == 1


def test_the_time_of_an_access_log() -> None:
    line = '10.0.0.1 - - [21/Nov/2026:07:00:00 +0100] "GET / HTTP/1.1" 200 5 "-" "x"'
    step = TimestampTransform(field="time_local", format="%d/%b/%Y:%H:%M:%S %z").open()
    assert after([line], NginxTransform().open(), step)[0]["timestamp"] == "2026-11-21T06:00:00.000000Z"


@pytest.mark.parametrize(("zone", "hour"), [("UTC", "07"), (BERLIN, "06"), ("Asia/Tokyo", "22")])
def test_syslog_times_that_name_no_zone_are_of_the_configured_one(zone: str, hour: str) -> None:
    (one,) = after(["<13>Nov 21 07:00:00 h app: x"], SyslogTransform(zone=zone).open())
    # Of which year it is, the clock says.
    assert one["timestamp"][10:] == f"T{hour}:00:00.000000Z"


@pytest.mark.parametrize("zone", ["Nowhere/Else", "../etc/passwd", ""])
def test_a_zone_that_is_none_is_refused(zone: str) -> None:
    assert [path for path, _text, _hint in TimestampTransform(field="t", zone=zone).faults()] == [("zone",)]
