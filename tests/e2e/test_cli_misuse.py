"""Whatever is typed: an exit code that is documented, one sentence of why, never a traceback."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dogwatch.cli.main import COMMANDS, main

DOCUMENTED = {0, 1, 2, 3, 4, 10, 11, 12, 13, 130, 143}
SUBCOMMANDS = ("list", "show", "run", "pause", "resume", "check", "schema", "status", "tasks", "fds", "threads", "heap")
OPTIONS = (
    "--json", "--server", "--socket", "--timeout", "--config", "-c", "--data", "--listen", "--set", "--help", "--check",
    "--quiet", "--exit-code", "--group", "--limit", "--origin", "--every", "--count", "--expect", "--version", "--",
)  # fmt: skip
VALUES = (
    "", "0", "-1", "1e309", "nan", "inf", "http://127.0.0.1:1", "http://[::1", "http://", "://", "ftp://x",
    "tcp://x:99999", "127.0.0.1:0", ":-1", "store.batch=1s", "store.batch", "=", "probes=3", "x.y.z=[",
    "/nonexistent", "/dev/null", "/proc/self", "${ENV}", "${file:/nonexistent}", "\udcff", "ü", "💥", "a" * 5000,
    "../..", "{", "bash",
)  # fmt: skip
# What a shell can pass: no NUL, and of surrogates those that stand for bytes that are no UTF-8.
TYPED = st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]) | st.sampled_from("\udc80\udcff")
WORDS = st.one_of(
    st.sampled_from(SUBCOMMANDS), st.sampled_from(OPTIONS), st.sampled_from(VALUES), st.text(TYPED, max_size=20),
    st.tuples(st.sampled_from(OPTIONS), st.text(TYPED, max_size=8)).map("=".join),
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def nowhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No daemon, no configuration, a folder of its own."""
    before, place = Path.cwd(), tmp_path_factory.mktemp("nowhere")
    saved = {name: os.environ.get(name) for name in ("DOGWATCH_SERVER", "DOGWATCH_DATA", "HOME", "XDG_STATE_HOME")}
    os.chdir(place)
    os.environ |= {"DOGWATCH_SERVER": "http://127.0.0.1:1", "DOGWATCH_DATA": str(place / "data"), "HOME": str(place)}
    yield
    os.chdir(before)
    for name, value in saved.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def say(arguments: list[str]) -> tuple[int, str, str]:
    out, err = (
        io.TextIOWrapper(io.BytesIO(), "utf-8"),
        io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace"),
    )
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode("utf-8", "replace"))  # type: ignore[attr-defined]
    return code, texts[0], texts[1]


@pytest.mark.allow_leak("env:*", reason="the module's own")
@given(
    # `up` would stand the watch: only with --check, which tells whether it could.
    command=st.sampled_from([name for name in COMMANDS if name != "up"]) | st.text(TYPED, max_size=10),
    words=st.lists(WORDS, max_size=5),
)
@example(command="config", words=["show", "--set", "\udc80"])
@example(command="probe", words=["show", "\udc80"])
@example(command="host", words=["show", "💥"])
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_misuse_has_a_sentence_and_a_code(command: str, words: list[str]) -> None:
    if command == "up":
        words = ["--check", *words]
    code, _out, err = say([command, *words])
    assert code in DOCUMENTED, (code, err)
    assert "Traceback" not in err
    if code not in (0, 1):
        assert err.strip(), f"exit code {code} without a word"


@pytest.mark.parametrize("words", [["--listen", "\udc80:1"], ["--set", "store.batch=💥"], ["--grace", "x"]])
def test_up_refuses_what_it_cannot_use(words: list[str]) -> None:
    code, _out, err = say(["up", "--check", *words])
    assert code == 2, err
    assert err.strip()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", [["--help"], ["config", "show", "--json"], ["completion", "bash"]])
def test_a_disk_that_is_full_is_one_sentence(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "dogwatch.yaml").write_text("probes: [{name: a, tcp: 'x:1'}]\n")
    command = [sys.executable, "-m", "dogwatch", *words]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, timeout=60, check=False
        )
    assert ended.returncode == 1
    said = ended.stderr if "--json" not in words else json.loads(ended.stderr)["message"]
    assert said.removeprefix("error: ").strip() == "cannot write: no space left on device"
