"""`fleet run` over real servers: a hundred names at once, bad hosts beside good ones, early ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.integration.fleet.servers import USER, Sshd, free_port, make_key, sshd

from dogwatch.cli.fleet import fleet
from dogwatch.errors import DogwatchError
from dogwatch.fleet.connection import HostFailed, State
from dogwatch.fleet.connections.ssh import SshDialer, SshOptions
from dogwatch.fleet.login import Login
from dogwatch.fleet.results import HostResult
from dogwatch.fleet.rollout import Amount, Rollout
from dogwatch.fleet.run import FleetRun, Order


class Seen:
    """Counts what runs at once."""

    def __init__(self) -> None:
        self.running = 0
        self.peak = 0
        self.results: list[HostResult] = []
        self.first = asyncio.Event()

    def started(self, host: str) -> None:
        self.running += 1
        self.peak = max(self.peak, self.running)

    def ended(self, result: HostResult) -> None:
        self.running -= 1
        self.results.append(result)
        self.first.set()

    def stopped(self, reason: str) -> None:
        pass


def many(login: Login, count: int) -> dict[str, Login | HostFailed]:
    import msgspec

    return {f"web{at:03}": msgspec.structs.replace(login, host=f"web{at:03}") for at in range(1, count + 1)}


async def test_a_hundred_hosts_within_forks(dialer: SshDialer, login: Login) -> None:
    seen = Seen()
    order = Order(script="echo same", forks=50, timeout_s=60.0)
    results = await FleetRun(order, many(login, 100), dialer, watcher=seen).run()
    assert [one.host for one in results] == [f"web{at:03}" for at in range(1, 101)]
    assert {(one.state, one.stdout) for one in results} == {(State.SUCCEEDED, b"same\n")}
    assert seen.peak == 50


async def test_a_batch_that_fails_stops_the_rest(dialer: SshDialer, login: Login) -> None:
    order = Order(script="exit 9", rollout=Rollout(batches=(Amount(2), Amount(5)), max_fail=Amount(1)), forks=1)
    run = FleetRun(order, many(login, 10), dialer)
    results = await run.run()
    assert [str(one.state) for one in results] == ["non-zero"] * 2 + ["not started"] * 8
    assert "2 of 10 hosts failed" in run.reason


async def test_the_deadline_of_all_ends_what_runs(dialer: SshDialer, login: Login) -> None:
    order = Order(script="sleep 60", deadline_s=1.5, forks=2)
    begun_s = time.monotonic()
    results = await FleetRun(order, many(login, 4), dialer).run()
    assert [str(one.state) for one in results] == ["timed out"] * 2 + ["not started"] * 2
    assert time.monotonic() - begun_s < 15


async def test_a_server_killed_in_mid_run(tmp_path: Path, server: Sshd, login: Login) -> None:
    import msgspec

    with sshd(tmp_path / "dying", authorized=server.key) as dying:
        known = tmp_path / "known"
        known.write_text(server.known_line() + dying.known_line())
        dialer = SshDialer(SshOptions(configs=(), known_hosts=(str(known),)))
        logins = many(login, 3)
        logins["dies"] = msgspec.structs.replace(login, host="dies", port=dying.port)
        begun = tmp_path / "begun"
        order = Order(script=f'[ "${{SSH_CONNECTION##* }}" != {dying.port} ] || {{ touch {begun}; sleep 60; }}')
        running = asyncio.create_task(FleetRun(order, logins, dialer).run())
        while not os.path.exists(begun):  # noqa: ASYNC110, ASYNC240, PTH110
            await asyncio.sleep(0.02)
        dying.kill()
        results = await running
    assert [str(one.state) for one in results] == ["succeeded"] * 3 + ["connection lost"]


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(server: Sshd, tmp_path: Path) -> Iterator[list[str]]:
    """Options for an inventory with one host of every kind of trouble."""
    with sshd(tmp_path / "other", authorized=server.key) as other, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        # The other server's port with this server's key: what a host that was made anew looks like.
        known = tmp_path / "known"
        known.write_text(server.known_line() + server.known_line().replace(str(server.port), str(other.port)))
        stranger = make_key(tmp_path / "stranger")
        (tmp_path / "hosts.ini").write_text(
            f"[good]\nweb[01:03] ansible_port={server.port}\n[bad]\n"
            f"dead ansible_port={free_port()}\nsilent ansible_port={silent.getsockname()[1]}\n"
            f"changed ansible_port={other.port}\n"
            f"stranger ansible_port={server.port} ansible_ssh_private_key_file={stranger}\n"
            f"[all:vars]\nansible_host=127.0.0.1\nansible_user={USER}\nansible_ssh_private_key_file={server.key}\n"
        )
        empty = tmp_path / "ssh_config_empty"
        empty.write_text("IdentityAgent none\n")
        yield ["-i", str(tmp_path / "hosts.ini"), "--known-hosts", str(known), "--ssh-config", str(empty)]


def invoke(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(fleet, words, standalone_mode=False)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        if isinstance(done.exception, DogwatchError):
            return done.exception.exit_code, str(done.exception)
        raise done.exception
    return int(done.return_value or 0), done.stdout


def test_every_trouble_has_its_word(mixed: list[str]) -> None:
    code, text = invoke("run", "echo hi", "-t", "all", "--connect-timeout", "2s", "--json", *mixed)
    answer = json.loads(text)
    states = {one["host"]: one["state"] for one in answer["hosts"]}
    assert states == {
        "web01": "succeeded",
        "web02": "succeeded",
        "web03": "succeeded",
        "dead": "refused",
        "silent": "timed_out",
        "changed": "wrong_host_key",
        "stranger": "authentication_failed",
    }
    assert code == 3
    assert answer["summary"] == {state: list(states.values()).count(state) for state in states.values()}
    _, text = invoke("run", "echo hi", "-t", "all,!silent", "--diff", *mixed)
    assert "dead: refused\n    127.0.0.1:" in text


def test_equal_output_is_told_once_and_differences_are_shown(mixed: list[str]) -> None:
    code, text = invoke("run", "echo hi", "-t", "@good", *mixed)
    assert (code, text.count("    hi")) == (0, 1)
    assert "web[01-03] (3 hosts): succeeded" in text
    code, text = invoke("run", "--env", "A=$x 'y'", 'echo same; echo "$A"; sleep 0', "-t", "@good", "--diff", *mixed)
    assert code == 0
    assert "    $x 'y'" in text


def test_exit_codes(mixed: list[str]) -> None:
    assert invoke("run", "exit 4", "-t", "@good", *mixed)[0] == 1
    assert invoke("run", "true", "-t", "@good", *mixed)[0] == 0
    assert invoke("run", "true", "-t", "nobody", *mixed)[0] == 2
    assert invoke("run", "true", "-t", "@good", "--limit", "@bad", *mixed)[0] == 10
    assert invoke("run", "-t", "@good", *mixed)[0] == 2


def test_check_connects_to_nothing(mixed: list[str]) -> None:
    code, text = invoke("run", "rm -rf /", "-t", "@good", "--check", "--batch", "1,100%", *mixed)
    assert code == 0
    assert "batch 2, 2 hosts: web[02-03]" in text


def test_scripts_run_with_arguments_and_leave_nothing(mixed: list[str], tmp_path: Path) -> None:
    script = tmp_path / "it's.sh"
    script.write_text('#!/bin/sh\nprintf "%s|" "$@"\necho "$0" > ' + f"{tmp_path}/where\nexit 3\n")
    code, text = invoke("run", "--script", str(script), "-t", "web01", *mixed, "--", "a b", "$HOME", "it's")
    assert code == 1
    assert "a b|$HOME|it's|" in text
    assert not Path((tmp_path / "where").read_text().strip()).exists()


def test_interrupting_ends_the_remote_command(mixed: list[str], tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    program = "import sys; from dogwatch.cli.fleet import fleet; sys.exit(fleet(standalone_mode=False))"
    words = ["run", f"while :; do echo x >> {beat}; sleep 0.05; done", "-t", "web01,web02", "--forks", "1", "--json"]
    process = subprocess.Popen([sys.executable, "-c", program, *words, *mixed], stdout=subprocess.PIPE, text=True)
    end_s = time.monotonic() + 30
    while not beat.exists() and time.monotonic() < end_s:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    size = beat.stat().st_size
    time.sleep(0.3)
    assert [one["state"] for one in json.loads(out)["hosts"]] == ["cancelled", "not_started"]
    assert (process.returncode, beat.stat().st_size) == (130, size)


def test_files_are_copied_whole_and_fetched_by_host(mixed: list[str], tmp_path: Path) -> None:
    source = tmp_path / "a file"
    source.write_bytes(os.urandom(700_000))
    source.chmod(0o640)
    target = tmp_path / "far" / "it's $HERE"
    code, text = invoke("copy", str(source), str(target), "-t", "web01", *mixed)
    assert (code, "cannot create" in text) == (1, True)  # its folder is not made silently
    target.parent.mkdir()
    assert invoke("copy", str(source), f"{target.parent}/", "-t", "web01", *mixed)[0] == 0
    assert invoke("copy", str(source), str(target), "-t", "web01", *mixed)[0] == 0
    assert (target.parent / "a file").read_bytes() == source.read_bytes()
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (source.read_bytes(), 0o640)
    folder = tmp_path / "fetched"
    code, _ = invoke("fetch", str(target), str(folder), "-t", "web01,web02,dead", *mixed)
    assert code == 3
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert found == ["web01/it's $HERE", "web02/it's $HERE"]
    assert (folder / "web02" / "it's $HERE").read_bytes() == source.read_bytes()
    code, _ = invoke("fetch", "/nowhere/file", str(folder), "-t", "web01", *mixed)
    assert code == 1
    assert not (folder / "web01" / "file").exists()
