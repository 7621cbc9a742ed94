"""A small firm that Dogwatch watches, with something on every page: real servers on loopback, some of them in trouble,
jobs whose runs failed or wait for somebody, webhooks, a fleet with a real sshd, logs, a status page. `opened` starts it
and its daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

SECRET = "of-the-scene-only"
PASSWORD = "correct horse battery staple"
# name, group, path: the path says how the server below answers.
SHOP = (
    ("shop", "web", "ok"),
    ("shop/checkout", "web", "fails"),
    ("search", "web", "slow"),
    ("login", "web", "wave"),
    ("images", "web", "ok"),
    ("orders", "backend", "wave"),
    ("payments", "backend", "once"),
    ("stock", "backend", "ok"),
)
CONFIG = Path(__file__).parent / "scene.yaml"
SITE = """
hosts: "@web,@data"
max_fail: 1
operations:
  - file: {path: "{{ root }}/out/{{ host }}/shop.conf", content: "listen = 8080\\nworkers = 4\\n", mode: "640"}
  - command: {run: "true", always: true}
"""


class Firm:
    """The servers that are watched. trouble: whether what fails does."""

    def __init__(self) -> None:
        self.trouble = False
        self.begun_s = time.monotonic()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer by the path: well, in waves, slowly, or with an error while there is trouble."""
        try:
            line = await reader.readline()
            while (await reader.readline()).strip():
                pass
            way = line.split()[1].decode().strip("/") if len(line.split()) > 1 else ""
            now_s = time.monotonic() - self.begun_s
            pause_s = {"wave": 0.05 + 0.03 * math.sin(now_s / 9), "slow": 0.42 + 0.05 * math.sin(now_s / 5)}.get(
                way, 0.01
            )
            status, body = "200 OK", "ok\n"
            if (way == "fails" and self.trouble) or (way == "once" and 20 < now_s < 28):
                status, body = "503 Service Unavailable", '{"error": "no connection to the database"}\n'
            elif way == "gone":
                status = "410 Gone"
            await asyncio.sleep(pause_s)
            writer.write(
                f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _probes(port: int) -> list[dict[str, object]]:
    quick = {"every": "1s", "timeout": "900ms"}
    found: list[dict[str, object]] = [
        {
            "name": name,
            "group": group,
            "http": {
                "url": f"http://127.0.0.1:{port}/{way}",
                **({"degraded_if": "duration_s > 0.3"} if way == "slow" else {}),
            },
            "labels": {"team": "shop"},
            "depends_on": ["database"] if name == "orders" else [],
            **quick,
        }
        for name, group, way in SHOP
    ]
    return [
        *found,
        {"name": "database", "group": "backend", "tcp": f"127.0.0.1:{port}", **quick},
        {"name": "edge", "group": "network", "tcp": f"127.0.0.1:{port}", **quick},
        {"name": "name-server", "group": "network", "dns": {"name": "localhost", "server": "127.0.0.1:9"}, **quick},
        {"name": "mail relay", "group": "network", "tcp": "127.0.0.1:9", **quick},
        {"name": "nightly backup", "group": "jobs", "heartbeat": {"period": "1d", "grace": "1h"}},
        {"name": "invoices sent", "group": "jobs", "heartbeat": {"period": "5s", "grace": "5s"}},
        {"name": "certificates renewed", "group": "jobs", "exec": {"args": ["/bin/true"]}, **quick},
        {
            "name": "queue drained",
            "group": "jobs",
            "exec": {"args": ["/bin/sh", "-c", "echo 3 messages stuck; exit 2"]},
            **quick,
        },
    ]


class Scene:
    """A running daemon over the firm. url: its console. waiting: a run that waits for somebody."""

    def __init__(self, folder: Path, listen: str, firm: Firm) -> None:
        self.folder, self.listen, self.firm = folder, listen, firm
        self.url = f"http://{listen}"
        self.waiting = ""
        self._env = {**os.environ, "DOGWATCH_SOCKET": str(folder / "data" / "admin.sock")}

    async def command(self, *arguments: str, fails: bool = False) -> str:
        """Return what a command of ours prints."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dogwatch", *arguments, "--server", self.url),
            cwd=self.folder,
            env=self._env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        if process.returncode not in ((0, 1, 3) if fails else (0,)):
            print(f"dogwatch {' '.join(arguments)}: {process.returncode}: {err.decode().strip()}", file=sys.stderr)
        return out.decode().strip()

    async def call(self, path: str, body: bytes = b"{}", method: str = "POST", **headers: str) -> str:
        """Return what the daemon answers, refusals too."""
        headers = {
            "Content-Type": "application/json",
            **{key.replace("_", "-"): value for key, value in headers.items()},
        }
        asked = urllib.request.Request(
            self.url + path, data=body if method != "GET" else None, headers=headers, method=method
        )

        def answered() -> str:
            try:
                with urllib.request.urlopen(asked, timeout=30) as one:
                    return str(one.read().decode())
            except urllib.error.HTTPError as error:
                return str(error.read().decode())

        return await asyncio.to_thread(answered)

    async def push(self, payload: object, event: str = "push", *, secret: str = SECRET) -> None:
        body = json.dumps(payload).encode()
        signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        await self.call("/hooks/shop", body, X_GitHub_Event=event, X_Hub_Signature_256=f"sha256={signature}")

    async def live(self) -> None:
        """Let things happen: runs that end well, fail, wait; pushes; commands over the fleet; people."""
        log = self.folder / "shop.log"
        with log.open("a") as out:
            for at in range(400):
                level = ("info", "info", "warning", "error")[at % 4] if at % 7 == 0 else "info"
                moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 4 * (400 - at)))
                out.write(
                    json.dumps(
                        {
                            "time": moment,
                            "level": level,
                            "service": ("shop", "orders")[at % 2],
                            "message": f"order {at} took {at % 90} ms",
                            "status": 500 if level == "error" else 200,
                        }
                    )
                    + "\n"
                )
        await self.call("/ping/nightly%20backup", b"")
        await self.push({"ref": "refs/heads/main", "after": "v1.4.2", "sender": {"login": "ann"}})
        await self.push({"ref": "refs/heads/fix", "after": "v1.4.3"})
        await self.push({"ref": "refs/heads/main", "after": "not a version"})
        await self.push({"zen": "Keep it logically awesome."}, "ping")
        await self.push({"ref": "refs/heads/main", "after": "v6"}, secret="another")
        done = await self.command("job", "run", "deploy", "-p", "version=v1.4", "-p", "env=production")
        self.waiting = await self.command("job", "run", "deploy", "-p", "version=v1.5", "-p", "env=production")
        await self.command("job", "run", "backup")
        await self.command("job", "run", "long")
        await self.command("job", "run", "report")
        cancelled = await self.command("job", "run", "long")
        await self.command("fleet", "run", "uptime; echo $HOME", "-t", "all", "--accept-new-host-keys", fails=True)
        await self.command("fleet", "plan", "site", fails=True)
        await self.command("fleet", "plan", "careful", fails=True)
        await self.command("run", "approve", done.split()[-1], "--comment", "checked")
        await self.command("run", "cancel", cancelled.split()[-1])
        await self.command(
            "maintenance",
            "add",
            "switch to db-2",
            "--target",
            "stock",
            "--for",
            "2h",
            "--reason",
            "status: new switches, orders may be slow",
        )
        await self.command(
            "maintenance",
            "add",
            "freeze",
            "--schedule",
            "*",
            "--from",
            "2026-12-24T12:00",
            "--to",
            "2027-01-02T08:00",
            "--time-zone",
            "Europe/Berlin",
        )
        await self.command("probe", "pause", "images")
        await self.command("schedule", "pause", "nightly-backup", fails=True)
        await self.command("notify", "test", "pager", fails=True)
        await self.call("/api/v1/reload")
        incidents = json.loads(await self.command("incident", "list", "--json") or "[]")
        if isinstance(incidents, dict):
            incidents = incidents.get("items", [])
        if incidents:
            first = str(incidents[-1].get("number", 1))
            await self.command("incident", "ack", first, "--text", "on it")
            await self.command("incident", "comment", first, "status: orders are slow, we are on it")


def _written(folder: Path, listen: str, port: int) -> int:
    """Write everything that the daemon and the sshd read; return the port of the sshd."""
    folder.mkdir(parents=True, exist_ok=True)
    ssh_port = free_port()
    for key in ("host_key", "user_key"):
        if not (folder / key).exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nPort {ssh_port}\nHostKey {folder}/host_key\nUsePAM no\nStrictModes no\n"
        f"PidFile none\nPermitRootLogin yes\nLogLevel ERROR\nAuthorizedKeysFile {folder}/authorized_keys\n"
    )
    (folder / "site.yaml").write_text(SITE)
    (folder / "careful.yaml").write_text(f"approval: true{SITE}")
    text = CONFIG.read_text().replace("FOLDER", str(folder)).replace("SECRET", SECRET)
    for word, number in (("LISTEN", listen.partition(":")[2]), ("PORT", port), ("SSHD", ssh_port)):
        text = text.replace(word, str(number))
    probes = "".join(f"  - {json.dumps(one)}\n" for one in _probes(port))
    (folder / "dogwatch.yaml").write_text(f"{text}probes:\n{probes}")
    return ssh_port


async def _reached(listen: str) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError):
            _reader, writer = await asyncio.open_connection(*listen.split(":"))
            writer.close()
            return
        await asyncio.sleep(0.1)
    raise RuntimeError("the daemon of the scene does not listen")


@asynccontextmanager
async def opened(folder: Path, *, watch_s: float = 40.0, port: int = 0) -> AsyncIterator[Scene]:
    """Start the firm and its daemon in a folder, which may be one of before; things have happened when this yields."""
    firm = Firm()
    server = await asyncio.start_server(firm.answer, "127.0.0.1", 0)
    listen = f"127.0.0.1:{port or free_port()}"
    await asyncio.to_thread(_written, folder, listen, server.sockets[0].getsockname()[1])
    scene = Scene(folder, listen, firm)
    sshd = await asyncio.create_subprocess_exec(
        *("/usr/sbin/sshd", "-D", "-e", "-f", folder / "sshd_config"), stderr=asyncio.subprocess.DEVNULL
    )
    daemon = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dogwatch", "up", "--config", "dogwatch.yaml"),
        *("--data", "data", "--listen", listen, "--log-level", "warning"),
        cwd=folder,
        env={**os.environ, "DOGWATCH_DATA": str(folder / "own"), "HOME": str(folder)},
    )
    try:
        await _reached(listen)
        await asyncio.sleep(watch_s / 2)
        firm.trouble = True
        await asyncio.sleep(watch_s / 2)
        await scene.live()
        yield scene
    finally:
        for one in (daemon, sshd):
            with contextlib.suppress(ProcessLookupError):
                one.send_signal(signal.SIGTERM)
            await one.wait()
        server.close()
