from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dogwatch.store.columns import ResultColumns, ResultJournal, SampleColumns, SampleJournal, milliseconds, quantise
from dogwatch.store.protocol import ResultRow

SECONDS = st.floats(0, 5000)
ROWS = st.lists(
    st.builds(
        ResultRow,
        st.just("t"),
        st.floats(0, 4e9),
        st.booleans(),
        st.integers(0, 5),
        SECONDS,
        SECONDS,
        SECONDS,
        SECONDS,
        SECONDS,
        SECONDS,
        st.sampled_from(["", "timeout", "status", "größer"]),
    ),
    max_size=50,
)


@given(ROWS)
def test_a_block_gives_back_what_it_was_given(rows: list[ResultRow]) -> None:
    columns = ResultColumns()
    for row in rows:
        columns.add(columns.pack(row), milliseconds(row.time_s))
    back = ResultColumns.decode(columns.encode()) if rows else columns
    assert back.rows("t") == [quantise(row) for row in rows]


@given(ROWS.filter(bool))
def test_a_journal_gives_back_owners_and_rows(rows: list[ResultRow]) -> None:
    journal, tail = ResultJournal(), ResultColumns()
    for number, row in enumerate(rows):
        journal.add(number % 3 + 70_000, tail.pack(row), row.reason)
    owners, back = ResultJournal.decode(journal.encode())
    assert list(owners) == [number % 3 + 70_000 for number in range(len(rows))]
    assert back.rows("t") == [quantise(row) for row in rows]


@given(st.lists(st.tuples(st.integers(0, 1 << 40), st.floats(allow_nan=False)), min_size=1, max_size=50))
def test_samples_are_exact(rows: list[tuple[int, float]]) -> None:
    columns, journal = SampleColumns(), SampleJournal()
    for time_ms, value in rows:
        columns.times.append(time_ms)
        columns.values.append(value)
        journal.owners.append(9)
        journal.times.append(time_ms)
        journal.values.append(value)
    back = SampleColumns.decode(columns.encode())
    assert list(zip(back.times, back.values, strict=True)) == rows
    owners, back = SampleJournal.decode(journal.encode())
    assert list(owners) == [9] * len(rows)
    assert list(zip(back.times, back.values, strict=True)) == rows


def test_an_hour_of_a_quiet_target_takes_little() -> None:
    columns = ResultColumns()
    for number in range(240):
        row = ResultRow("t", 1.8e9 + number * 15, True, 1, 0.012 + number % 17 / 1e6)
        columns.add(columns.pack(row), milliseconds(row.time_s))
    assert len(columns.encode()) < 240 * 3


def test_what_does_not_fit_is_brought_to_its_bound() -> None:
    row = quantise(ResultRow("t", 0.0, True, 1, -5.0, 1e9))
    assert row.duration_s == 0.0
    assert row.resolve_s == (2**32 - 1) / 1e6
