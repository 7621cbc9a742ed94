"""One Prometheus scrapes Debian's blackbox_exporter and us with the same scrape configuration."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from test_blackbox_peer import NEWER, PEER, free_port, is_old, ours, peer, ports  # noqa: F401 - fixtures

from dogwatch.probes.blackbox import Blackbox

PROMETHEUS = shutil.which("prometheus")
pytestmark = [
    pytest.mark.serial,
    pytest.mark.skipif(PROMETHEUS is None or PEER is None, reason="prometheus or its blackbox_exporter is missing"),
]
SCRAPE = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
{jobs}
"""
JOB = """
- job_name: {name}
  metrics_path: /probe
  params: {{module: [http_ip4]}}
  static_configs: [{{targets: ["http://127.0.0.1:{good}/", "http://127.0.0.1:{good}/404", "http://127.0.0.1:1/"]}}]
  relabel_configs:
  - {{source_labels: [__address__], target_label: __param_target}}
  - {{source_labels: [__param_target], target_label: instance}}
  - {{target_label: __address__, replacement: "{exporter}"}}
"""


@pytest_asyncio.fixture
async def served(ours: Blackbox) -> AsyncIterator[str]:  # noqa: F811
    """Serve /probe as the web layer does, on a port of its own."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        url = urllib.parse.urlsplit(head[0].split(" ")[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        status, media_type, text = await ours.answer(dict(urllib.parse.parse_qsl(url.query)), headers)
        body = text.encode()
        answer = f"HTTP/1.1 {status} X\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{answer}Connection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    await server.wait_closed()


def ask(prometheus: str, query: str) -> list[dict[str, dict[str, str]]]:
    url = f"http://{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(url, timeout=5) as answer:
        return list(json.load(answer)["data"]["result"])


def names_by_instance(prometheus: str, job: str) -> dict[str, dict[str, str]]:
    """Return every series of a job as instance → series with its labels → value."""
    found: dict[str, dict[str, str]] = {}
    for one in ask(prometheus, f'{{job="{job}"}}'):
        labels = {name: value for name, value in one["metric"].items() if name not in ("job", "instance")}
        found.setdefault(one["metric"]["instance"], {})[json.dumps(labels, sort_keys=True)] = one["value"][1]  # type: ignore[index]
    return found


async def wait_for_both(prometheus: str) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            up = await asyncio.to_thread(ask, prometheus, "count by (job) (up == 1)")
        except OSError:
            up = []
        if sorted(one["value"][1] for one in up) == ["3", "3"]:  # type: ignore[index]
            return
        await asyncio.sleep(0.2)
    pytest.fail("prometheus did not scrape both within 30 s")


async def test_prometheus_sees_no_difference(
    served: str,
    peer: str,  # noqa: F811
    ports: dict[str, int],  # noqa: F811
    tmp_path: Path,
) -> None:
    theirs = urllib.parse.urlsplit(peer).netloc
    jobs = [JOB.format(name=n, exporter=e, good=ports["http"]) for n, e in (("theirs", theirs), ("ours", served))]
    config = tmp_path / "prometheus.yml"
    config.write_text(SCRAPE.format(jobs="".join(jobs)))
    address = f"127.0.0.1:{free_port()}"
    arguments = [
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address={address}",
    ]
    assert PROMETHEUS is not None
    log = (tmp_path / "log").open("w")
    with log, subprocess.Popen([PROMETHEUS, *arguments], stdout=log, stderr=log) as running:  # noqa: ASYNC220
        try:
            await wait_for_both(address)
            mine = await asyncio.to_thread(names_by_instance, address, "ours")
            other = await asyncio.to_thread(names_by_instance, address, "theirs")
        finally:
            running.terminate()
    assert mine.keys() == other.keys()
    assert len(mine) == 3
    for instance, series in other.items():
        # Debian's release is older: it lacks what the newest one has.
        new = {name for name in mine[instance] if NEWER.match(json.loads(name)["__name__"])}
        assert set(mine[instance]) - (new if is_old() else set()) == set(series)
        success = json.dumps({"__name__": "probe_success"})
        assert mine[instance][success] == series[success]
