"""One table of logins as people have them, by both lanes: they end alike, and the lean one takes the usual."""

from __future__ import annotations

import getpass
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from tests.integration.fleet.servers import Sshd, make_key, sshd

from dogwatch.fleet.connection import HostFailed, RemoteCommand
from dogwatch.fleet.connections.ssh import SshDialer, SshOptions
from dogwatch.fleet.login import Login

ME = getpass.getuser()


class Place:
    """A home folder of its own, and what a case puts there."""

    def __init__(self, server: Sshd, passwords: Sshd, authority: Path, home: Path) -> None:
        self.server, self.passwords, self.authority, self.home = server, passwords, authority, home
        self.ssh = home / ".ssh"
        self.ssh.mkdir()
        self.known(server.known_line())
        self.login = Login(host="127.0.0.1", port=server.port)

    def known(self, text: str) -> None:
        (self.ssh / "known_hosts").write_text(text)

    def key(self, name: str, *, phrase: str = "", from_: Path | None = None) -> Path:
        """Put a key where OpenSSH looks for it: the one that the server takes."""
        path = self.ssh / name
        path.write_bytes((from_ or self.server.key).read_bytes())
        path.chmod(0o600)
        if phrase:
            words = ["ssh-keygen", "-q", "-p", "-P", "", "-N", phrase, "-f", path]
            subprocess.run(words, check=True, timeout=60, stdout=subprocess.DEVNULL)
        return path

    def stranger(self, name: str) -> Path:
        return make_key(self.ssh / name)

    def config(self, text: str) -> None:
        (self.ssh / "config").write_text(text)

    def certify(self, key: Path, name: str) -> None:
        words = ["ssh-keygen", "-q", "-s", self.authority, "-I", "x", "-n", name, key.with_suffix(".pub")]
        subprocess.run(words, check=True, timeout=60)

    def login_as(self, **changed: object) -> None:
        self.login = msgspec.structs.replace(self.login, **changed)


CASES: dict[str, tuple[str, str, Callable[[Place, Callable[..., None]], None]]] = {}


def case(name: str, ends: str, lane: str = "lean") -> Callable[..., None]:
    """ends: how both lanes end. lane: which of them is taken where there are both."""

    def add(set_up: Callable[[Place, Callable[..., None]], None]) -> None:
        CASES[name] = (ends, lane, set_up)

    return add


@case("a default key", "in")
def _(place: Place, agent: Callable[..., None]) -> None:
    place.key("id_ed25519")


@case("a default key beside others that are not taken", "in")
def _(place: Place, agent: Callable[..., None]) -> None:
    place.stranger("id_ed25519")
    place.key("id_rsa")


@case("no key at all", "authentication failed", "general")
def _(place: Place, agent: Callable[..., None]) -> None:
    pass


@case("only a stranger's default key", "authentication failed")
def _(place: Place, agent: Callable[..., None]) -> None:
    place.stranger("id_ed25519")


@case("user, port, name and key from the configuration", "in")
def _(place: Place, agent: Callable[..., None]) -> None:
    key = place.key("work")
    place.config(
        f"Host shop*\n  HostName 127.0.0.1\n  Port {place.server.port}\n  User {ME}\n  IdentityFile {key}\n"
        "Host *\n  User nobody-here\n  ServerAliveInterval 60\n"
    )
    place.login = Login(host="shop-eu")


@case("the inventory is stronger than the configuration", "in")
def _(place: Place, agent: Callable[..., None]) -> None:
    place.key("id_ed25519")
    place.config("Host *\n  Port 1\n  User nobody-here\n")
    place.login_as(user=ME)


@case("an include and a match", "in")
def _(place: Place, agent: Callable[..., None]) -> None:
    key = place.key("work")
    (place.ssh / "conf.d").mkdir()
    (place.ssh / "conf.d" / "work.conf").write_text(f"Match host 127.* user {ME}\n  IdentityFile {key}\n")
    place.config("Include conf.d/*.conf\nHost db\n  User nobody-here\n")


@case("a wrong user in the configuration", "authentication failed")
def _(place: Place, agent: Callable[..., None]) -> None:
    place.key("id_ed25519")
    place.config("Match host 127.0.0.1\n  User nobody-here-9\n")


@case("a key of the configuration that is not there, beside one that is", "in")
def _(place: Place, agent: Callable[..., None]) -> None:
    key = place.key("work")
    place.config(f"Host *\n  IdentityFile ~/.ssh/id_gone\n  IdentityFile {key}\n")


@case("what only asyncssh knows", "in", "general")
def _(place: Place, agent: Callable[..., None]) -> None:
    place.key("id_ed25519")
    place.config("Match exec true\n  Compression no\n")


@case("a key that an agent has", "in")
def _(place: Place, agent: Callable[..., None]) -> None:
    agent(place.server.key)


