"""Real sudo on a real sshd, for users who have no other way to be root: passwords, refusals, no sudo at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.integration.fleet.machine import Machine, machine
from tests.integration.fleet.operating import Box
from tests.integration.fleet.servers import Sshd, need_sshd

from dogwatch.fleet.connection import Become, HostFailed, RemoteCommand, State
from dogwatch.fleet.connections.ssh import SshDialer, SshOptions
from dogwatch.fleet.login import Login
from dogwatch.fleet.plans.asking import pieces

PASSWORD = "it's $HOME correct"
pytestmark = pytest.mark.skipif(shutil.which("sudo") is None, reason="sudo is not installed (Debian: sudo)")
# dwann may with a password, dwfree without, dwnone may not at all, dwtty only from a terminal.
USERS = r"""
for u in dwann dwfree dwnone dwtty; do useradd -m -s /bin/sh $u; printf '%s:%s\n' $u "$PASSWORD" | chpasswd; done
printf '%s\n' 'dwann ALL=(ALL) ALL' 'dwfree ALL=(ALL) NOPASSWD: ALL' 'dwtty ALL=(ALL) NOPASSWD: ALL' \
    'Defaults:dwtty requiretty' 'Defaults !syslog' 'Defaults lecture=always' > /etc/sudoers.d/dw
