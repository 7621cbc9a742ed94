"""`uptime` over many addresses: `dogwatch fleet run` beside Go, clush, pssh, parallel-ssh, pyinfra and Ansible.

All of them talk to the same real sshd, in a network namespace of its own in which every 127.x.y.z is a host, 50 at a
time, with the same ed25519 key and a known_hosts that is checked. Every run is a process of its own, start-up included;
its CPU time and peak memory are the kernel's, of it and all that it waited for (`ssh` processes, forks). The server's
CPU is that of sshd and its children: the floor that all share. clush and pssh are given curve25519, which is far
cheaper for them than OpenSSH's own choice. Rows alternate. Go is a worker pool on x/crypto/ssh, in bench/gofleet.

Root's ~/.bashrc is hidden from the server: what a login costs must not depend on it. Our modules are compiled to
bytecode first, as every installer does.

The floor of wall time is the server's own CPU time over the cores of this machine: nobody is faster than that here.
"""

from __future__ import annotations

import argparse
import compileall
import ipaddress
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dogwatch

NAME = "fleet"
PORT = 2222
FORKS = 50
SSHD = "/usr/sbin/sshd"
_VENV = Path(tempfile.gettempdir()) / "dogwatch-fleet-peers"
_GO = Path(__file__).parent / "gofleet"
_KEX = "KexAlgorithms=curve25519-sha256"
_PYINFRA = "from pyinfra.operations import server\nserver.shell(commands=['uptime'])\n"
_PARALLEL_SSH = """
import sys
from pssh.clients import ParallelSSHClient
client = ParallelSSHClient(open(sys.argv[1]).read().split(), port=2222, user="root", pkey=sys.argv[2], pool_size=50,
                           identity_auth=False, forward_ssh_agent=False)
out = client.run_command("uptime")
client.join(out)
assert all(one.exit_code == 0 for one in out)
"""


