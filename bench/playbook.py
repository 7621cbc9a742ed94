"""Twenty operations over fifty hosts: `fleet plan` and `fleet apply` beside `ansible-playbook` with the same tasks.

Both talk to the same real sshd, in a network namespace in which every 127.x.y.z is a host, 50 at a time; each host has
a folder of its own. Ansible runs as fast as it can be set to: pipelining, kept connections, no facts, forks 50. Two
runs are timed: the first, which changes everything, and the second, which finds nothing to do; of ours a third one,
after two files on each host were changed by hand. Every run is a process of its own, start-up included; ours is two
(plan, then apply). All of it takes 4 to 9 minutes on 4 calm cores, nearly all of them Ansible's.
"""

from __future__ import annotations

import argparse
import filecmp
import ipaddress
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

NAME = "playbook"
HOSTS = 50
PORT = 2223
TARGET = 5.0
SSHD = "/usr/sbin/sshd"
_VENV = Path(tempfile.gettempdir()) / "dogwatch-fleet-peers"


def run(*, quick: bool) -> dict[str, Any]:
    """Measure inside a network namespace, and hand the figures out."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or not Path(SSHD).exists():
        return {"rows": [], "targets": [], "skipped": "needs root, unshare and sshd"}
    ansible = _ansible()
    with tempfile.TemporaryDirectory(prefix="dogwatch-playbook-") as folder:
        words = [sys.executable, "-m", "bench.playbook", "--inside", folder, "--ansible", ansible]
        done = subprocess.run(
            ["unshare", "--net", *words, *(["--quick"] if quick else [])],
            stdout=subprocess.PIPE,
            check=True,
            timeout=3600,
        )
    rows = json.loads(done.stdout)
    return {"rows": rows, "targets": _targets(rows)}


def _ansible() -> str:
    """Return ansible-playbook, got from PyPI into an environment of the benchmarks where it is not there; or ""."""
    program = _VENV / "bin" / "ansible-playbook"
    if not program.exists():
        uv = Path(sys.executable).with_name("uv")
        subprocess.run([uv, "venv", "-q", "--clear", _VENV], check=False)
        env = {**os.environ, "VIRTUAL_ENV": str(_VENV)}
        subprocess.run([uv, "pip", "install", "-q", "ansible-core", "parallel-ssh", "pyinfra"], env=env, check=False)
    return str(program) if program.exists() else ""


def _targets(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    wall = {(row["tool"], row["run"]): row["wall_s"] for row in rows}
    found = []
    for name in ("first", "second"):
        if ("ansible-playbook", name) in wall:
            ratio = wall["ansible-playbook", name] / wall["dogwatch", name]
            what = f"{name} run, ansible-playbook's time over ours"
            found.append({"what": what, "measured": ratio, "target": f">= {TARGET:g}", "met": ratio >= TARGET})
    return found


# -- inside the namespace --------------------------------------------------------------------------------------------


def _server(folder: Path) -> subprocess.Popen[bytes]:
    for name in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "authorized_keys").write_text((folder / "user_key.pub").read_text())
    (folder / "config").write_text(
        f"ListenAddress 0.0.0.0\nPort {PORT}\nHostKey {folder}/host_key\nUsePAM no\nStrictModes no\nPidFile none\n"
        f"PermitRootLogin yes\nMaxStartups 5000\nMaxSessions 100\nLogLevel ERROR\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\n"
    )
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "config"], stdout=sys.stderr)
    until_s = time.monotonic() + 10
    while time.monotonic() < until_s:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", PORT)) == 0:
                return process
        time.sleep(0.05)
    raise RuntimeError("sshd did not start")


def _inventory(folder: Path, count: int) -> list[str]:
    first = int(ipaddress.ip_address("127.1.0.1"))
    hosts = [str(ipaddress.ip_address(first + at)) for at in range(count)]
    key = " ".join((folder / "host_key.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text("".join(f"[{host}]:{PORT} {key}\n" for host in hosts))
    lines = [f"{host} dogwatch_state={folder}/state/{host}" for host in hosts]
    (folder / "hosts.ini").write_text(
        "\n".join(lines)
        + f"\n[all:vars]\nansible_port={PORT}\nansible_user=root\nansible_ssh_private_key_file={folder}/user_key\n"
        "ansible_python_interpreter=/usr/bin/python3\n"
    )
    return hosts


def _operations() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the same twenty in our words and in Ansible's."""
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []

    def add(mine: dict[str, Any], other: dict[str, Any]) -> None:
        ours.append(mine)
        theirs.append({"name": f"task {len(theirs) + 1}", **other})

    for name in ("conf.d", "data", "log"):
        add(
            {"directory": {"path": f"{{{{ root }}}}/{name}", "mode": "750"}},
            {"file": {"path": f"{{{{ root }}}}/{name}", "state": "directory", "mode": "0750"}},
        )
    for at in range(5):
        path = f"{{{{ root }}}}/conf.d/{at}.conf"
        add(
            {"template": {"src": "main.j2", "path": path, "mode": "640"}},
            {"template": {"src": "main.j2", "dest": path, "mode": "0640"}},
        )
    for at in range(4):
        path = f"{{{{ root }}}}/data/blob{at}"
        add(
            {"file": {"path": path, "src": "blob", "mode": "600"}},
            {"copy": {"src": "blob", "dest": path, "mode": "0600"}},
        )
    for at in range(3):
        path = f"{{{{ root }}}}/conf.d/{at}.conf.local"
        line = f"listen = 127.0.0.1:{8000 + at}"
        add(
            {"line": {"path": path, "line": line, "match": "^listen", "create": True, "mode": "644"}},
            {"lineinfile": {"path": path, "line": line, "regexp": "^listen", "create": True, "mode": "0644"}},
        )
    for at in range(2):
        path = f"{{{{ root }}}}/log/block{at}"
        add(
            {"block": {"path": path, "block": "one\ntwo\n", "create": True, "mode": "644"}},
            {"blockinfile": {"path": path, "block": "one\ntwo\n", "create": True, "mode": "0644"}},
        )
    for at in range(2):
        add(
            {"link": {"path": f"{{{{ root }}}}/link{at}", "target": f"conf.d/{at}.conf"}},
            {"file": {"path": f"{{{{ root }}}}/link{at}", "src": f"conf.d/{at}.conf", "state": "link"}},
        )
    add(
        {"command": {"run": "date > {{ root }}/made", "creates": "{{ root }}/made"}},
        {"shell": {"cmd": "date > {{ root }}/made", "creates": "{{ root }}/made"}},
    )
    assert len(ours) == len(theirs) == 20
    return ours, theirs


