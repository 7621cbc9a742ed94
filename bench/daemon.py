"""The daemon as a whole: 100 HTTP probes at 15 s and every collector; resident memory and CPU of the process."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NAME = "daemon"
PROBES = 100


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")

    def log_message(self, *_: object) -> None:
        pass


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mib(pid: int, key: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    return 0.0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ready(port: int) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False


def run(quick: bool) -> dict[str, object]:
    """Return resident MiB and share of a core; the page, the API and /metrics are each asked once on the way."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port, url = _free_port(), f"http://127.0.0.1:{server.server_address[1]}/"
    entries = "\n".join(
        f"  - name: target {i}\n    http: {{url: '{url}{i}', expect: 'status == 200 && body.contains(\"ok\")'}}"
        for i in range(PROBES)
    )
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "dogwatch.yaml"
        config.write_text(f"probes:\n{entries}\n")
        command = [sys.executable, "-m", "dogwatch", "up", "-c", str(config), "--data", folder]
        with (Path(folder) / "log").open("wb") as log:
            daemon = subprocess.Popen([*command, "--listen", f"127.0.0.1:{port}"], stdout=log, stderr=log)
        try:
            while not _ready(port):
                time.sleep(0.1)
            for path in ("/", "/api/v1/targets", "/metrics"):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
                connection.request("GET", path)
                connection.getresponse().read()
                connection.close()
            time.sleep(15)
            began, cpu = time.monotonic(), _cpu_s(daemon.pid)
            time.sleep(15 if quick else 60)
            share = (_cpu_s(daemon.pid) - cpu) / (time.monotonic() - began)
            resident, peak = _resident_mib(daemon.pid, "VmRSS"), _resident_mib(daemon.pid, "VmHWM")
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(20)
            server.shutdown()
            server.server_close()
    rows = [
        {"probes": PROBES, "resident_mib": round(resident, 1), "peak_mib": round(peak, 1), "cpu_ratio": round(share, 4)}
    ]
    targets = [
        {"what": "resident memory", "target": "<= 80 MiB", "measured": f"{resident:.1f} MiB", "met": resident <= 80},
        {
            "what": "CPU at 15 s intervals",
            "target": "<= 3 % of a core",
            "measured": f"{share:.2%}",
            "met": share <= 0.03,
        },
    ]
    return {"name": NAME, "rows": rows, "targets": targets}


if __name__ == "__main__":
    print(run(quick=True))