def run(*, quick: bool) -> dict[str, Any]:
    """Measure inside a network namespace, and hand the figures out."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or not Path(SSHD).exists():
        return {"rows": [], "targets": [], "skipped": "needs root, unshare and sshd"}
    peers = _install(quick)
    compileall.compile_dir(str(Path(dogwatch.__file__).parent), quiet=2)
    with tempfile.TemporaryDirectory(prefix="dogwatch-fleet-") as folder:
        inside = [sys.executable, "-m", "bench.fleet", "--inside", folder, "--peers", json.dumps(peers)]
        done = subprocess.run(
            ["unshare", "--net", "--mount", *inside, *(["--quick"] if quick else [])],
            stdout=subprocess.PIPE,
            check=True,
            timeout=3600,
        )
    found = json.loads(done.stdout)
    found["rows"].append(_inventory())
    return {"rows": found["rows"], "targets": _targets(found["rows"]), "peers": peers}


def _install(quick: bool) -> dict[str, str]:
    """Return the peers that are there, name → program; what can be had from Debian, PyPI and Go is got."""
    found = {name: path for name in ("clush", "parallel-ssh") if (path := shutil.which(name))}
    go = Path(tempfile.gettempdir()) / "dogwatch-gofleet"
    if shutil.which("go") and subprocess.run(["go", "build", "-o", go, "."], cwd=_GO, check=False).returncode == 0:
        found["go"] = str(go)
    if not quick and not (_VENV / "bin" / "ansible").exists():
        uv = Path(sys.executable).with_name("uv")
        subprocess.run([uv, "venv", "-q", "--clear", _VENV], check=False)
        packages = ["ansible-core", "parallel-ssh", "pyinfra"]
        subprocess.run(
            [uv, "pip", "install", "-q", *packages], env={**os.environ, "VIRTUAL_ENV": str(_VENV)}, check=False
        )
    for name, program in (("ansible", "ansible"), ("pyinfra", "pyinfra"), ("parallel-ssh library", "python")):
        if (_VENV / "bin" / "ansible").exists() and (_VENV / "bin" / program).exists():
            found[name] = str(_VENV / "bin" / program)
    return found


# -- inside the namespace --------------------------------------------------------------------------------------------


class Server:
    """One sshd for all addresses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        (folder / "authorized_keys").write_text((folder / "user_key.pub").read_text())
        (folder / "empty").write_text("")
        (folder / "config").write_text(
            f"ListenAddress 0.0.0.0\nPort {PORT}\nHostKey {folder}/host_key\nUsePAM no\nStrictModes no\nPidFile none\n"
            f"PermitRootLogin yes\nMaxStartups 5000\nMaxSessions 100\nLogLevel ERROR\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\n"
        )
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.process = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "config"], stdout=sys.stderr)
        until_s = time.monotonic() + 10
        while time.monotonic() < until_s:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", PORT)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError("sshd did not start")

    def hosts(self, count: int) -> list[str]:
        """Write the files that name so many hosts, and return these."""
        first = int(ipaddress.ip_address("127.1.0.1"))
        found = [str(ipaddress.ip_address(first + at)) for at in range(count)]
        key = " ".join((self.folder / "host_key.pub").read_text().split()[:2])
        # By name and not by pattern: every tool has to find its host in it.
        (self.folder / "known_hosts").write_text("".join(f"[{host}]:{PORT} {key}\n" for host in found))
        (self.folder / "hosts").write_text("\n".join(found) + "\n")
        (self.folder / "pssh").write_text("".join(f"root@{host}:{PORT}\n" for host in found))
        more = "ansible_python_interpreter=/usr/bin/python3\n"
        (self.folder / "hosts.ini").write_text(
            "\n".join(found)
            + f"\n[all:vars]\nansible_port={PORT}\nansible_user=root\n"
            + f"ansible_ssh_private_key_file={self.folder}/user_key\n{more}"
        )
        return found

    def cpu_s(self) -> float:
        """Return the CPU time of sshd and of all its children that have ended."""
        time.sleep(0.2)
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _commands(server: Server, peers: Mapping[str, str], count: int) -> dict[str, list[str]]:
    """Return what each tool is called with. Ansible and pyinfra are left out at 1,000: minutes for one figure."""
    folder, f = server.folder, str
    key, known = f(folder / "user_key"), f(folder / "known_hosts")
    options = {"Port": str(PORT), "User": "root", "IdentityFile": key, "UserKnownHostsFile": known}
    flags = [f"{name}={value}" for name, value in options.items()] + [_KEX, "BatchMode=yes"]
    common = " ".join(f"-o {flag}" for flag in flags)
    inventory = f(folder / "hosts.ini")
    known_config = ["--known-hosts", known, "--ssh-config", f(folder / "empty")]
    found = {
        "dogwatch": [
            *(sys.executable, "-m", "dogwatch", "fleet", "run", "uptime", "-i", inventory, "-t", "all"),
            *("--forks", str(FORKS), *known_config),
        ]
    }
    if "go" in peers:
        found["go"] = [
            peers["go"],
            "-key",
            key,
            "-known-hosts",
            known,
            "-hosts",
            f(folder / "hosts"),
            "-port",
            str(PORT),
        ]
    if "clush" in peers:
        found["clush"] = [peers["clush"], "-f", str(FORKS), "-o", common, "--hostfile", f(folder / "hosts"), "uptime"]
    if "parallel-ssh" in peers:
        extra = [part for flag in flags if not flag.startswith(("Port", "User=")) for part in ("-O", flag)]
        found["pssh"] = [peers["parallel-ssh"], "-p", str(FORKS), "-h", f(folder / "pssh"), "-i", *extra, "uptime"]
    if count > 200:
        return found
    if "parallel-ssh library" in peers:
        found["parallel-ssh"] = [peers["parallel-ssh library"], "-c", _PARALLEL_SSH, f(folder / "hosts"), key]
    if "ansible" in peers:
        found["ansible"] = [peers["ansible"], "all", "-i", inventory, "-f", str(FORKS), "-m", "command", "-a", "uptime"]
    if "pyinfra" in peers:
        (folder / "deploy.py").write_text(_PYINFRA)
        (folder / "inventory.py").write_text(
            f"hosts = ({(folder / 'hosts').read_text().split()!r}, {{'ssh_port': {PORT}, 'ssh_user': 'root', "
            f"'ssh_key': {key!r}, 'ssh_known_hosts_file': {known!r}}})\n"
        )
        found["pyinfra"] = [
            *(peers["pyinfra"], f(folder / "inventory.py"), f(folder / "deploy.py"), "-y", "--parallel", str(FORKS)),
        ]
    return found


