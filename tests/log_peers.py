"""Real receivers for log sinks: NATS, Kafka, ClickHouse, OpenSearch, S3 that checks signatures, and a store that speaks
the push protocols of Loki, Elasticsearch, OpenTelemetry and syslog. `scripts/install-test-tools` installs them; a test
whose receiver is absent is skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dogwatch-tests"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def program(*names: str) -> str:
    for name in names:
        found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/lib/systemd")
        if found:
            return found
    pytest.skip(f"{names[0]} is not installed")


def fetch(url: str, body: bytes | None = None) -> bytes:
    request = urllib.request.Request(url, data=body)
    if body is not None and not url.endswith("/query"):
        request.add_header("Content-Type", "text/plain")
    with urllib.request.urlopen(request, timeout=10) as answer:
        data: bytes = answer.read()
        return data


class Peer:
    """A server in a folder of its own on a port of its own. It can be killed, stopped (SIGSTOP) and started again."""

    wait_s = 60.0

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dogwatch-peer-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def ready(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(0.5)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def start(self) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(),
            )
        deadline = time.monotonic() + self.wait_s
        while not self.ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "server.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{type(self).__name__} did not start: {said}")
            time.sleep(0.05)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None


class Nats(Peer):
    def command(self) -> Sequence[str]:
        return (program("nats-server"), "-js", "-sd", str(self.folder), "-a", "127.0.0.1", "-p", str(self.port))

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"


class Kafka(Peer):
    """One broker, its own controller (KRaft)."""

    def __init__(self) -> None:
        super().__init__()
        self.controller = free_port()
        self._jars = CACHE / "kafka-3.9.1"
        if not self._jars.is_dir():
            pytest.skip("Kafka's jars are not installed")
        self._java = program("java")

    def _run(self, *arguments: str) -> list[str]:
        small = ("-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dlog4j.configuration=none")
        return [self._java, *small, "-cp", f"{self._jars}/*", *arguments]

    def settings(self) -> str:
        return (
            f"listeners=PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self.controller}\n"
            f"advertised.listeners=PLAINTEXT://127.0.0.1:{self.port}\n"
        )

    def format(self) -> Sequence[str]:
        """Return further arguments of the making of its folder."""
        return ()

    def start(self) -> None:
        settings = self.folder / "server.properties"
        if not settings.exists():
            settings.write_text(
                "process.roles=broker,controller\nnode.id=1\n"
                f"controller.quorum.voters=1@127.0.0.1:{self.controller}\n"
                f"{self.settings()}"
                "controller.listener.names=CONTROLLER\n"
                f"log.dirs={self.folder}/data\noffsets.topic.replication.factor=1\n"
                "transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\nnum.partitions=2\n"
                "message.max.bytes=200000\n"
            )
            arguments = ("kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", str(settings))
            made = subprocess.run(self._run(*arguments, *self.format()), check=False, capture_output=True, timeout=60)
            if made.returncode:
                raise RuntimeError(f"Kafka's folder cannot be made: {(made.stdout + made.stderr).decode()[-1500:]}")
        super().start()

    def command(self) -> Sequence[str]:
        return self._run("kafka.Kafka", str(self.folder / "server.properties"))

    @property
    def broker(self) -> str:
        return f"127.0.0.1:{self.port}"


class Clickhouse(Peer):
    def __init__(self) -> None:
        super().__init__()
        self._binary = program("clickhouse-server")
        (self.folder / "users.xml").write_text(
            "<yandex><profiles><default/></profiles><quotas><default/></quotas><users><default><password></password>"
            "<networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota></default></users>"
            "</yandex>"
        )
        (self.folder / "config.xml").write_text(
            f"<yandex><logger><level>warning</level><console>1</console></logger><http_port>{self.port}</http_port>"
            f"<tcp_port>{free_port()}</tcp_port><listen_host>127.0.0.1</listen_host><path>{self.folder}/data/</path>"
            f"<tmp_path>{self.folder}/tmp/</tmp_path><users_config>users.xml</users_config>"
            "<default_profile>default</default_profile><default_database>default</default_database>"
            "<mark_cache_size>67108864</mark_cache_size></yandex>"
        )

    def command(self) -> Sequence[str]:
        return (self._binary, f"--config-file={self.folder}/config.xml")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def query(self, text: str) -> str:
        return fetch(self.url, text.encode()).decode()


class S3(Peer):
    """moto as a server that looks at signatures."""

    def command(self) -> Sequence[str]:
        return (sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port))

    def environment(self) -> dict[str, str]:
        return {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "999999"}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Store(Peer):
    """VictoriaLogs: one server for four protocols."""

    def __init__(self) -> None:
        super().__init__()
        self.syslog_port = free_port()
        self._binary = CACHE / "victoria-logs-1.121.0"
        if not self._binary.exists():
            pytest.skip("the log store is not installed")

    def command(self) -> Sequence[str]:
        return (
            str(self._binary),
            f"-httpListenAddr=127.0.0.1:{self.port}",
            f"-storageDataPath={self.folder}/data",
            f"-syslog.listenAddr.tcp=127.0.0.1:{self.syslog_port}",
            "-retentionPeriod=100y",
            "-memory.allowedBytes=64MB",
            "-loggerLevel=WARN",
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def search(self, query: str) -> list[dict[str, str]]:
        fetch(f"{self.url}/internal/force_flush")
        body = f"query={query}&limit=1000000".encode()
        return [json.loads(line) for line in fetch(f"{self.url}/select/logsql/query", body).splitlines()]


class Search(Peer):
    """What Elasticsearch and OpenSearch have in common."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/{path}", data, method=method)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=20) as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found

    def ready(self) -> bool:
        return super().ready() and self.ask("GET", "_cluster/health")["status"] in {"green", "yellow"}

    def documents(self, index: str) -> list[dict[str, Any]]:
        """Return every document with its `_id`, page by page."""
        self.ask("POST", f"{index}/_refresh")
        found: list[dict[str, Any]] = []
        page = self.ask("POST", f"{index}/_search?scroll=1m", {"size": 5000})
        while hits := page["hits"]["hits"]:
            found += [{"_id": one["_id"], **one["_source"]} for one in hits]
            page = self.ask("POST", "_search/scroll", {"scroll": "1m", "scroll_id": page["_scroll_id"]})
        return found


