"""Templates: what they become, what they refuse, and that what is filled in stays a value."""

from __future__ import annotations

import re
import shutil
import string
import subprocess
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.jobbing import ShellAction, new_scope, seen

from dogwatch.engine.kinds.http import HttpAction
from dogwatch.engine.kinds.map import MapAction
from dogwatch.engine.shell import Place, quote
from dogwatch.engine.templates import (
    MAX_FIELD_CHARS,
    Template,
    TemplateError,
    fields,
    render,
    render_json,
    render_text,
    template,
)

VALUES = new_scope(
    parameters={"word": "two words", "count": 3, "ratio": 0.5, "yes": True, "list": ["a", {"b": 1}], "none": None},
    secrets={"token": "hunter2"},
    steps={"build-image": seen({"id": "sha256:1"})},
).values()


def script(text: str, **params: Any) -> str:
    values = new_scope(parameters=params).values()
    return render(ShellAction(run=text), values).run


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("plain", "plain"),
        ("{{ params.word }}", "two words"),
        ("<{{params.count}}> {{ params.ratio }} {{ params.yes }}", "<3> 0.5 true"),
        ("{{ params.list }}", '["a",{"b":1}]'),
        ('{{ steps["build-image"].outputs.id }} {{ steps["build-image"].state }}', "sha256:1 succeeded"),
        ("{{ run.id }} by {{ run.actor }} in {{ run.job }}", "r1 by ann in deploy"),
        ("{{ params.count + 1 }}", "4"),
        ("{{ 10.0 / 4.0 }} {{ 2.0 * 2.0 }}", "2.5 4"),
        ('{{ "}}" + "{{" }}', "}}{{"),
        ("{{ '\\'}}' }}", "'}}"),
        ('{{ """a"}}""" }}', 'a"}}'),
        ('{{ r"\\" }}', "\\"),
        ('{{ {"a": {"b": params.count}} }}', '{"a":{"b":3}}'),
        ('{{ {"a": {"b": 1}}.a.b}}', "1"),
        ("\\{{ params.word }}", "{{ params.word }}"),
        ("\\{{{{ params.count }}", "{{3"),
        ("}} {{ params.count }} }}", "}} 3 }}"),
        ("{{ params.list.map(x, string(size(string(x == 'a')))) }}", '["4","5"]'),
        ('{{ timestamp("2026-01-01T00:00:00Z") }} {{ duration("90s") }}', "2026-01-01T00:00:00Z 90s"),
        ('{{ params.none == null ? "" : params.none }}', ""),
        ("{{ trigger.kind }}", "manual"),
    ],
)
def test_text_is_filled_in(text: str, want: str) -> None:
    assert render_text(text, VALUES) == want


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{{ params.none }}", "is null"),
        ("{{ params.wrod }}", "no such key"),
        ("{{ params.word", "is not closed"),
        ("{{ }}", "empty"),
        ("{{ nobody }}", "unknown variable 'nobody'"),
        ("{{ .Names }}", "unknown variable"),
        ("{{ 1 / 0 }}", "divide by zero"),
        ("{{ item }}", "no value"),
        ('{{ b"x" }}', "has no text"),
        ("{{ {'a': 1} } }}", "is not closed"),
    ],
)
def test_what_cannot_be_filled_in_is_an_error(text: str, part: str) -> None:
    with pytest.raises(TemplateError, match=part.replace("(", r"\(")):
        render_text(text, VALUES)


def test_a_compiled_template_is_kept() -> None:
    assert template("{{ params.word }}") is template("{{ params.word }}")
    assert template("{{ params.word }}", shell=True) is not template("{{ params.word }}")


