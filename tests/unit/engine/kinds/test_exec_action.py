from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.engine.kinds.exec import _TAKEN, ExecAction, _Kept, answers
from dogwatch.errors import PermanentError


def faults(**options: object) -> list[tuple[tuple[str | int, ...], str]]:
    return [(path, message) for path, message, _ in msgspec.convert(options, ExecAction).faults()]


@pytest.mark.parametrize(
    ("options", "path", "message"),
    [
        ({}, ("run",), "either 'run'"),
        ({"run": "true", "command": ["true"]}, ("run",), "either 'run'"),
        ({"command": [""]}, ("command", 0), "names no program"),
        ({"run": "true", "umask": "999"}, ("umask",), "is no umask"),
        ({"run": "true", "ok": []}, ("ok",), "no exit code"),
        ({"run": "true", "env": {"A=B": "c"}}, ("env", "A=B"), "no name of a variable"),
        ({"run": "true", "interpreter": "'sh"}, ("interpreter",), "no closing quotation"),
        ({"command": ["true"], "interpreter": "sh -c"}, ("interpreter",), "means nothing without 'run'"),
        (
            {"run": "print({{ params.x }})", "interpreter": "python3 -c"},
            ("run",),
            "cannot be quoted safely for python3",
        ),
    ],
)
def test_what_options_cannot_be(options: dict[str, object], path: tuple[str | int, ...], message: str) -> None:
    found = faults(**options)
    assert [at for at, _ in found] == [path]
    assert message in found[0][1]


def test_what_options_can_be() -> None:
    assert not faults(run="echo {{ params.x }}", interpreter="/bin/busybox sh -c", umask="027", ok=[0, 255])
    assert not faults(command=["printf", "%s", "{{ params.x }}"])


@pytest.mark.parametrize("options", [{"ok": [256]}, {"nice": 20}, {"open_files": 2}, {"output": "xml"}])
def test_what_types_refuse(options: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"run": "true", **options}, ExecAction)


def test_the_plan_of_a_command_can_be_pasted_into_a_shell() -> None:
    action = ExecAction(command=("cp", "a file", "b;c"), cwd="/srv", user="www", env={"A": "1"}, memory=2**20)
    plan = action.plan()
    assert plan.summary == "run cp 'a file' 'b;c'"
    assert plan.details == ("env A=1", "cwd: /srv", "user: www", "memory: 1 MiB")


def test_the_plan_of_a_script_shows_all_of_it() -> None:
    plan = ExecAction(run="set -x\nmake install\n", interpreter="zsh -c").plan()
    assert plan.summary == "run set -x …"
    assert plan.details == ("| set -x", "| make install", "interpreter: zsh -c")
    assert ExecAction(run="date").plan().summary == "run date"


# -- what a program answers


def test_answers() -> None:
    text = "a=1\n\n b =x=y<<z\nc<<END\none\n\n d=2\nEND\ne<<=\nf=\n=\na=2\nlast="
    assert answers(text) == {"a": "2", "b": "x=y<<z", "c": "one\n\n d=2", "e": "f=", "last": ""}
    assert answers("") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=1\nnonsense\n", "line 2: 'nonsense' is neither"),
        ("=1", "line 1: '=1' is neither"),
        ("a b=1", "line 1: 'a b=1' is neither"),
        ("x=1\na<<END\nb\n", "line 2: 'a' is not ended by a line 'END'"),
        ("exit_code=0", "line 1: the name 'exit_code' is taken"),
    ],
)
def test_bad_answers_name_their_line(text: str, message: str) -> None:
    with pytest.raises(PermanentError, match=message):
        answers(text)


_names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,8}", fullmatch=True).filter(lambda name: name not in _TAKEN)


@given(st.dictionaries(_names, st.text(st.characters(exclude_categories=["Cs"]), max_size=40)))
def test_any_text_comes_back_from_its_long_form(values: dict[str, str]) -> None:
    end = "=END-OF-TEXT="
    text = "".join(f"{name}<<{end}\n{value}\n{end}\n" for name, value in values.items())
    assert answers(text) == values


# -- what is kept of its output


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_the_end_of_the_output_is_kept(pieces: list[bytes]) -> None:
    kept = _Kept(32)
    for piece in pieces:
        kept.add("stdout", piece)
    whole = b"".join(pieces)
    text = kept.text()
    assert kept.cut == (len(whole) > 32)
    if len(whole) <= 32:
        assert text == whole.decode(errors="replace")
    else:
        assert whole[-28:].decode(errors="replace")[3:] in text
        assert len(text) <= 32


def test_a_character_that_was_cut_in_two_is_left_out() -> None:
    kept = _Kept(5)
    kept.add("stdout", "ééé".encode())
    assert kept.text() == "éé"


def test_the_last_line_is_of_stderr_if_it_says_anything() -> None:
    kept = _Kept(100)
    kept.add("stdout", b"out\n")
    assert kept.last_line() == "out"
    kept.add("stderr", b"first\nwhy \n\n  \n")
    assert kept.last_line() == "why"
