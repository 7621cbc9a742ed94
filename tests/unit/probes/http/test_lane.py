"""A head that looks as before but for its date: what `Shape` takes for the same must mean the same."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from dogwatch.probes.http.attempt import whole_answer
from dogwatch.probes.http.lane import Shape
from dogwatch.probes.http.response import Refused

DATES = ("Sun, 06 Nov 1994 08:49:37 GMT", "Mon, 07 Nov 1994 08:49:38 GMT")
NAMES = st.sampled_from(["Date", "Content-Type", "Server", "X-Id", "Connection", "date"])
LINES = st.lists(st.tuples(NAMES, st.sampled_from([*DATES, "a", "text/plain", "close", ""])), max_size=4)


def answer(lines: list[tuple[str, str]], body: bytes) -> bytes:
    head = "".join(f"{name}: {value}\r\n" for name, value in lines)
    return f"HTTP/1.1 200 OK\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def understood(data: bytes) -> tuple[int, dict[str, str], bytes] | None:
    """Return what the general way makes of it, the date aside."""
    try:
        found = whole_answer(data, 65536, 65536)
    except Refused:
        return None
    if found is None:
        return None
    head, end = found
    return head.status, {name: value for name, value in head.headers.items() if name != "date"}, data[end:]


@given(LINES, st.binary(max_size=4), st.data())
def test_what_fits_means_the_same(lines: list[tuple[str, str]], body: bytes, data: st.DataObject) -> None:
    first = answer(lines, body)
    found = whole_answer(first, 65536, 65536)
    if found is None:
        return
    shape = Shape(first, found[1], found[0])
    # Bytes are changed anywhere, into what could make another head of it.
    other = bytearray(first)
    for _ in range(data.draw(st.integers(0, 3))):
        other[data.draw(st.integers(0, len(other) - 1))] = data.draw(st.sampled_from(b"\r\n: 0aZ"))
    second = bytes(other)
    fits = shape.fits(second)
    before, now = understood(first), understood(second)
    if not fits:
        return
    assert now is not None
    assert before is not None
    assert now[:2] == before[:2]
    assert now[2] == (body if fits == 2 else second[found[1] :])


@given(st.binary(max_size=20), st.binary(max_size=20))
@example(b"same", b"same")
def test_another_date_or_body_is_no_other_head(first: bytes, second: bytes) -> None:
    data = answer([("Date", DATES[0]), ("Server", "a")], first)
    found = whole_answer(data, 65536, 65536)
    assert found is not None
    shape = Shape(data, found[1], found[0])
    again = answer([("Date", DATES[1]), ("Server", "a")], second)
    if len(first) != len(second):
        assert shape.fits(again) == 0
    else:
        assert shape.fits(again) == (2 if first == second else 1)
        assert shape.fits(again) == 2  # and is remembered


def test_a_line_feed_in_the_date_is_another_head() -> None:
    data = answer([("Date", DATES[0])], b"x")
    found = whole_answer(data, 65536, 65536)
    assert found is not None
    shape = Shape(data, found[1], found[0])
    assert shape.fits(data) == 2
    assert shape.fits(data.replace(b"Nov 1994", b"N\nX: 994")) == 0
