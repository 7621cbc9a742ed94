"""What was written as logfmt, CSV or syslog is read as it was meant; hostile text is read or left, never an error."""

from __future__ import annotations

import csv
import io
import time
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dogwatch.logs.transform import Transform
from dogwatch.logs.transforms.text import (
    ApacheTransform,
    ContainerTransform,
    CsvTransform,
    LogfmtTransform,
    SyslogTransform,
)

PLAIN = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters='"=\\'), min_size=1, max_size=6)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x85\u2028\u2029"), max_size=8)


def read(transform: Transform, text: str) -> dict[str, Any] | None:
    return cast("Any", transform.open()).read(text)


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


@settings(deadline=None)
@given(st.dictionaries(PLAIN, st.one_of(TEXT, PLAIN), min_size=1, max_size=4))
def test_logfmt_that_was_written_is_read(pairs: dict[str, str]) -> None:
    line = " ".join(f"{name}={quoted(value)}" for name, value in pairs.items())
    assert read(LogfmtTransform(), line) == pairs


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0")), min_size=2, max_size=4))
def test_csv_that_was_written_is_read(values: list[str]) -> None:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    names = tuple(f"c{at}" for at in range(len(values)))
    assert read(CsvTransform(columns=names), line.getvalue()) == dict(zip(names, values, strict=True))
    other = io.StringIO()
    csv.writer(other, delimiter=";", quotechar="'", lineterminator="").writerow(values)
    found = read(CsvTransform(columns=names, delimiter=";", quote="'"), other.getvalue())
    assert found == dict(zip(names, values, strict=True))


VALUE = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=6)


@settings(deadline=None)
@given(st.integers(0, 191), VALUE, st.text(st.characters(exclude_categories=["Cs"]), max_size=9))
def test_syslog_that_was_written_is_read(priority: int, value: str, message: str) -> None:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")
    line = f'<{priority}>1 2026-11-21T07:00:00Z h app - ID [x@1 k="{escaped}"] {message}'
    found = read(SyslogTransform(), line)
    assert found is not None
    assert (found["host"], found["app"], found["msgid"]) == ("h", "app", "ID")
    assert found["structured"] == f'x@1.k="{escaped}"'
    assert found["message"] == message.removeprefix("\ufeff")
    assert "pid" not in found


READERS = [
    LogfmtTransform(),
    CsvTransform(columns=("a", "b")),
    SyslogTransform(),
    ContainerTransform(),
    ApacheTransform(),
    ApacheTransform(format="vhost"),
    ApacheTransform(format="error"),
]
HOSTILE = [
    "a=" * 50_000, '="' * 50_000, 'a="' + "\\" * 100_000, "<34>1 " + "x " * 50_000,
    "<34>1 - - - - - " + '[a b="' * 20_000,
    "[" * 100_000, "]" * 100_000, '"' * 100_000, "h - - [x] " + '"' + "\\" * 100_000, "2026-11-21T07:00:00Z " * 5_000,
    "{" * 100_000, '{"log":' * 20_000, "\0" * 100_000, "," * 100_000, "Nov 21 07:00:00 " + "[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("reader", READERS, ids=lambda one: f"{one.kind}-{getattr(one, 'format', '')}")
def test_a_line_made_to_take_long_takes_no_time(reader: Transform) -> None:
    for line in HOSTILE:
        begun_s = time.thread_time()
        read(reader, line)
        # A pattern that tries again would take minutes; a busy machine does not count, this is CPU time of the thread.
        assert time.thread_time() - begun_s < 5, line[:40]


@settings(deadline=None)
@given(st.sampled_from(READERS), st.text(max_size=40))
def test_any_text_is_read_or_left(reader: Transform, text: str) -> None:
    found = read(reader, text)
    assert found is None or all(isinstance(name, str) for name in found)
