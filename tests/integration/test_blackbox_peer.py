"""/probe against Debian's blackbox_exporter: same modules, same targets, same metrics, same verdicts."""

from __future__ import annotations

import asyncio
import functools
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
import trustme

from dogwatch.config.load import Loader
from dogwatch.probes.blackbox import MODULES, Blackbox
from dogwatch.probes.engine import Engine
from dogwatch.probes.env import close_env, new_env
from dogwatch.probes.kinds import PROBES

PEER = shutil.which("prometheus-blackbox-exporter")
CASES = Path(__file__).parent.parent / "cases" / "blackbox"
needs_peer = pytest.mark.skipif(PEER is None, reason="prometheus-blackbox-exporter is not installed")
# (module, target, extra query); ports by the names that blackbox_targets prints.
QUESTIONS = [
    ("http_ip4", "http://127.0.0.1:{http}/", ""),
    ("http_ip4", "127.0.0.1:{http}", ""),
    ("http_ip4", "http://127.0.0.1:{http}/404", ""),
    ("http_ip4", "http://127.0.0.1:{http}/redirect", ""),
    ("http_ip4", "http://127.0.0.1:1/", ""),
    ("http_ip4", "http://localhost:{http}/", ""),
    ("http_ip4", "http://does-not-exist.invalid/", ""),
    ("http_unverified", "https://localhost:{https}/", ""),
    ("http_verified", "https://localhost:{https}/", ""),
    ("http_regex_good", "http://127.0.0.1:{http}/", ""),
    ("http_regex_bad", "http://127.0.0.1:{http}/", ""),
    ("http_header_bad", "http://127.0.0.1:{http}/", ""),
    ("http_header_missing", "http://127.0.0.1:{http}/", ""),
    ("http_404", "http://127.0.0.1:{http}/404", ""),
    ("http_404", "http://127.0.0.1:{http}/", ""),
    ("http_11", "http://127.0.0.1:{http}/", ""),
    ("http_20", "http://127.0.0.1:{http}/", ""),
    ("http_no_redirect", "http://127.0.0.1:{http}/redirect", ""),
    ("http_need_tls", "http://127.0.0.1:{http}/", ""),
    ("http_post", "http://127.0.0.1:{http}/", ""),
    ("http_auth", "http://127.0.0.1:{http}/auth", ""),
    ("http_ip4", "http://127.0.0.1:{http}/auth", ""),
    ("http_small", "http://127.0.0.1:{http}/", ""),
    ("http_short_timeout", "http://127.0.0.1:{http}/slow", ""),
    ("http_ip4", "http://127.0.0.1:{http}/", "&hostname=shop.example"),
    ("tcp_ip4", "127.0.0.1:{http}", ""),
    ("tcp_ip4", "127.0.0.1:1", ""),
    ("tcp_banner", "127.0.0.1:{banner}", ""),
    ("tcp_banner_bad", "127.0.0.1:{banner}", ""),
    ("tcp_starttls", "127.0.0.1:{banner}", ""),
    ("tcp_tls", "localhost:{https}", ""),
    ("tcp_tls_verified", "localhost:{https}", ""),
    ("dns_a", "127.0.0.1:{dns}", ""),
    ("dns_bad_record", "127.0.0.1:{dns}", ""),
    ("dns_nxdomain", "127.0.0.1:{dns}", ""),
    ("icmp_ip4", "127.0.0.1", ""),
    ("grpc_ip4", "127.0.0.1:1", ""),
]
# What must be equal, not only there.
SAME_VALUES = re.compile(
    r"probe_(success|failed_due_to_regex|http_(status_code|redirects|ssl|version|content_length|"
    r"uncompressed_body_length|last_modified_timestamp_seconds)|ip_protocol|ip_addr_hash|ssl_earliest_cert_expiry|"
    r"ssl_last_chain_expiry_timestamp_seconds|ssl_last_chain_info|tls_version_info|dns_\w+_rrs|dns_query_succeeded|"
    r"icmp_reply_hop_limit|grpc_(ssl|status_code|healthcheck_response))\b"
)
# What the newest release has and Debian's 0.23 has not, and the other way round.
NEWER = re.compile(r"probe_(timeout_seconds|tls_cipher_info|failed_due_to_bytes)\b")
OLDER = re.compile(r"probe_(failed_due_to_regex|ssl_earliest_cert_expiry)\b")
# Module and metric that differ, with the reason in docs/blackbox.md.
KNOWN: dict[tuple[str, str], str] = {}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    folder = tmp_path_factory.mktemp("targets")
    trustme.CA().issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "c.pem")
    program = [sys.executable, str(Path(__file__).with_name("blackbox_targets.py")), str(folder / "c.pem")]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        yield json.loads(running.stdout.readline())
        running.communicate()


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    assert PEER is not None
    address = f"127.0.0.1:{free_port()}"
    log = tmp_path_factory.mktemp("peer") / "log"
    arguments = [f"--config.file={CASES / 'modules.yml'}", f"--web.listen-address={address}"]
    with log.open("w") as out, subprocess.Popen([PEER, *arguments], stdout=out, stderr=out) as running:
        wait_for(f"http://{address}/-/healthy", log)
        yield f"http://{address}/probe"
        running.terminate()