chmod 440 /etc/sudoers.d/dw
mkdir /etc/dwkeys
"""


class InsideSshd(Sshd):
    """A server that sees the accounts, and the sudoers, of a machine inside this one, and listens out here."""

    def __init__(self, folder: Path, inside: Machine) -> None:
        super().__init__(folder)
        # Its users cannot read what lies in a folder of the tests.
        keys = inside.folder / "etc" / "dwkeys" / "authorized"
        shutil.copy(folder / "authorized_keys", keys)
        keys.chmod(0o644)
        config = folder / "sshd_config"
        text = config.read_text().replace(f"{folder}/authorized_keys", "/etc/dwkeys/authorized")
        config.write_text(text)
        self.program = ["nsenter", f"--mount=/proc/{inside.pid}/ns/mnt"]

    def command(self) -> list[str]:
        return [*self.program, *super().command()]


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with machine(tmp_path_factory.mktemp("sudo") / "machine") as one:
        one.run(f"PASSWORD={shell_quoted(PASSWORD)}\n{USERS}")
        yield one


def shell_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, inside: Machine) -> Iterator[Sshd]:
    need_sshd()
    server = InsideSshd(tmp_path_factory.mktemp("sudo-sshd"), inside)
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def ssh(host: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SshDialer]:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    known = tmp_path / "known"
    known.write_text(host.known_line())
    one = SshDialer(SshOptions(configs=(), known_hosts=(str(known),), connect_timeout_s=10.0))
    yield one
    await one.close()


def login(host: Sshd, user: str, become: Become | None = None) -> Login:
    return Login(host="web1", address="127.0.0.1", port=host.port, user=user, key=str(host.key), become=become)


async def ran(ssh: SshDialer, one: Login, script: str, data: bytes | None = None) -> tuple[int | None, str]:
    connection = await ssh.open(one)
    try:
        stdin = None if data is None else pieces(data)
        ended = await connection.run(RemoteCommand(script=script, become=one.become, stdin=stdin, timeout_s=30.0))
        return ended.exit_code, ended.stdout.decode()
    finally:
        await connection.close()


async def test_without_sudo_one_is_who_one_is(ssh: SshDialer, host: Sshd) -> None:
    assert await ran(ssh, login(host, "dwann"), "id -un; cat /etc/shadow") == (1, "dwann\n")


async def test_the_password_reaches_sudo_and_nothing_else(ssh: SshDialer, host: Sshd) -> None:
    become = Become(password=PASSWORD)
    script = "id -un; cat; tr '\\0' ' ' < /proc/$PPID/cmdline; env"
    code, out = await ran(ssh, login(host, "dwann", become), script, b"given\x00as it is\n")
    assert (code, out.startswith("root\ngiven\x00as it is\n")) == (0, True)
    assert "correct" not in out
    assert "HOME=/root" in out


async def test_another_user_than_root(ssh: SshDialer, host: Sshd) -> None:
    become = Become(user="dwnone", password=PASSWORD)
    assert await ran(ssh, login(host, "dwann", become), "id -un; pwd; exit 7") == (7, "dwnone\n/home/dwann\n")


@pytest.mark.parametrize("password", [None, PASSWORD])
async def test_where_sudo_asks_for_nothing_no_password_is_read_by_the_command(
    ssh: SshDialer, host: Sshd, password: str | None
) -> None:
    assert await ran(ssh, login(host, "dwfree", Become(password=password)), "id -un; cat", b"in\n") == (0, "root\nin\n")


@pytest.mark.parametrize(
    ("user", "become", "words"),
    [
        ("dwann", Become(password="wrong"), "sudo did not take the password"),
        ("dwann", Become(), "a password is required"),
        ("dwnone", Become(password=PASSWORD), "dwnone is not in the sudoers file"),
        ("dwtty", Become(), "you must have a tty"),
        ("dwfree", Become(user="dwnobody"), "unknown user"),
        ("dwfree", Become(user="-u root"), "unknown user"),
    ],
)
async def test_what_sudo_refuses_is_told_in_its_words(
    ssh: SshDialer, host: Sshd, user: str, become: Become, words: str
) -> None:
    with pytest.raises(HostFailed, match=words) as failed:
        await ran(ssh, login(host, user, become), "id -un")
    assert failed.value.state is State.BECOME_FAILED


async def test_a_plan_is_made_and_applied_as_root(ssh: SshDialer, host: Sshd, tmp_path: Path, inside: Machine) -> None:
    """Read and changed by sudo; without it the same file is not read, and stays as it is."""
    secret = inside.folder / "etc" / "dw-secret"
    secret.write_text("old\n")
    secret.chmod(0o600)
    wanted = [{"file": {"path": "/etc/dw-secret", "content": "new\n"}}]
    one = login(host, "dwann", Become(password=PASSWORD))
    connection = await ssh.open(one)
    try:
        box = Box(tmp_path, tmp_path, Path("/var/spool/dw-state"), connection)
        box.login = replace(one, become=None)
        plain = await box.plan(wanted)
        assert (plain.items, "ermission denied" in str(plain.problems)) == ((), True)
        box.login = one
        plan = await box.plan(wanted)
        assert [step.diff.splitlines()[-2:] for item in plan.items for step in item.steps] == [["-old", "+new"]]
        assert (await box.apply(plan)).message == ""
    finally:
        await connection.close()
    about = secret.stat()
    assert (secret.read_text(), about.st_uid, about.st_mode & 0o777) == ("new\n", 0, 0o600)


def test_the_password_of_a_file_on_the_command_line(host: Sshd, tmp_path: Path) -> None:
    known = tmp_path / "known"
    known.write_text(host.known_line())
    (tmp_path / "inventory").write_text(f"web1 ansible_host=127.0.0.1 ansible_port={host.port} ansible_user=dwann\n")
    (tmp_path / "ssh").write_text("")
    words = [sys.executable, "-m", "dogwatch", "fleet", "run", "id -un", "-t", "all", "-i", tmp_path / "inventory"]
    words += ["--key", host.key, "--known-hosts", known, "--ssh-config", tmp_path / "ssh", "--sudo"]
    env = {**os.environ, "DOGWATCH_DATA": str(tmp_path / "data")}
    for given, code, said in ((PASSWORD, 0, "root"), ("wrong", 1, "become failed")):
        (tmp_path / "password").write_text(f"{given}\n")
        more = ["--sudo-password-file", tmp_path / "password"]
        done = subprocess.run([*words, *more], capture_output=True, text=True, timeout=60, check=False, env=env)
        assert (done.returncode, said in done.stdout) == (code, True), done.stdout + done.stderr
        assert given not in done.stdout + done.stderr
    kept = b"".join(path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file())
    assert PASSWORD.encode() not in kept


async def test_a_host_without_sudo(ssh: SshDialer, host: Sshd, inside: Machine, tmp_path: Path) -> None:
    hidden = tmp_path / "none"
    hidden.write_text("")
    inside.run(f"mount --bind {hidden} {shutil.which('sudo')}")
    try:
        with pytest.raises(HostFailed, match="sudo") as failed:
            await ran(ssh, login(host, "dwann", Become(password=PASSWORD)), "id")
        assert failed.value.state is State.BECOME_FAILED
    finally:
        inside.run(f"umount {shutil.which('sudo')}")
