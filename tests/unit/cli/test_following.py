"""Output that comes in pieces becomes lines; how a run ended becomes an exit code."""

from __future__ import annotations

import pytest

from dogwatch.cli.following import Lines, clean, exit_code
from dogwatch.cli.job import parse_parameters
from dogwatch.errors import UsageError


def lines_of(*pieces: tuple[str, str, str]) -> list[tuple[str, str]]:
    shown: list[tuple[str, str]] = []
    lines = Lines(lambda step, text, _stream: shown.append((step, text)))
    for step, stream, text in pieces:
        lines.add({"step": step, "stream": stream, "text": text})
    lines.flush()
    return shown


def test_pieces_are_put_together_step_by_step() -> None:
    shown = lines_of(("a", "stdout", "one\ntw"), ("b", "stdout", "x"), ("a", "stdout", "o\n"), ("b", "stdout", "y"))
    assert shown == [("a", "one"), ("a", "two"), ("b", "xy")]


def test_streams_are_not_mixed_and_notes_are_whole() -> None:
    shown = lines_of(
        ("a", "stdout", "half"), ("a", "note", "cut off"), ("a", "stderr", "err\n"), ("a", "stdout", "!\n")
    )
    assert shown == [("a", "cut off"), ("a", "err"), ("a", "half!")]


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[1;32mok\x1b[0m", "ok"),
        ("\x1b]0;title\x07text", "text"),
        ("10%\r50%\r100%", "100%"),
        ("text\r", "text"),
        ("a\tb", "a    b"),
        ("bell\x07 and \x1b", "bell  and  "),
    ],
)
def test_nothing_reaches_the_terminal_that_it_would_obey(raw: str, shown: str) -> None:
    assert clean(raw) == shown


def test_exit_codes() -> None:
    good, bad = {"state": "succeeded"}, {"state": "failed"}
    assert exit_code({"state": "succeeded"}, [good, good]) == 0
    assert exit_code({"state": "succeeded"}, [good, bad]) == 3
    assert exit_code({"state": "failed"}, [good, bad]) == 1
    assert exit_code({"state": "cancelled"}, [good]) == 1


def test_parameters_are_read_by_their_types() -> None:
    types = {"n": "integer", "f": "number", "b": "boolean", "l": "list", "s": "string"}
    given = ["n=3", "f=0.5", "b=yes", 'l=["a"]', "s=3", "s2=a=b"]
    assert parse_parameters(given, types) == {"n": 3, "f": 0.5, "b": True, "l": ["a"], "s": "3", "s2": "a=b"}
    assert parse_parameters(["n=three"], types) == {"n": "three"}
    for wrong in (["n"], ["=3"], ["n=1", "n=2"]):
        with pytest.raises(UsageError):
            parse_parameters(wrong, types)