def _once(command: list[str], server: Server) -> dict[str, float]:
    """Return what one run took."""
    environ = {
        **os.environ,
        "DOGWATCH_DATA": str(server.folder / "data"),
        "ANSIBLE_SSH_ARGS": f"-o UserKnownHostsFile={server.folder}/known_hosts -o {_KEX} -o ControlMaster=no",
        "ANSIBLE_LOCAL_TEMP": str(server.folder / "ansible"),
    }
    for name in ("SSH_AUTH_SOCK", "PYTHONDONTWRITEBYTECODE"):
        environ.pop(name, None)
    before_s, begun_s = server.cpu_s(), time.monotonic()
    with (server.folder / "said").open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environ, cwd=server.folder)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall_s = time.monotonic() - begun_s
    if process.returncode:
        tail = (server.folder / "said").read_text(errors="replace")[-800:]
        print(f"{command[0]} ended with {process.returncode}: {tail}", file=sys.stderr)
    server_s = server.cpu_s() - before_s
    return {
        "wall_s": wall_s,
        "client_cpu_s": usage.ru_utime + usage.ru_stime,
        "server_cpu_s": server_s,
        "floor_s": server_s / (os.cpu_count() or 1),
        "rss_mib": usage.ru_maxrss / 1024,
        "ok": float(process.returncode == 0),
    }