@case("an agent with others first", "in")
def _(place: Place, agent: Callable[..., None]) -> None:
    agent(place.stranger("one"), place.stranger("two"), place.server.key)
    place.stranger("id_ed25519")


@case("an agent that has more keys than the server looks at", "authentication failed", "general")
def _(place: Place, agent: Callable[..., None]) -> None:
    agent(*[place.stranger(f"k{at}") for at in range(7)], place.server.key)


@case("a sealed key that an agent has", "in")
def _(place: Place, agent: Callable[..., None]) -> None:
    agent(place.server.key)
    place.login_as(key=str(place.key("sealed", phrase="a phrase")))


@case("a sealed key, and nobody who has it", "misconfigured", "general")
def _(place: Place, agent: Callable[..., None]) -> None:
    place.login_as(key=str(place.key("sealed", phrase="a phrase")))


@case("a sealed default key that an agent has, among others", "in")
def _(place: Place, agent: Callable[..., None]) -> None:
    agent(place.stranger("one"), place.server.key)
    place.key("id_ed25519", phrase="a phrase")


@case("an agent that has nothing of it", "authentication failed")
def _(place: Place, agent: Callable[..., None]) -> None:
    agent(place.stranger("one"))


@case("an agent that is gone", "authentication failed", "lean")
def _(place: Place, agent: Callable[..., None]) -> None:
    agent()
    os.environ["SSH_AUTH_SOCK"] = str(place.home / "nothing")
    place.stranger("id_ed25519")


@case("no agent, says the configuration", "authentication failed")
def _(place: Place, agent: Callable[..., None]) -> None:
    agent(place.server.key)
    place.stranger("id_ed25519")
    place.config("Host *\n  IdentityAgent none\n")


@case("a key by its file and not by the agent", "authentication failed")
def _(place: Place, agent: Callable[..., None]) -> None:
    agent(place.stranger("other"))
    place.login_as(key=str(place.stranger("mine")))


@case("password only", "authentication failed")
def _(place: Place, agent: Callable[..., None]) -> None:
    place.key("id_ed25519")
    place.login_as(port=place.passwords.port)
    place.known(place.passwords.known_line())


@case("a wrong password", "authentication failed", "general")
def _(place: Place, agent: Callable[..., None]) -> None:
    place.login_as(port=place.passwords.port, password="wrong-9")
    place.known(place.passwords.known_line())


@case("a jump host", "in", "general")
def _(place: Place, agent: Callable[..., None]) -> None:
    key = place.key("id_ed25519")
    place.config(f"Host gate\n  HostName 127.0.0.1\n  Port {place.server.port}\n  IdentityFile {key}\n")
    place.login_as(jump="gate")


@case("a jump host of the configuration", "in", "general")
def _(place: Place, agent: Callable[..., None]) -> None:
    place.key("id_ed25519")
    place.config(
        f"Host gate\n  HostName 127.0.0.1\n  Port {place.server.port}\n  IdentityFile ~/.ssh/id_gone\n"
        "  IdentityFile ~/.ssh/id_ed25519\n"
        "Host 127.0.0.1\n  ProxyJump gate\n"
    )


@case("a jump host that another word takes away", "in")
def _(place: Place, agent: Callable[..., None]) -> None:
    place.key("id_ed25519")
    place.config("Host 127.*\n  ProxyJump none\nHost *\n  ProxyJump gate\n")


@case("a certificate beside the key", "in")
def _(place: Place, agent: Callable[..., None]) -> None:
    key = place.stranger("id_ed25519")
    place.certify(key, ME)


@case("a certificate for somebody else", "authentication failed")
def _(place: Place, agent: Callable[..., None]) -> None:
    key = place.stranger("id_ed25519")
    place.certify(key, "bob")


@case("a certificate of RSA", "in")
def _(place: Place, agent: Callable[..., None]) -> None:
    key = place.ssh / "id_rsa"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", key], check=True, timeout=120)
    place.certify(key, ME)


@case("a certificate that an agent has", "in")
def _(place: Place, agent: Callable[..., None]) -> None:
    key = place.stranger("mine")
    place.certify(key, ME)
    agent(key)


@case("a host that is not known", "unknown host key")
def _(place: Place, agent: Callable[..., None]) -> None:
    place.key("id_ed25519")
    place.known("")


@case("a host whose key has changed", "wrong host key")
def _(place: Place, agent: Callable[..., None]) -> None:
    place.key("id_ed25519")
    key = place.stranger("other").with_suffix(".pub").read_text().split()[:2]
    place.known(f"[127.0.0.1]:{place.server.port} {' '.join(key)}\n")


@case("known_hosts that is hashed", "in")
def _(place: Place, agent: Callable[..., None]) -> None:
    place.key("id_ed25519")
    words = ["ssh-keygen", "-q", "-H", "-f", place.ssh / "known_hosts"]
    subprocess.run(words, check=True, timeout=30, stderr=subprocess.DEVNULL)


