"""Our reader of OpenSSH's configuration beside OpenSSH itself: `ssh -G` says what holds for a host."""

from __future__ import annotations

import getpass
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dogwatch.fleet.connections.configured import Configuration, NotRead, Settings

CASES = Path(__file__).parents[2] / "cases" / "ssh_config"
HOSTS = ("web1", "web12", "db.eu.example", "10.0.0.7", "gate")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEPLOY_KEYS", "/srv/keys")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def by_openssh(config: Path, host: str, *more: str) -> dict[str, list[str]]:
    words = ["ssh", "-G", "-F", str(config), *more, host]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        name, _, value = line.partition(" ")
        found.setdefault(name, []).append(value)
    return found


def compare(ours: Settings, theirs: dict[str, list[str]]) -> None:
    assert (ours.host, str(ours.port), ours.user) == (theirs["hostname"][0], theirs["port"][0], theirs["user"][0])
    assert ours.identities_only is (theirs["identitiesonly"][0] == "yes")
    assert {"any": 0, "inet": 2, "inet6": 10}[theirs["addressfamily"][0]] == ours.family


need_ssh = pytest.mark.skipif(shutil.which("ssh") is None, reason="ssh is not installed (Debian: openssh-client)")


@need_ssh
@pytest.mark.parametrize("case", sorted(path.stem for path in CASES.glob("*.conf")))
def test_what_holds_is_what_openssh_says(case: str, home: Path) -> None:
    (home / ".ssh").mkdir()
    config = home / ".ssh" / "config"
    config.write_text((CASES / f"{case}.conf").read_text().replace("@HOME@", str(home)))
    (home / ".ssh" / "more.d").mkdir()
    (home / ".ssh" / "more.d" / "one").write_text(
        "User included\nHost web1\n  Port 7001\nMatch user ada\n  Port 7002\n"
    )
    read = Configuration([str(config)])
    for host in HOSTS:
        for more, user, port in (((), None, None), (("-l", "ada"), "ada", None), (("-p", "99"), None, 99)):
            ours, theirs = read.of(host, user=user, port=port), by_openssh(config, host, *more)
            compare(ours, theirs)
            proxied = "proxyjump" in theirs or "proxycommand" in theirs
            assert not (proxied and ours.plain), (host, theirs)
            if ours.identities is not None:
                # It tells files as they are written, with what they are made of.
                written = [Path(one.replace("${DEPLOY_KEYS}", "/srv/keys")).name for one in theirs["identityfile"]]
                ends = [Path(one).name for one in ours.identities]
                if not any("%" in one for one in written):
                    assert ends == [one for one in written if one != "none"]


WORDS = st.sampled_from(
    ["web1", "web*", "*", "!web12", "w?b1", "db.eu.example", "10.0.0.*", "gate", "web1,gate", "GATE"]
)
SETTINGS = st.sampled_from(
    [
        "User ada", "User=bob", 'User "eve"', "Port 2222", "Port = 2200", "HostName 10.1.1.1", "HostName %h.example",
        "IdentitiesOnly yes", "IdentitiesOnly no", "AddressFamily inet", "AddressFamily inet6", "SendEnv LANG LC_*",
        "# User nobody", "LogLevel ERROR", "user carl # who", "\tHostname\tn.example", "ConnectTimeout 3",
    ]
)  # fmt: skip
HEADS = st.one_of(
    st.lists(WORDS, min_size=1, max_size=3).map(lambda words: "Host " + " ".join(words)),
    st.tuples(st.sampled_from(["host", "originalhost", "user", "!host", "!user"]), WORDS).map(
        lambda pair: f"Match {pair[0]} {pair[1].removeprefix('!') if pair[0][0] == '!' else pair[1]}"
    ),
    st.just("Match all"),
    st.just("Match localuser nobody-is-called-so"),
    st.just("Match host web*,!web12 user ada,bob"),
)


@need_ssh
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.one_of(HEADS, SETTINGS, SETTINGS), min_size=1, max_size=12), host=st.sampled_from(HOSTS))
def test_no_arrangement_of_blocks_reads_otherwise(lines: list[str], host: str, home: Path) -> None:
    config = home / "config"
    config.write_text("\n".join(lines) + "\n")
    compare(Configuration([str(config)]).of(host, user=None, port=None), by_openssh(config, host))


@pytest.mark.parametrize(
    "text",
    [
        "Match exec true\n  User ada\n",
        "Match final\n  User ada\n",
        "Match canonical all\n  User ada\n",
        "Match host\n",
        "Host\n",
        "Include %d/other\n",
        "Match tagged here\n  Port 3\n",
    ],
)
def test_what_only_others_can_know_is_not_guessed(text: str, home: Path) -> None:
    config = home / "config"
    config.write_text(text)
    with pytest.raises(NotRead):
        Configuration([str(config)])


@pytest.mark.parametrize(
    "line",
    [
        "ProxyJump gate", "ProxyCommand nc %h %p", "ProxyCommand it's open", "Ciphers aes128-ctr", "HostKeyAlias other",
        "CertificateFile ~/cert", "CanonicalizeHostname yes", "BindAddress 10.0.0.1", "PubkeyAuthentication no",
        "PreferredAuthentications password", "IdentityFile ~/.ssh/%z", "IdentityFile ${NOT_SET_ANYWHERE}",
        "UserKnownHostsFile none", "Port many", "Port 70000", "HostName %n.example", "AddressFamily ipx",
        "User two words", "NewOptionOfNextYear yes", "KnownHostsCommand /bin/false", "IdentitiesOnly perhaps",
    ],
)  # fmt: skip
def test_what_the_lean_lane_has_not_is_for_the_other_one(line: str, home: Path) -> None:
    config = home / "config"
    config.write_text(f"Host web*\n  {line}\nHost *\n  User ada\n")
    read = Configuration([str(config)])
    assert not read.of("web1", user=None, port=None).plain
    assert read.of("gate", user=None, port=None).plain


def test_files_and_agents_are_filled_in(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT", "/run/agent")
    config = home / "config"
    config.write_text(
        "Host web1\n IdentityAgent $AGENT\n IdentityFile ~/.ssh/%r@%h:%p\n IdentityFile ${DEPLOY_KEYS}/%n\n"
        " UserKnownHostsFile ~/.ssh/known_%h ~/other\n"
        "Host gate\n IdentityAgent none\n IdentityFile none\nHost db*\n IdentityAgent SSH_AUTH_SOCK\n"
        " GlobalKnownHostsFile /etc/known\n"
        "Host *\n HostName %h.lan\n"
    )
    read = Configuration([str(config)])
    one = read.of("web1", user="ada", port=None)
    assert one.identities == (f"{home}/.ssh/ada@web1.lan:22", "/srv/keys/web1")
    assert one.agent == "/run/agent"
    assert one.known_hosts == (f"{home}/.ssh/known_web1.lan", f"{home}/other", "/etc/ssh/ssh_known_hosts")
    gate = read.of("gate", user=None, port=None)
    assert (gate.identities, gate.agent, gate.user) == ((), "", getpass.getuser())
    base = read.of("db", user=None, port=None)
    assert (base.agent, base.identities, base.known_hosts) == (None, None, (f"{home}/.ssh/known_hosts", "/etc/known"))