def test_whole_templates_keep_their_type_where_the_field_takes_it() -> None:
    action = ShellAction(
        args=["{{ params.list }}", "{{ params.count }}"],
        env={"A": "{{ params.yes }}"},
        value={"a": ["{{ params.list }}", "n={{ params.count }}"], "n": "{{ params.none }}"},
    )
    done = render(action, VALUES)
    assert list(done.args) == ['["a",{"b":1}]', "3"]
    assert done.env == {"A": "true"}
    assert done.value == {"a": [["a", {"b": 1}], "n=3"], "n": None}
    assert render(HttpAction(url="http://x", json="{{ params.list }}"), VALUES).json == ["a", {"b": 1}]
    over = render(MapAction(over="{{ params.list }}", do=ShellAction(run="{{ item }}")), VALUES)
    assert over.over == ["a", {"b": 1}]
    with pytest.raises(TemplateError, match=r"over: \{\{ params.count \}\} is int, which does not fit here"):
        render(
            MapAction(over="{{ [params.count][0] }}".replace("[params.count][0]", "params.count"), do=over.do), VALUES
        )


def test_an_action_inside_of_an_action_is_left_for_its_own_time() -> None:
    inner = ShellAction(run="echo {{ item }}")
    done = render(MapAction(over=[1], do=inner), VALUES)
    assert done.do is inner
    assert list(fields(inner))
    assert not list(fields(MapAction(over=[1], do=inner)))


def test_an_action_without_templates_is_the_same_one() -> None:
    action = HttpAction(url="http://x", headers={"a": "b"}, json={"a": [1, None]}, expect='body == "{{ no template }}"')
    assert render(action, VALUES) is action
    assert not list(fields(action))


def test_an_error_names_the_field() -> None:
    with pytest.raises(TemplateError, match=r"^json\.a\[1\]: \{\{ params\.none \}\} is null"):
        render(HttpAction(url="http://x", json={"a": [1, "-{{ params.none }}"]}), VALUES)


def test_what_is_filled_in_is_not_read_again() -> None:
    values = new_scope(
        parameters={"x": "{{ secrets.token }}", "y": ["{{ params.x }}"]}, secrets={"token": "t"}
    ).values()
    assert render_text("{{ params.x }} {{ params.y }}", values) == '{{ secrets.token }} ["{{ params.x }}"]'
    assert render_json({"a": "{{ params.y }}"}, values) == {"a": ["{{ params.x }}"]}


