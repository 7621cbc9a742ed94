"""A playbook, a real server and the command line over them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from tests.integration.fleet.servers import USER, Sshd

from dogwatch.cli.fleet import fleet
from dogwatch.errors import DogwatchError

BOOK = """
hosts: "web*"
defaults: {{port: 80}}
vars: {{root: "{folder}/{{{{ host }}}}"}}
secrets: {{password: "${{file:secret}}"}}
operations:
  - directory: {{path: "{{{{ root }}}}/conf"}}
  - name: main
    template: {{src: main.j2, path: "{{{{ root }}}}/conf/main", mode: "600"}}
    notify: reload
  - link: {{path: "{{{{ root }}}}/current", target: conf/main}}
handlers:
  - name: reload
    command: {{run: "echo reloaded >> {{{{ root }}}}/log", always: true}}
"""


class Site:
    """A folder with playbook, inventory and the folders that stand for hosts."""

    def __init__(self, folder: Path, server: Sshd, hosts: int = 3) -> None:
        self.server = server
        self.folder, self.hosts = folder, [f"web{at}" for at in range(1, hosts + 1)]
        (folder / "hosts").mkdir()
        for host in self.hosts:
            (folder / "hosts" / host).mkdir()
        (folder / "known").write_text(server.known_line())
        lines = [
            f"{host} ansible_host=127.0.0.1 ansible_port={server.port} ansible_user={USER} "
            f"ansible_ssh_private_key_file={server.key} dogwatch_state={folder}/state/{host}"
            for host in self.hosts
        ]
        (folder / "hosts.ini").write_text("\n".join(lines) + "\n")
        (folder / "secret").write_text("it's-S3cret\n")
        (folder / "main.j2").write_text("port {{ port }}\npassword {{ password }}\n")
        (folder / "empty").write_text("")
        self.write(BOOK.format(folder=folder / "hosts"))

    def write(self, text: str) -> None:
        (self.folder / "site.yaml").write_text(text)

    def root(self, host: str) -> Path:
        return self.folder / "hosts" / host

    def words(self, *words: str) -> list[str]:
        return [
            *words, "-i", str(self.folder / "hosts.ini"), "--known-hosts", str(self.folder / "known"),
            "--ssh-config", str(self.folder / "empty"),
        ]  # fmt: skip

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(fleet, self.words(*words), standalone_mode=False, catch_exceptions=True)

    def plan(self, *words: str) -> Result:
        return self.run("plan", str(self.folder / "site.yaml"), "-o", self.file, *words)

    def apply(self, *words: str) -> Result:
        return self.run("apply", self.file, *words)

    @property
    def file(self) -> str:
        return str(self.folder / "site.plan")

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "dogwatch", "fleet", *self.words(*words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def code(result: Result) -> int:
    """Return the exit code as the command line has it."""
    if isinstance(result.exception, DogwatchError):
        return result.exception.exit_code
    if result.exception is not None:
        raise result.exception
    return int(result.return_value or 0)


def states(result: Result) -> dict[str, str]:
    return {one["host"]: one["state"] for one in json.loads(result.stdout)["hosts"]}


def wait_for(true: Any, seconds: float = 20.0) -> None:
    end_s = time.monotonic() + seconds
    pause = threading.Event()
    while not true():
        assert time.monotonic() < end_s, "it did not come"
        pause.wait(0.02)
