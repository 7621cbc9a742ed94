"""Hosts of their own network namespaces behind a bridge, each with its own sshd; links go down in mid-run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.fleet.servers import need_sshd

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("nsenter") is None,
    reason="needs root, unshare and nsenter",
)
COUNT = 6


class Space:
    """A network namespace, kept by a process that sleeps."""

    def __init__(self) -> None:
        self.keeper = subprocess.Popen(["unshare", "--net", "sleep", "600"], start_new_session=True)
        own = Path("/proc/self/ns/net").readlink()
        until_s = time.monotonic() + 10
        while Path(f"/proc/{self.keeper.pid}/ns/net").readlink() == own:
            assert time.monotonic() < until_s, "no namespace"
            time.sleep(0.01)

    def command(self, *words: str) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.keeper.pid}/ns/net", "--", *words]

    def run(self, *words: str) -> None:
        subprocess.run(self.command(*words), check=True, timeout=30, capture_output=True)

    def close(self) -> None:
        self.keeper.kill()
        self.keeper.wait()


class Network:
    """A client, and hosts 10.77.0.11…, all with one key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.client = Space()
        self.hosts: list[Space] = []
        self.servers: list[subprocess.Popen[bytes]] = []
        self.client.run("ip", "link", "set", "lo", "up")
        self.client.run("ip", "link", "add", "br0", "type", "bridge")
        self.client.run("ip", "addr", "add", "10.77.0.1/24", "dev", "br0")
        self.client.run("ip", "link", "set", "br0", "up")
        for name in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True, timeout=30)
        (folder / "keys").write_text((folder / "user_key.pub").read_text())
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        for number in range(COUNT):
            self._host(number)
        key = " ".join((folder / "host_key.pub").read_text().split()[:2])
        (folder / "known").write_text("".join(f"10.77.0.{11 + at} {key}\n" for at in range(COUNT)))
        lines = [f"web{1 + at} ansible_host=10.77.0.{11 + at}" for at in range(COUNT)]
        lines += ["gone ansible_host=10.77.0.99", "[all:vars]", "ansible_user=root"]
        (folder / "hosts.ini").write_text("\n".join([*lines, f"ansible_ssh_private_key_file={folder}/user_key"]) + "\n")
        (folder / "empty").write_text("IdentityAgent none\n")

    def _host(self, number: int) -> None:
        space, link = Space(), f"h{number}"
        self.hosts.append(space)
        self.client.run(
            "ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(space.keeper.pid)
        )
        self.client.run("ip", "link", "set", link, "master", "br0", "up")
        space.run("ip", "addr", "add", f"10.77.0.{11 + number}/24", "dev", "eth0")
        space.run("ip", "link", "set", "eth0", "up")
        config = self.folder / f"sshd{number}"
        config.write_text(
            f"ListenAddress 10.77.0.{11 + number}\nPort 22\nHostKey {self.folder}/host_key\nUsePAM no\nStrictModes no\n"
            f"PidFile none\nPermitRootLogin yes\nLogLevel ERROR\nAuthorizedKeysFile {self.folder}/keys\n"
        )
        self.servers.append(subprocess.Popen(space.command(need_sshd(), "-D", "-e", "-f", str(config))))

    def link(self, number: int, state: str) -> None:
        self.client.run("ip", "link", "set", f"h{number}", state)

    def start(self, *words: str) -> subprocess.Popen[str]:
        more = ["-i", f"{self.folder}/hosts.ini"] if "-t" in words else []
        more += ["--known-hosts", f"{self.folder}/known", "--ssh-config", f"{self.folder}/empty", "--json"]
        command = self.client.command(sys.executable, "-m", "dogwatch", "fleet", *words, *more)
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder)

    def told(self, *words: str) -> tuple[int, dict[str, dict[str, str]], str]:
        return ended(self.start(*words))

    def close(self) -> None:
        for server in self.servers:
            server.kill()
            server.wait()
        for space in (*self.hosts, self.client):
            space.close()


def ended(process: subprocess.Popen[str]) -> tuple[int, dict[str, dict[str, str]], str]:
    out, err = process.communicate(timeout=90)
    assert out, err
    answer = json.loads(out)
    return process.returncode, {one["host"]: one for one in answer["hosts"]}, answer["run"]


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    need_sshd()
    one = Network(tmp_path)
    try:
        until_s = time.monotonic() + 20
        while one.told("run", "true", "-t", "web*", "--connect-timeout", "2s")[0] != 0:
            assert time.monotonic() < until_s, "the hosts do not answer"
        yield one
    finally:
        one.close()


def test_a_partition_in_the_middle_of_a_batch_and_what_comes_after(network: Network) -> None:
    script = f"echo >> {network.folder}/begun; while [ ! -e {network.folder}/go ]; do sleep 0.1; done; echo done"
    words = ["run", script, "-t", "web*", "--batch", "3,3", "--max-fail", "1", "--timeout", "6s", "--forks", "3"]
    process = network.start(*words)
    begun = network.folder / "begun"
    until_s = time.monotonic() + 30
    while not begun.exists() or begun.read_text().count("\n") < 3:
        assert time.monotonic() < until_s
        time.sleep(0.05)
    for number in (0, 1):
        network.link(number, "down")
    (network.folder / "go").touch()
    code, hosts, run = ended(process)
    states = [hosts[f"web{at}"]["state"] for at in range(1, COUNT + 1)]
    # Two of the first batch are cut off, which is more than may fail: the second batch is never begun.
    assert (code, states) == (3, ["timed_out", "timed_out", "succeeded", *["not_started"] * 3])
    assert "may still run there" in hosts["web1"]["message"]
    for number in (0, 1):
        network.link(number, "up")
    code, hosts, _ = network.told("run", "--resume", run)
    assert (code, sum(one["state"] == "succeeded" for one in hosts.values())) == (3, 4)
    code, hosts, _ = network.told("run", "--retry-failed", run)
    assert (code, sorted(hosts), {one["state"] for one in hosts.values()}) == (0, ["web1", "web2"], {"succeeded"})


