"""Which lines make one record: stack traces, patterns, parts of containers' lines, cut anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.logs.block import Block
from dogwatch.logs.frames import to_frame
from dogwatch.logs.multiline import INNER, Joiner, Multiline
from dogwatch.logs.records import plain_lines, records
from dogwatch.logs.tail.finding import Finder
from dogwatch.logs.tail.follow import Follow
from dogwatch.logs.tail.follower import Follower

pytestmark = pytest.mark.allow_leak("fd:anon_inode:*", reason="the runtime of polars lasts as long as the process")

PYTHON = """2026-11-21 ERROR it failed
Traceback (most recent call last):
  File "a.py", line 1, in <module>
    f()
ValueError: no

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "a.py", line 3, in <module>
    raise Http404("x")
app.Http404: x
|2026-11-21 INFO next
|2026-11-21 INFO and next
"""
JAVA = """2026-11-21 ERROR request failed
java.lang.IllegalStateException: no state
\tat a.B.c(B.java:1)
\tat a.B.d(B.java:2)
Caused by: java.io.IOException: broken
\tat x.Y.z(Y.java:3)
\t... 2 more
|2026-11-21 INFO next
|java.lang.String: is only a word here
|2026-11-21 INFO last
"""
GO = """2026/11/21 serving
|panic: runtime error: index out of range [5] with length 3

goroutine 1 [running]:
main.f(0x3, {0xc00001, 0x2})
\t/src/main.go:9 +0x1d
main.main()
\t/src/main.go:5 +0x1f
exit status 2
|2026/11/21 again
"""
CRI = """2026-11-21T07:00:00.1Z stdout P one
2026-11-21T07:00:00.2Z stdout P  and
2026-11-21T07:00:00.3Z stdout F  two
|2026-11-21T07:00:00.4Z stderr F three
"""
DOCKER = """{"log":"one ","stream":"stdout","time":"2026-11-21T07:00:00Z"}
{"log":"two\\n","stream":"stdout","time":"2026-11-21T07:00:01Z"}
|{"log":"three\\n","stream":"stderr","time":"2026-11-21T07:00:02Z"}
"""
OPTIONS = {
    "python": Multiline(preset="python"),
    "java": Multiline(preset="java"),
    "go": Multiline(preset="go"),
    "cri": Multiline(preset="cri"),
    "docker": Multiline(preset="docker"),
    "start": Multiline(start=r"^\d{4}-"),
    "continue": Multiline(continue_=r"^(\s|and )"),
}
CASES = {
    "python": PYTHON,
    "java": JAVA,
    "go": GO,
    "cri": CRI,
    "docker": DOCKER,
    "start": "2026-1 a\nb\n\xff c\n|2026-2\n",
    "continue": "a\n b\nand c\n|d\n",
}


def expected(text: str) -> list[str]:
    return [one.removesuffix("\n") for one in text.split("|")]


@pytest.mark.parametrize("name", CASES)
def test_records_are_joined(name: str) -> None:
    data = CASES[name].replace("|", "").encode()
    found = OPTIONS[name].joiner().join(data, whole=True)
    assert [one.replace(INNER, b"\n").decode() for one in found.data.splitlines()] == expected(CASES[name])
    assert found.used == len(data)
    assert [data[at : at + 1] for at in found.starts] == [one[:1].encode() for one in expected(CASES[name])]
    held = OPTIONS[name].joiner().join(data, whole=False)
    assert held.used == found.starts[-1], "the last record may go on"


@pytest.mark.parametrize("name", CASES)
@given(cuts=st.lists(st.integers(min_value=1, max_value=12), max_size=12))
def test_wherever_it_is_cut_the_records_are_the_same(name: str, cuts: list[int]) -> None:
    lines = CASES[name].replace("|", "").encode().splitlines(keepends=True)
    joiner = OPTIONS[name].joiner()
    waiting, records_ = b"", []
    while lines:
        count = cuts.pop() if cuts else len(lines)
        waiting += b"".join(lines[:count])
        lines = lines[count:]
        found = joiner.join(waiting, whole=not lines)
        records_ += found.data.splitlines()
        waiting = waiting[found.used :]
    assert [one.replace(INNER, b"\n").decode() for one in records_] == expected(CASES[name])


def test_a_record_is_bounded() -> None:
    joiner = Joiner(Multiline(start="^begin", max_lines=3))
    found = joiner.join(b"begin\n1\n2\n3\n4\n", whole=True)
    assert [one.count(INNER) for one in found.data.splitlines()] == [2, 1]


def test_sinks_see_the_newlines() -> None:
    data = b"a" + INNER + b"b\nc\n"
    block = Block(source="s", stream="f", path="p", begin=0, end=6, data=data, count=2, starts=(0, 4), joined=True)
    assert plain_lines(block) == b"a\nb\nc\n"
    assert [one["message"] for one in records(block)] == ["a\nb", "c"]
    assert to_frame(block)["message"].to_list() == ["a\nb", "c"]


def test_a_file_holds_a_record_back_until_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("first\nx: y\n  at 1\n")
    follow = Follow(source="s", lanes=("out",), start="beginning", multiline=Multiline(preset="indented", timeout=2.0))
    follower = Follower(follow, Finder([str(path)]))
    follower.search(0.0, 0.0)

    def read(now_s: float) -> list[tuple[bytes, tuple[int, ...] | None, int]]:
        return [(one.data, one.starts, one.after.offset) for one in follower.sweep(frozenset(["out"]), now_s)]

    try:
        assert read(0.0) == [(b"first\n", (0,), 6)]
        assert read(1.0) == []
        with path.open("a") as file:
            file.write("  at 2\n")
        assert read(1.5) == []
        assert read(3.0) == [], "it grew after the first look"
        assert read(3.6) == [(b"x: y\x1e  at 1\x1e  at 2\n", (6,), 25)]
        with path.open("a") as file:
            file.write("z\n" + "  more\n" * 200_000)
        found = read(4.0)
        assert found, "a record larger than a block is delivered in parts"
        while more := read(9.0):
            found += more
        assert b"".join(one[0] for one in found).count(b"more") == 200_000
    finally:
        follower.close()
