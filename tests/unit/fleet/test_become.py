"""The conversation with sudo and su: when the password is written, and what is told of a refusal."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest

from dogwatch.fleet.become import Gate
from dogwatch.fleet.connection import Become, HostFailed, RemoteCommand, State
from dogwatch.fleet.connections.local import LocalConnection


def marks(gate: Gate) -> tuple[bytes, bytes]:
    line = gate.wrap("true")
    prompt = re.search(r"-p '([^']*)'", line)
    begun = re.search(r"dogwatch-begun-\w+", line)
    assert begun is not None
    return (prompt[1].encode() if prompt else b""), begun[0].encode() + b"\n"


def test_the_password_is_written_once_and_only_at_the_prompt() -> None:
    gate = Gate(Become(password="s3cret"))
    prompt, begun = marks(gate)
    assert gate.feed(b"lecture\n" + prompt[:5]) == (b"", b"")
    assert gate.feed(prompt[5:]) == (b"s3cret\n", b"")
    assert gate.feed(begun[:4]) == (b"", b"")
    assert gate.feed(begun[4:] + b"own") == (b"", b"own")
    assert gate.feed(prompt) == (b"", prompt)  # from now on it is the command's own output
    assert "s3cret" not in gate.wrap("true")


def test_a_second_prompt_is_a_wrong_password() -> None:
    gate = Gate(Become(password="s3cret"))
    prompt, _ = marks(gate)
    gate.feed(prompt)
    with pytest.raises(HostFailed) as caught:
        gate.feed(b"Sorry, try again.\n" + prompt)
    assert caught.value.state is State.BECOME_FAILED
    assert "s3cret" not in str(caught.value)


def test_without_a_password_sudo_is_not_to_ask() -> None:
    assert " -n " in Gate(Become()).wrap("true")
    gate = Gate(Become(method="su"))
    gate.wrap("true")
    with pytest.raises(HostFailed):
        gate.feed(b"Password: ")


SUDO = """#!/bin/sh
# Asks as sudo -S -p does: on stderr, once more after a mistake.
while [ $# -gt 0 ]; do case $1 in -S|-H) shift;; -n) echo "sudo: a password is required" >&2; exit 1;;
-p) prompt=$2; shift 2;; -u) user=$2; shift 2;; --) shift; break;; esac; done
for attempt in 1 2; do
  printf '%s' "$prompt" >&2; IFS= read -r answer || exit 1
  [ "$answer" = right ] && { SUDO_AS=$user exec "$@"; }
done
exit 1
"""


@pytest.fixture
def sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sudo").write_text(SUDO)
    (tmp_path / "sudo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


async def pieces():
    yield b"input"


@pytest.mark.usefixtures("sudo")
async def test_input_comes_after_the_password() -> None:
    command = RemoteCommand(
        script='echo "$SUDO_AS $(cat)"', stdin=pieces(), become=Become(user="www", password="right")
    )
    ended = await LocalConnection().run(command)
    assert (ended.stdout, ended.stderr, ended.exit_code) == (b"www input\n", b"", 0)


@pytest.mark.usefixtures("sudo")
@pytest.mark.parametrize("password", ["wrong", None])
async def test_refusals_are_no_exit_codes_of_the_command(password: str | None) -> None:
    with pytest.raises(HostFailed) as caught:
        await LocalConnection().run(RemoteCommand(script="echo never", become=Become(password=password)))
    assert caught.value.state is State.BECOME_FAILED
    assert "password" in str(caught.value)


async def test_what_a_command_left_behind_is_not_waited_for(tmp_path: Path) -> None:
    late = tmp_path / "late"
    ended = await LocalConnection().run(RemoteCommand(script=f"(sleep 3; touch {late}) & echo done"))
    assert (ended.stdout, ended.state) == (b"done\n", State.SUCCEEDED)
    assert not late.exists()
    async with asyncio.timeout(60):
        while not late.exists():  # noqa: ASYNC110 another process makes it
            await asyncio.sleep(0.05)


async def test_a_local_command_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    script = f"(while :; do echo x >> {beat}; sleep 0.05; done) & wait"
    ended = await LocalConnection().run(RemoteCommand(script=script, timeout_s=0.4))
    size = beat.stat().st_size
    await asyncio.sleep(0.3)
    assert (ended.state, beat.stat().st_size) == (State.TIMED_OUT, size)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user without a password")
async def test_the_real_su() -> None:
    become = Become(method="su", user="nobody")
    command = RemoteCommand(script="id -un; cat; exit 5", stdin=pieces(), become=become)
    ended = await LocalConnection().run(command)
    assert (ended.stdout, ended.exit_code) == (b"nobody\ninput", 5)
    stranger = Become(method="su", user="no-such-user")
    with pytest.raises(HostFailed) as caught:
        await LocalConnection().run(RemoteCommand(script="true", become=stranger))
    assert caught.value.state is State.BECOME_FAILED
    assert "no-such-user" in str(caught.value)