def _write(folder: Path) -> None:
    ours, theirs = _operations()
    (folder / "main.j2").write_text("host = {{ inventory_hostname | default(host) }}\nworkers = {{ workers }}\n" * 10)
    (folder / "blob").write_bytes(os.urandom(20_000))
    roots = {"ours": f"{folder}/ours/{{{{ host }}}}", "theirs": f"{folder}/theirs/{{{{ inventory_hostname }}}}"}
    play = {"hosts": "all", "vars": {"root": roots["ours"], "workers": 8}, "operations": ours}
    (folder / "ours.yaml").write_text(yaml.safe_dump(play, sort_keys=False))
    other = {
        "hosts": "all",
        "gather_facts": False,
        "vars": {"root": roots["theirs"], "workers": 8},
        "tasks": theirs,
    }
    (folder / "theirs.yaml").write_text(yaml.safe_dump([other], sort_keys=False))
    (folder / "ansible.cfg").write_text(
        f"[defaults]\nforks = 50\nstdout_callback = minimal\ngathering = explicit\nlocal_tmp = {folder}/tmp\n"
        f"[ssh_connection]\npipelining = True\nssh_args = -o ControlMaster=auto -o ControlPersist=60s "
        f"-o UserKnownHostsFile={folder}/known_hosts\ncontrol_path_dir = {folder}/cp\n"
    )


def _timed(tool: str, name: str, commands: list[list[str]], env: dict[str, str], hosts: int) -> dict[str, Any]:
    begun_s, cpu = time.monotonic(), os.times()
    for words in commands:
        done = subprocess.run(words, env=env, capture_output=True, check=False, timeout=1800)
        if done.returncode != 0:
            raise RuntimeError(f"{words[:4]}: {done.stdout[-2000:].decode()}{done.stderr[-2000:].decode()}")
    after = os.times()
    used_s = after.children_user + after.children_system - cpu.children_user - cpu.children_system
    wall_s = time.monotonic() - begun_s
    print(f"{tool} {name}: {wall_s:.2f} s", file=sys.stderr, flush=True)
    return {"tool": tool, "run": name, "hosts": hosts, "operations": 20, "wall_s": wall_s, "client_cpu_s": used_s}


def _drift(folder: Path, hosts: list[str]) -> None:
    for host in hosts:
        (folder / "ours" / host / "conf.d" / "1.conf").write_text("by hand\n")
        (folder / "ours" / host / "data" / "blob2").unlink()


def _same(folder: Path, hosts: list[str]) -> None:
    """Both have made the same files, or the figures say nothing."""
    for host in hosts:
        names = [f"conf.d/{at}.conf" for at in range(5)] + [f"data/blob{at}" for at in range(4)]
        match, differing, missing = filecmp.cmpfiles(
            folder / "ours" / host, folder / "theirs" / host, names, shallow=False
        )
        assert len(match) == len(names), (host, differing, missing)


def _inside(folder: Path, ansible: str, quick: bool) -> list[dict[str, Any]]:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    server = _server(folder)
    try:
        hosts = _inventory(folder, 5 if quick else HOSTS)
        _write(folder)
        for kind in ("ours", "theirs"):
            for host in hosts:
                (folder / kind / host).mkdir(parents=True)
        env = {**os.environ, "HOME": str(folder), "ANSIBLE_CONFIG": str(folder / "ansible.cfg")}
        env.pop("SSH_AUTH_SOCK", None)
        (folder / "empty").write_text("")
        reach = [
            "-i", f"{folder}/hosts.ini", "--known-hosts", f"{folder}/known_hosts", "--ssh-config", f"{folder}/empty",
        ]  # fmt: skip
        fleet = [sys.executable, "-m", "dogwatch", "fleet"]
        ours = [
            [*fleet, "plan", f"{folder}/ours.yaml", "-o", f"{folder}/plan", *reach],
            [*fleet, "apply", f"{folder}/plan", *reach],
        ]
        theirs = [[ansible, "-i", f"{folder}/hosts.ini", f"{folder}/theirs.yaml"]]
        rows = []
        for name in ("first", "second", "drifted"):
            if name == "drifted":
                _drift(folder, hosts)
            rows.append(_timed("dogwatch", name, ours, env, len(hosts)))
            if ansible and name != "drifted":
                rows.append(_timed("ansible-playbook", name, theirs, env, len(hosts)))
                _same(folder, hosts)
        return rows
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--inside", required=True, type=Path)
    parser.add_argument("--ansible", default="")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    print(json.dumps(_inside(given.inside, given.ansible, given.quick)))