class OpenSearch(Search):
    """One node. It would not start as root, which it asks its native library for: here it finds none."""

    def __init__(self) -> None:
        super().__init__()
        self._transport = free_port()
        self._home = CACHE / "opensearch-2.11.0"
        if not self._home.is_dir():
            pytest.skip("OpenSearch is not installed")
        self._java = program("java")
        shutil.copytree(self._home / "config", self.folder / "config")
        (self.folder / "config" / "opensearch.yml").write_text(
            f"discovery.type: single-node\nhttp.port: {self.port}\ntransport.port: {self._transport}\n"
            f"network.host: 127.0.0.1\npath.data: {self.folder}/data\npath.logs: {self.folder}/logs\n"
            "cluster.routing.allocation.disk.threshold_enabled: false\n"
        )

    def command(self) -> Sequence[str]:
        small = ("-Xms256m", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
        native = ("-Djna.nosys=true", "-Djna.nounpack=true", "-Djna.boot.library.path=/nonexistent")
        threads = "java.util.concurrent.ForkJoinPool.common.threadFactory"
        own = {
            "java.security.manager": "allow",
            threads: "org.opensearch.secure_sm.SecuredForkJoinWorkerThreadFactory",
            "java.io.tmpdir": str(self.folder),
            "opensearch.path.home": str(self._home),
            "opensearch.path.conf": str(self.folder / "config"),
            "opensearch.distribution.type": "zip",
            "log4j2.disable.jmx": "true",
        }
        named = [f"-D{name}={value}" for name, value in own.items()]
        main = "org.opensearch.bootstrap.OpenSearch"
        return [self._java, *small, *native, *named, "-cp", f"{self._home}/lib/*", main]


@contextlib.contextmanager
def running(make: Callable[[], Peer]) -> Iterator[Peer]:
    peer = make()
    try:
        peer.start()
        yield peer
    finally:
        peer.stop()
        shutil.rmtree(peer.folder, ignore_errors=True)


def unique(word: str) -> str:
    return f"{word}{uuid.uuid4().hex[:12]}"


def messages(records: Iterable[dict[str, str]], field: str = "message") -> list[str]:
    return [one[field] for one in records]
