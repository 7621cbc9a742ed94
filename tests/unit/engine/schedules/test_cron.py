"""Cron expressions: against a walker that looks at every minute there is, and by examples."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dogwatch.engine.schedules.cron import Cron, expression_faults
from dogwatch.engine.schedules.zone import Zone

# A day around a change of the clocks: forward and back, by half an hour, at midnight, twice a year, over a whole day.
CHANGES = [
    ("Europe/Berlin", "2026-03-29"),
    ("Europe/Berlin", "2026-10-25"),
    ("America/New_York", "2025-03-09"),
    ("America/New_York", "2025-11-02"),
    ("Australia/Lord_Howe", "2026-04-05"),
    ("Australia/Lord_Howe", "2026-10-04"),
    ("Africa/Cairo", "2024-04-26"),
    ("Africa/Cairo", "2024-10-31"),
    ("America/Havana", "2025-03-09"),
    ("America/Santiago", "2024-09-08"),
    ("Asia/Beirut", "2022-03-27"),
    ("Africa/Casablanca", "2024-03-10"),
    ("Pacific/Apia", "2011-12-30"),
    ("Asia/Kathmandu", "2026-05-01"),
    ("America/St_Johns", "2009-11-01"),
    ("UTC", "2028-02-29"),
]
STARS = {"minute": range(60), "hour": range(24), "day": range(1, 32), "month": range(1, 13), "weekday": range(7)}


def field(name: str, *, at_least: int = 1) -> st.SearchStrategy[tuple[str, frozenset[int]]]:
    """Return (text, values) of a field: a star, a stepped star, or some values."""
    whole = STARS[name]
    stars = st.just(("*", frozenset(whole)))
    steps = st.integers(2, max(2, len(whole) // 2)).map(lambda n: (f"*/{n}", frozenset(list(whole)[::n])))
    some = st.frozensets(st.sampled_from(list(whole)), min_size=at_least, max_size=4).map(
        lambda values: (",".join(map(str, sorted(values))), values)
    )
    return st.one_of(some, some, stars, steps)


@lru_cache(maxsize=64)
def minutes(zone: str, day: str) -> list[tuple[int, datetime, bool, list[datetime]]]:
    """Return every minute of five days: when it is, what the wall shows, for the second time?, what it skipped."""
    info = ZoneInfo(zone)
    begin = int((datetime.fromisoformat(day).replace(tzinfo=UTC) - timedelta(days=2)).timestamp())
    out = []
    before = datetime.fromtimestamp(begin - 60, info).replace(tzinfo=None)
    for at in range(begin, begin + 5 * 86400, 60):
        aware = datetime.fromtimestamp(at, info)
        shown = aware.replace(tzinfo=None)
        skipped = []
        while before + timedelta(minutes=len(skipped) + 1) < shown:
            skipped.append(before + timedelta(minutes=len(skipped) + 1))
        out.append((at, shown, aware.fold == 1, skipped))
        before = shown
    return out


def walked(zone: str, day: str, fields: dict[str, tuple[str, frozenset[int]]]) -> list[int]:
    texts = {name: text for name, (text, _values) in fields.items()}
    by_both = texts["day"].startswith("*") or texts["weekday"].startswith("*")
    fixed = not texts["minute"].startswith("*") and not texts["hour"].startswith("*")

    def matches(shown: datetime) -> bool:
        day_fits = shown.day in fields["day"][1]
        weekday_fits = shown.isoweekday() % 7 in fields["weekday"][1]
        return (
            shown.minute in fields["minute"][1]
            and shown.hour in fields["hour"][1]
            and shown.month in fields["month"][1]
            and ((day_fits and weekday_fits) if by_both else (day_fits or weekday_fits))
        )

    if not fixed:
        return [at for at, shown, _again, _skipped in minutes(zone, day) if matches(shown)]
    return [
        at
        for at, shown, again, skipped in minutes(zone, day)
        if (matches(shown) and not again) or any(map(matches, skipped))
    ]


@settings(max_examples=400)
@given(st.sampled_from(CHANGES), st.fixed_dictionaries({name: field(name) for name in STARS}))
def test_it_fires_when_a_walker_over_every_minute_says(
    place: tuple[str, str], fields: dict[str, tuple[str, frozenset[int]]]
) -> None:
    zone, day = place
    if not set(fields["month"][1]) & {int(day[5:7])}:
        fields = {**fields, "month": ("*", frozenset(range(1, 13)))}
    text = " ".join(fields[name][0] for name in STARS)
    if list(expression_faults(text, "x")):
        return  # 31 February
    cron = Cron(text, Zone(zone))
    every = minutes(zone, day)
    found, at = [], every[0][0] - 1.0
    while (fire := cron.after(at)) is not None and fire <= every[-1][0]:
        assert fire > at
        found.append(int(fire))
        at = fire
    assert found == walked(zone, day, fields), text


@settings(max_examples=100)
@given(st.sampled_from(CHANGES), st.sampled_from(["30 2 * * *", "*/7 * * * *", "15 0 * * *", "0 */3 * * *"]), st.data())
def test_where_the_question_begins_makes_no_difference(place: tuple[str, str], text: str, data: st.DataObject) -> None:
    zone, day = place
    every = minutes(zone, day)
    begin = data.draw(st.integers(every[0][0], every[-1][0]))
    cron = Cron(text, Zone(zone))
    at, after = every[0][0] - 1.0, None
    while (fire := cron.after(at)) is not None and after is None:
        at = fire
        after = fire if fire > begin else None
    assert cron.after(begin) == after
    assert cron.after(begin + 0.5) == after


def fires(text: str, zone: str, after: str, count: int) -> list[str]:
    cron, info = Cron(text, Zone(zone), "backup"), ZoneInfo(zone)
    at, out = datetime.fromisoformat(after).timestamp(), []
    for _ in range(count):
        found = cron.after(at)
        assert found is not None
        at = found
        out.append(datetime.fromtimestamp(at, info).isoformat())
    return out


@pytest.mark.parametrize(
    ("text", "zone", "after", "expected"),
    [
        # skipped: right after the gap, once; also with seconds, which cronsim alone would leave out
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T12:00Z",
            ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"],
        ),
        (
            "15,45 30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T12:00Z",
            ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:15+02:00"],
        ),
        (
            "0 2,3 * * *",
            "Europe/Berlin",
            "2026-03-28T12:00Z",
            ["2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"],
        ),
        # twice: the first time, also when asked in between
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T12:00Z",
            ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"],
        ),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T01:10Z", ["2026-10-26T02:30:00+01:00"]),
        # by the wall: every half hour stays every half hour
        (
            "*/30 * * * *",
            "Europe/Berlin",
            "2026-10-25T00:40Z",
            ["2026-10-25T02:00:00+01:00", "2026-10-25T02:30:00+01:00"],
        ),
        ("*/20 * * * * *", "UTC", "2026-10-25T00:00:39.5Z", ["2026-10-25T00:00:40+00:00", "2026-10-25T00:01:00+00:00"]),
        # the day: last, last working day, last Friday, second Tuesday
        ("0 0 L * *", "UTC", "2026-02-01T00:00Z", ["2026-02-28T00:00:00+00:00", "2026-03-31T00:00:00+00:00"]),
        ("0 0 LW * *", "UTC", "2026-02-01T00:00Z", ["2026-02-27T00:00:00+00:00"]),
        ("0 0 * * 5L", "UTC", "2026-02-01T00:00Z", ["2026-02-27T00:00:00+00:00"]),
        ("0 0 * * TUE#2", "UTC", "2026-02-01T00:00Z", ["2026-02-10T00:00:00+00:00"]),
        ("0 0 29 2 *", "UTC", "2026-02-01T00:00Z", ["2028-02-29T00:00:00+00:00", "2032-02-29T00:00:00+00:00"]),
        ("@weekly", "UTC", "2026-02-03T00:00Z", ["2026-02-08T00:00:00+00:00"]),
    ],
)
def test_examples(text: str, zone: str, after: str, expected: list[str]) -> None:
    assert fires(text, zone, after, len(expected)) == expected


@given(st.text(min_size=1, max_size=20))
def test_spread_values_are_stable_and_within_bounds(name: str) -> None:
    text = "~ 10~20 1~5 ~ * ~"
    first = Cron(text, Zone("UTC"), name).expression
    assert first == Cron(text, Zone("UTC"), name).expression
    second, minute, hour, day, month, weekday = first.split()
    assert int(second) in range(60)
    assert int(minute) in range(10, 21)
    assert int(hour) in range(1, 6)
    assert int(day) in range(1, 29)
    assert (month, int(weekday) in range(7)) == ("*", True)
    stepped = Cron("~/15 * * * *", Zone("UTC"), name).expression.split()[1]
    values = list(map(int, stepped.split(",")))
    assert values[0] in range(15)
    assert values == [values[0] + 15 * n for n in range(4)]


def test_names_are_spread_over_the_whole_range() -> None:
    seen = {Cron("~ * * * *", Zone("UTC"), f"job-{number}").expression for number in range(2000)}
    assert len(seen) == 60


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("* * * *", ["has 4 fields"]),
        ("61 * * x *", ["minute '61'", "month 'x'"]),
        ("0 0 25 * * * ", ["hour '25'"]),
        ("* 5~70 * * * *", ["minute '5~70'"]),
        ("20~10 * * * *", ["minute '20~10'"]),
        ("*/0 * * * *", ["minute '*/0'"]),
        ("0 0 31 2 *", ["never fires"]),
        ("0 0 30 2 *", ["never fires"]),
        ("0 0 * * MON#6", ["day of week 'MON#6'"]),
        ("@reboot", ["'@reboot' is not known; a daemon's start is no time"]),
        ("0 0 * * *", []),
        ("@Daily", []),
    ],
)
def test_mistakes_name_the_field(text: str, expected: list[str]) -> None:
    found = list(expression_faults(text, "x"))
    assert len(found) == len(expected)
    assert all(one.startswith(begin) for one, begin in zip(found, expected, strict=True)), found


@pytest.mark.parametrize(
    ("name", "hint"), [("Europe/Berln", "Europe/Berlin"), ("new york", "America/New_York"), ("../../etc", "unknown")]
)
def test_an_unknown_zone_names_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        Zone(name)