@case("known without its port", "in")
def _(place: Place, agent: Callable[..., None]) -> None:
    place.key("id_ed25519")
    place.known("127.0.0.1 " + place.server.known_line().split(" ", 1)[1])


@case("known under another port only", "unknown host key")
def _(place: Place, agent: Callable[..., None]) -> None:
    place.key("id_ed25519")
    place.known("[127.0.0.1]:1 " + place.server.known_line().split(" ", 1)[1])


@case("a key that is revoked", "wrong host key")
def _(place: Place, agent: Callable[..., None]) -> None:
    place.key("id_ed25519")
    line = place.server.known_line()
    place.known(f"{line}@revoked * {line.split(' ', 1)[1]}")


@case("an authority for hosts beside the plain key", "in", "general")
def _(place: Place, agent: Callable[..., None]) -> None:
    place.key("id_ed25519")
    public = place.authority.with_suffix(".pub").read_text()
    place.known(f"@cert-authority * {public}{place.server.known_line()}")


@case("known_hosts named in the configuration", "in")
def _(place: Place, agent: Callable[..., None]) -> None:
    place.key("id_ed25519")
    (place.ssh / "mine").write_text(place.server.known_line())
    place.known("")
    place.config("Host *\n  UserKnownHostsFile ~/.ssh/mine ~/.ssh/none_there\n")


@case("known to all of this machine only", "in")
def _(place: Place, agent: Callable[..., None]) -> None:
    place.key("id_ed25519")
    (place.home / "all").write_text(place.server.known_line())
    place.known("")
    place.config(f"Host *\n  GlobalKnownHostsFile {place.home}/all\n")


@case("nothing listens", "refused")
def _(place: Place, agent: Callable[..., None]) -> None:
    place.key("id_ed25519")
    place.config("Host *\n  HostName 127.0.0.1\n  Port 1\n")
    place.login = Login(host="anything")


@case("a name that is none", "unreachable")
def _(place: Place, agent: Callable[..., None]) -> None:
    place.key("id_ed25519")
    place.login_as(host="127.0.0.1.invalid")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sshd, Sshd, Path]]:
    """One that tells a banner and trusts an authority, and one that asks for passwords."""
    folder = tmp_path_factory.mktemp("lanes")
    authority = make_key(folder / "authority")
    banner = folder / "banner"
    banner.write_text("Only for those who may.\n" * 20)
    more = f"Banner {banner}\nTrustedUserCAKeys {authority}.pub"
    only = f"Banner {banner}\nAuthenticationMethods password\nPasswordAuthentication yes"
    with (
        sshd(folder / "keys", more=more) as keys,
        sshd(folder / "passwords", authorized=keys.key, more=only) as passwords,
    ):
        yield keys, passwords, authority


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    monkeypatch.setenv("SSH_AUTH_SOCK", "")
    running: list[subprocess.Popen[bytes]] = []

    def start(*keys: Path) -> None:
        # The path of a socket is short.
        socket = f"/tmp/dogwatch-agent-{os.getpid()}"
        running.append(subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL))
        monkeypatch.setenv("SSH_AUTH_SOCK", socket)
        for key in keys:
            words = ["ssh-add", "-q", str(key)]
            done = None
            for _ in range(200):
                done = subprocess.run(words, timeout=30, check=False, capture_output=True)
                if done.returncode != 2:
                    break
                subprocess.run(["sleep", "0.05"], check=True)
            assert done is not None
            assert done.returncode == 0, done.stderr

    yield start
    for one in running:
        one.send_signal(signal.SIGTERM)
        one.wait(30)


@pytest.mark.parametrize("name", CASES)
async def test_both_lanes_end_alike(
    name: str,
    servers: tuple[Sshd, Sshd, Path],
    agent: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    ends, lane, set_up = CASES[name]
    place = Place(*servers, tmp_path)
    set_up(place, agent)
    before = {path: path.read_bytes() for path in place.ssh.rglob("*") if path.is_file()}
    found = {}
    for lean in (True, False):
        config = place.ssh / "config"
        dialer = SshDialer(
            SshOptions(configs=(str(config),) if config.exists() else (), lean=lean, connect_timeout_s=60.0)
        )
        try:
            connection = await dialer.open(place.login)
            ended = await connection.run(RemoteCommand(script="echo in"))
            found[lean] = (ended.stdout.decode().strip(), "", "")
            await connection.close()
        except HostFailed as error:
            found[lean] = (error.state.value, str(error), error.hint)
        if lean:
            assert ("lean" if dialer._general is None else "general") == lane, found
        await dialer.close()
    assert found[True] == found[False]
    assert found[True][0] == ends, found[True]
    assert before == {path: path.read_bytes() for path in place.ssh.rglob("*") if path.is_file()}