def _kept(server: Server) -> dict[str, float]:
    """Return how long a first and a second command take in one process, over connections that are kept."""
    code = (
        "import asyncio, json, resource, sys, time, uvloop\n"
        "from dogwatch.fleet.connections.ssh import SshDialer, SshOptions\n"
        "from dogwatch.fleet.login import Login\n"
        "from dogwatch.fleet.pool import Pool\n"
        "from dogwatch.fleet.run import FleetRun, Order\n"
        "folder, forks = sys.argv[1], int(sys.argv[2])\n"
        "hosts = open(folder + '/hosts').read().split()\n"
        f"logins = {{h: Login(host=h, port={PORT}, user='root', key=folder + '/user_key') for h in hosts}}\n"
        "async def main():\n"
        "    pool = Pool(SshDialer(SshOptions(configs=(), known_hosts=(folder + '/known_hosts',))), most=len(hosts))\n"
        "    took = []\n"
        "    for _ in range(2):\n"
        "        begun = time.monotonic()\n"
        "        done = await FleetRun(Order(script='uptime', forks=forks), logins, pool).run()\n"
        "        assert all(one.ok for one in done)\n"
        "        took.append(time.monotonic() - begun)\n"
        "    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "    print(json.dumps({'first_s': took[0], 'second_s': took[1], 'rss_mib': rss}))\n"
        "    await pool.close()\n"
        "uvloop.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, server.folder, str(FORKS)], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _inside(folder: Path, peers: Mapping[str, str], *, quick: bool) -> list[dict[str, Any]]:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    rc = Path.home() / ".bashrc"
    if rc.exists():
        subprocess.run(["mount", "--bind", "/dev/null", rc], check=False)
    server = Server(folder)
    rows = []
    try:
        for count, rounds in ((200, 2 if quick else 5), (1000, 1 if quick else 2)):
            server.hosts(count)
            seen: dict[str, list[dict[str, float]]] = {}
            for turn in range(rounds):
                for name, command in _commands(server, peers, count).items():
                    # What takes long is measured once, or not at all where it is to be quick.
                    often = name in ("dogwatch", "go", "pssh")
                    if (turn and (quick or name in ("ansible", "pyinfra")) and not often) or (
                        quick and (name in ("ansible", "pyinfra") or (count > 200 and name == "clush"))
                    ):
                        continue
                    once = _once(command, server)
                    seen.setdefault(name, []).append(once)
                    told = "  ".join(f"{key}={value:.3g}" for key, value in once.items())
                    print(f"   {count} hosts, {turn + 1} of {rounds}, {name}: {told}", file=sys.stderr, flush=True)
            for name, found in seen.items():
                middle = {key: statistics.median(one[key] for one in found) for key in found[0]}
                rows.append({"what": name, "hosts": count, **middle})
            rows.append({"what": "kept", "hosts": count, **_kept(server)})
            print(f"   {rows[-1]}", file=sys.stderr, flush=True)
    finally:
        server.process.kill()
        server.process.wait()
    return rows


def _inventory() -> dict[str, Any]:
    """Return how long 10,000 hosts take to read, and an expression over them to be worked out."""
    from dogwatch.fleet.inventory.load import no_origin, read_inventory
    from dogwatch.fleet.inventory.sources import guess
    from dogwatch.fleet.section import Fleet
    from dogwatch.fleet.targets import choose

    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "hosts.ini"
        lines = [
            f"web{at:05} ansible_host=10.{at // 65536}.{at // 256 % 256}.{at % 256} rack={at % 40}"
            for at in range(7000)
        ]
        lines += ["[db]", *(f"db{at:05} ansible_port=2222" for at in range(3000)), "[eu]", "web0[0000:3999]"]
        path.write_text("\n".join(["[web]", *lines, "[shop:children]", "web", "[shop:vars]", "team=shop"]) + "\n")
        begun_s = time.monotonic()
        inventory, problems = read_inventory(Fleet(), no_origin, more=[guess(str(path))])
        read_s = time.monotonic() - begun_s
        chosen = choose("@shop&@eu,db0[0000-1999],!rack=7,!web00007", inventory)
        took_s = time.monotonic() - begun_s
    assert not problems
    return {"what": "inventory", "hosts": len(inventory.hosts), "read_s": read_s, "s": took_s, "chosen": len(chosen)}


def _targets(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    of = {(row["what"], row["hosts"]): row for row in rows}
    found: list[dict[str, Any]] = []

    def add(what: str, measured: Callable[[], float], limit: float, *, least: bool = False) -> None:
        try:
            value = measured()
        except KeyError:
            return  # a peer that is not here
        target = f"{'>=' if least else '<='} {limit:g}"
        found.append(
            {"what": what, "measured": value, "target": target, "met": (value >= limit) == least or value == limit}
        )

    for count in (200, 1000):
        ours = of["dogwatch", count]
        add(f"wall beside Go, {count}", lambda o=ours, c=count: o["wall_s"] / of["go", c]["wall_s"], 1.35)  # type: ignore[misc]
        for peer in ("clush", "pssh"):
            what = f"client CPU beside {peer}, {count}"
            add(what, lambda o=ours, c=count, p=peer: o["client_cpu_s"] / of[p, c]["client_cpu_s"], 0.35)  # type: ignore[misc]
        for peer in ("clush", "pssh", "parallel-ssh", "pyinfra"):
            what = f"wall beside {peer}, {count}"
            add(what, lambda o=ours, c=count, p=peer: o["wall_s"] / of[p, c]["wall_s"], 1.0)  # type: ignore[misc]
        kept = of["kept", count]
        what = f"first command beside the second over kept connections, {count}"
        add(what, lambda k=kept: k["first_s"] / k["second_s"], 2.0, least=True)  # type: ignore[misc]
    add(
        "times as fast as ansible -m command, 200",
        lambda: of["ansible", 200]["wall_s"] / of["dogwatch", 200]["wall_s"],
        15.0,
        least=True,
    )
    add("memory at 1,000 hosts, MiB", lambda: max(of[one, 1000]["rss_mib"] for one in ("dogwatch", "kept")), 150.0)
    add("10,000 hosts read and an expression worked out, s", lambda: of["inventory", 10_000]["s"], 1.0)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--inside", type=Path, required=True)
    parser.add_argument("--peers", type=json.loads, required=True)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    print(json.dumps({"rows": _inside(options.inside, options.peers, quick=options.quick)}))


if __name__ == "__main__":
    main()