def test_each_trouble_of_a_network_has_its_word(network: Network) -> None:
    network.link(0, "down")
    network.servers[1].kill()
    network.servers[1].wait()
    network.hosts[2].run("ip", "route", "add", "blackhole", "10.77.0.1/32")
    code, hosts, _ = network.told("run", "echo in", "-t", "all", "--connect-timeout", "4s")
    states = {name: one["state"] for name, one in hosts.items()}
    assert code == 3
    assert states["web2"] == "refused"
    # A host that is gone answers nothing, or its neighbours say so: by then the kernel knows or does not.
    assert {states["web1"], states["web3"], states["gone"]} <= {"timed_out", "unreachable"}
    assert {states[f"web{at}"] for at in (4, 5, 6)} == {"succeeded"}


PLAYBOOK = """
hosts: "web*"
batches: [2, 100%]
max_fail: 1
operations:
  - file: {{path: "{place}/{{{{ host }}}}/a", content: first}}
  - command:
      run: "echo >> {place}/begun; while [ ! -e {place}/go ]; do sleep 0.1; done; echo {{{{ host }}}} >> {place}/ran"
      always: true
  - file: {{path: "{place}/{{{{ host }}}}/b", content: second}}
"""


def wait_for(holds: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.05)


def test_a_partition_in_the_middle_of_an_apply_and_the_rest_of_it(network: Network) -> None:
    """What is done is done once, nothing is half there, and --resume does exactly the rest."""
    place = network.folder
    for at in range(1, COUNT + 1):
        (place / f"web{at}").mkdir()
    # All hosts see one file system here: each keeps what it remembers in a folder of its own.
    text = (place / "hosts.ini").read_text()
    for at in range(1, COUNT + 1):
        text = text.replace(f"web{at} ansible_host", f"web{at} dogwatch_state={place}/state{at} ansible_host")
    (place / "hosts.ini").write_text(text)
    (place / "site.yaml").write_text(PLAYBOOK.format(place=place))
    files = ["-i", f"{place}/hosts.ini"]
    planned = network.start("plan", f"{place}/site.yaml", "-o", f"{place}/site.plan", *files)
    assert planned.wait(timeout=60) == 0, planned.communicate()
    planned.communicate()
    apply_ = ("apply", f"{place}/site.plan", "--timeout", "8s", "--batch", "2,100%", *files)
    process = network.start(*apply_)
    begun = place / "begun"
    wait_for(lambda: begun.exists() and begun.read_text().count("\n") == 2)
    network.link(1, "down")
    (place / "go").touch()
    out, err = process.communicate(timeout=90)
    first = {one["host"]: one["state"] for one in json.loads(out)["hosts"]}
    assert process.returncode == 3, err
    # One may fail, so the second batch went on; the one that was cut off is not known to be done.
    assert (first.pop("web2"), set(first.values())) == ("timed_out", {"applied"})
    assert "".join(sorted((place / "ran").read_text().split())).count("web") >= 5
    network.link(1, "up")
    resumed = network.start(*apply_, "--resume")
    out, err = resumed.communicate(timeout=90)
    second = {one["host"]: one["state"] for one in json.loads(out)["hosts"]}
    assert (resumed.returncode, set(second.values())) == (0, {"applied"}), err
    for at in range(1, COUNT + 1):
        found = {path.name: path.read_text() for path in (place / f"web{at}").iterdir()}
        assert found == {"a": "first", "b": "second"}
    # A step that was begun and not seen to end may have run twice; no other one.
    counts = {name: (place / "ran").read_text().split().count(name) for name in second}
    assert {name for name, count in counts.items() if count != 1} <= {"web2"}


def test_a_slow_link(network: Network) -> None:
    """A link of 256 kbit/s: the shaper of the kernel, on one host's side and on that of the bridge."""
    try:
        for space, device in ((network.hosts[0], "eth0"), (network.client, "h0")):
            shaper = ("tbf", "rate", "256kbit", "burst", "4000", "limit", "60000")
            space.run("tc", "qdisc", "add", "dev", device, "root", *shaper)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"links cannot be shaped here: {error}")
    script = "head -c 60000 /dev/urandom | od -An -v -tx1 | head -c 60000"
    words = ("run", script, "-t", "web1,web2")
    code, hosts, _ = network.told(*words, "--timeout", "30s")
    assert (code, hosts["web1"]["state"], len(hosts["web1"]["stdout"])) == (0, "succeeded", 60_000)
    # 60 kB take two seconds there; the other host was not held up by it.
    assert hosts["web1"]["run_s"] > 1.0 > hosts["web2"]["run_s"]
    code, hosts, _ = network.told(*words, "--timeout", "1s")
    assert (code, hosts["web1"]["state"], hosts["web2"]["state"]) == (3, "timed_out", "succeeded")