def wait_for(url: str, log: Path) -> None:
    until = time.monotonic() + 20
    while True:
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except OSError:
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        else:
            return


@pytest_asyncio.fixture
async def ours(tmp_path: Path) -> AsyncIterator[Blackbox]:
    (tmp_path / "dogwatch.yaml").write_text(f"modules: {{file: {CASES / 'modules.yml'}}}\n")
    loaded = Loader([tmp_path / "dogwatch.yaml"], [MODULES], environ={}).load()
    engine = Engine()
    engine.open()
    env = new_env(engine)
    blackbox = Blackbox(env=env, registry=PROBES)
    change = blackbox.prepare(loaded)
    await change.start()
    change.swap()
    await change.finish()
    yield blackbox
    await close_env(env)


def ask_peer(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return str(answer.read().decode())


def series_of(text: str) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


@functools.cache
def is_old() -> bool:
    assert PEER is not None
    shown = subprocess.run([PEER, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"version (\d+)\.(\d+)", shown.stdout + shown.stderr)
    # Built by hand it says no version: then it is a new one.
    return found is not None and (int(found[1]), int(found[2])) < (0, 28)


def of_one_age(text: str, other: str) -> str:
    """Return an exposition without what only one of two releases has."""
    if not is_old():
        return text
    names = {line.split()[2] for line in other.splitlines() if line.startswith("# TYPE")}
    kept = []
    for line in text.splitlines():
        name = re.split(r"[ {]", line.removeprefix("# HELP ").removeprefix("# TYPE "))[0]
        if name in names or not (NEWER.match(name) or OLDER.match(name)):
            kept.append(re.sub(r'serialnumber="[^"]*",', "", line))
    return "\n".join(kept)


def kinds_of(text: str) -> dict[str, str]:
    found = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
    return dict(found)


@needs_peer
@pytest.mark.parametrize(("module", "target", "extra"), QUESTIONS)
async def test_same_metrics_and_verdict(
    module: str, target: str, extra: str, ports: dict[str, int], peer: str, ours: Blackbox
) -> None:
    kind = module.partition("_")[0]
    if kind not in PROBES:
        pytest.skip(f"there is no {kind} kind")
    target = target.format(**ports)
    query = {"module": module, "target": target, **dict(urllib.parse.parse_qsl(extra))}
    url = f"{peer}?{urllib.parse.urlencode(query)}"
    their_text = await asyncio.to_thread(ask_peer, url)
    status, media_type, text = await ours.answer(query, {})
    assert status == 200
    assert media_type.startswith("text/plain; version=0.0.4")
    text, their_text = of_one_age(text, their_text), of_one_age(their_text, text)
    theirs, mine = series_of(their_text), series_of(text)
    assert kinds_of(text) == kinds_of(their_text)
    assert set(mine) == set(theirs)
    differ = {
        name: (value, mine[name])
        for name, value in theirs.items()
        if SAME_VALUES.match(name) and mine[name] != pytest.approx(value) and (module, name) not in KNOWN
    }
    assert differ == {}, "peer, ours"
    assert 0 < mine["probe_duration_seconds"] < 5


@needs_peer
@pytest.mark.parametrize(
    "query", [{"module": "nope", "target": "x"}, {"module": "http_ip4"}, {"module": "http_ip4", "target": ""}]
)
async def test_same_refusals(query: dict[str, str], peer: str, ours: Blackbox) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        await asyncio.to_thread(ask_peer, f"{peer}?{urllib.parse.urlencode(query)}")
    with caught.value:
        their_text = caught.value.read().decode()
    status, _media_type, text = await ours.answer(query, {})
    assert status == caught.value.code
    assert text.strip() == their_text.strip()


@needs_peer
async def test_debug_has_the_same_parts(ports: dict[str, int], peer: str, ours: Blackbox) -> None:
    query = {"module": "http_auth", "target": f"http://127.0.0.1:{ports['http']}/auth", "debug": "true"}
    theirs = await asyncio.to_thread(ask_peer, f"{peer}?{urllib.parse.urlencode(query)}")
    _status, _type, text = await ours.answer(query, {})
    for part in ("Logs for the probe:", "Metrics that would have been returned:", "Module configuration:"):
        assert part in theirs
        assert part in text
    assert "watch" not in text.partition("Module configuration:")[2]
    assert "Probe succeeded" in text