def test_output_is_bounded() -> None:
    values = new_scope(parameters={"x": "y" * (MAX_FIELD_CHARS // 2 + 1)}).values()
    with pytest.raises(TemplateError, match="makes a text of more than"):
        render_text("{{ params.x }}{{ params.x }}", values)
    with pytest.raises(TemplateError, match="in all"):
        render(ShellAction(args=["{{ params.x }}"] * 9), values)


@given(st.text(alphabet=string.printable + "{}\\\"'é", max_size=60))
@example("{{'")
@example('{{ r"\\')
def test_any_text_is_read_or_told(text: str) -> None:
    found = Template(text, shell=False)
    if not found.mistakes and found.plain:
        assert found.fill({}) == text.replace("\\{{", "{{")


# -- shells -----------------------------------------------------------------------------------------------------------

SHELLS = [path for path in (shutil.which("dash"), shutil.which("bash"), shutil.which("sh")) if path]
HOSTILE = [
    "'; echo owned; '",
    '"; echo owned; "',
    "$(echo owned)",
    "`echo owned`",
    "\\",
    "\\'; echo owned #",
    "a\nb\n",
    "\n\necho owned\n",
    "",
    " ",
    "-n",
    "~",
    "*",
    "$HOME",
    "!!",
    "A=1",
    "2",
    "'\"'\"'",
    "\r\x01\x7f",
    "é🦉",
    "#",
    "EOF",
]
# Each prints its value once between brackets, wherever it stands.
SCRIPTS = [
    "printf '[%s]' {{ params.x }}",
    "printf '[%s]' \"{{ params.x }}\"",
    "printf '[%s]' '{{ params.x }}'",
    "printf '[%s]' \"\"{{ params.x }}''",
    "printf \"[%s]\" \"$(printf '%s.' {{ params.x }})\" | sed '$ s/[.]]$/]/'",
    "printf '%s' \"[$(printf '%s.' \"{{ params.x }}\")]\" | sed '$ s/[.]]$/]/'",
    "y={{ params.x }}; printf '[%s]' \"$y\"",
    'y="{{ params.x }}"\n# it\'s a comment\nprintf \'[%s]\' "$y"',
    "cat >/dev/null <<'END'\nit's \"text\n END\nEND\nprintf '[%s]' {{ params.x }}",
    "x=${x:-\"a b\"} n=$((1 + (2 * 3))); printf '[%s]' {{ params.x }}",
    "case x in x) printf '[%s]' \"{{ params.x }}\";; esac",
    "f() { printf '[%s]' \"$1\"; }; f {{ params.x }}",
    "printf '[%s]' \\\n  {{ params.x }}",
    "printf '[%s]' a\\'b >/dev/null; printf '[%s]' \"\\\"\" >/dev/null; printf '[%s]' {{ params.x }}",
]


def ran(shell: str, text: str) -> str:
    done = subprocess.run([shell, "-c", text], capture_output=True, timeout=60, check=False, env={"HOME": "/h"})
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("text", SCRIPTS)
def test_hostile_values_stay_values(shell: str, text: str) -> None:
    for value in HOSTILE:
        assert ran(shell, script(text, x=value)) == f"[{value}]", (text, value)


@given(
    value=st.text(
        alphabet=st.one_of(st.sampled_from("'\"\\$`(){};&|<>#!~*?[] \n\t-=ab"), st.characters(codec="utf-8")),
        max_size=40,
    ).filter(lambda text: "\0" not in text),
    text=st.sampled_from(SCRIPTS),
)
@settings(max_examples=60)
def test_any_value_stays_a_value(value: str, text: str) -> None:
    assert ran(SHELLS[0], script(text, x=value)) == f"[{value}]"


HOLE = "{{ params.x }}"


def _around(outer: str, inner: str) -> str:
    return outer.replace("{{", "\0").replace("}}", "\1").replace("{}", inner).replace("\0", "{").replace("\1", "}")


# Scripts with a template somewhere: what is around it, and what is around that.
AROUND = [
    "echo {}",
    "echo {} >&2",
    'echo "{}"',
    "echo '{}'",
    "echo a\\'{}",
    'echo "a\\"{}"',
    "# {}\necho b",
    "echo a # {}",
    "echo a#{}",
    "echo `echo {}`",
    'echo "`echo {}`"',
    "echo $(echo {})",
    'echo "$(echo {})"',
    "echo \"$(echo '{}')\"",
    "echo $(case a in a) echo {};; esac)",
    'echo "$(case a in a) echo {};; esac)"',
    "case a in a) echo {};; esac",
    "echo ${{y:-{}}}",
    'echo "${{y:-{}}}"',
    "echo \"${{y#'}}'}}\" {}",
    "echo $(( 1 + {} ))",
    "(( {} ))",
    "(echo {})",
    "( (echo a); echo {})",
    "((echo a); echo {})",
    "echo $'{}'",
    "echo $'a\\'{}'",
    'echo $"{}"',
    "cat <<E\n{}\nE\n",
    "cat <<-E\n\t{}\n\tE\n",
    "cat <<'E'\n{}\nE\n",
    "cat <<E; echo {}\ntext\nE\n",
    "cat <<E\nit's \"\nE\necho {}",
    "a[{}]=1",
    "echo ${{a[{}]}}",
    'x=$({}); echo "$x"',
    "{} echo",
    "echo \\\n{}",
    "echo $#{} $${}",
    "if true; then echo {}; fi",
    "f() {{ echo {}; }}; f",
    "[[ {} == a ]] || true",
    "echo b | cat {}",
    "cat < {}",
    "echo b; {}",
]
SCRIPT = st.recursive(st.just(HOLE), lambda inner: st.builds(_around, st.sampled_from(AROUND), inner), max_leaves=3)


BREAKERS = [
    "'; touch owned; '",
    '"; touch owned; "',
    "$(touch owned)",
    "\ntouch owned\n",
    "`touch owned`",
    ")touch owned;(",
    "x]=1; touch owned; y[",
    "E\ntouch owned\n",
]


def gets_out(text: str) -> bool:
    """Run a script; return whether it comes to running `touch`, which is nowhere."""
    program = f"PATH=/nowhere\n{text}\n"
    for shell in SHELLS[:2]:
        done = subprocess.run([shell, "-c", program], capture_output=True, timeout=60, check=False, env={})
        if re.search(rb"(?:^|\s)touch: (not found|command not found|No such file)", done.stderr):
            return True
    return False


@given(SCRIPT.filter(lambda text: text != HOLE), st.sampled_from(BREAKERS))
@settings(max_examples=300)
def test_no_script_at_all_lets_a_value_out(text: str, value: str) -> None:
    """Whatever the script looks like: it is refused when it is loaded, or the value runs nothing."""
    if not Template(text, shell=True).mistakes:
        assert not gets_out(script(text, x=value)), text


@pytest.mark.parametrize(
    "text",
    [
        "# {{ params.x }}",
        "cat <<E\n{{ params.x }}\nE\n",
        'echo `echo "{{ params.x }}"`',
        'echo "${y:-{{ params.x }}}"',
        "echo $'{{ params.x }}'",
        'echo "$(case a in a) echo "{{ params.x }}";; esac)"',
        "echo $(( {{ params.x }} ))",
    ],
)
def test_what_is_refused_would_let_values_out(text: str) -> None:
    """The test above looks for the right thing: where templates are refused, the usual quoting is not enough."""
    assert Template(text, shell=True).mistakes
    filled = [text.replace(HOLE, quote(value, place)) for value in BREAKERS for place in Place]
    assert any(map(gets_out, filled)), filled


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("cat <<EOF\n{{ params.x }}\nEOF", "in a here-document"),
        ("cat <<{{ params.x }}\n", "as the end of a here-document"),
        ("# {{ params.x }}", "in a comment"),
        ("echo `ls {{ params.x }}`", "inside of backquotes"),
        ("echo ${y:-{{ params.x }}}", "inside of ${…}"),
        ("echo $(( {{ params.x }} + 1 ))", "inside of arithmetic"),
        ("(( {{ params.x }} ))", "inside of arithmetic"),
        ("echo $'{{ params.x }}'", "inside of $'…'"),
        ("echo ${{ params.x }}", "directly after $"),
        ("a[{{ params.x }}]=1", "in the index of an array"),
        ("echo \"$(case a in a) echo {{ params.x }};; esac)\"", "after case inside of $(…)"),
        ("echo \"${y#'}'}\" {{ params.x }}", "after a quote inside of ${…}"),
        ("echo 'open {{ params.x }}", "the script ends inside of quotes"),
        ("a[echo b; {{ params.x }}]=1", "in the index of an array"),
        ("echo ${a[echo \"{{ params.x }}\"]}", "inside of ${…}"),
        ("echo \\\n# {{ params.x }}\necho b", "in a comment"),
    ],
)  # fmt: skip
def test_where_no_quoting_is_safe_nothing_is_filled_in(text: str, why: str) -> None:
    mistakes = Template(text, shell=True).mistakes
    assert mistakes
    assert why in mistakes[0].message
    with pytest.raises(TemplateError):
        script(text, x="1")


def test_a_nul_is_refused_by_shells() -> None:
    with pytest.raises(TemplateError, match="NUL"):
        script("echo {{ params.x }}", x="a\0b")


def test_other_fields_of_a_shell_action_are_not_quoted() -> None:
    done = render(ShellAction(run="a {{ params.word }}", args=["{{ params.word }}"]), VALUES)
    assert done.run == "a 'two words'"
    assert list(done.args) == ["two words"]
