"""Real receivers beside those of `log_peers`: Elasticsearch, Loki, an S3 gateway, an OpenTelemetry collector, rsyslog.

`make soak` builds those that take minutes (`scripts/install-soak-peers`); where one is absent its tests are skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.log_peers import CACHE, Peer, Search, fetch, free_port, program


def _built(name: str) -> str:
    path = CACHE / name
    if not path.exists():
        pytest.skip(f"{name} is not installed (scripts/install-soak-peers)")
    return str(path)


class Elasticsearch(Search):
    """One node, without security. It refuses to run as root: where we are, it is told to be somebody else."""

    _USER = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")

    def __init__(self) -> None:
        super().__init__()
        self._home = CACHE / "elasticsearch-8.15.0"
        if not self._home.is_dir():
            pytest.skip("Elasticsearch is not installed")
        self._java = Path(program("java")).resolve().parents[1]
        self._as = self._USER if os.geteuid() == 0 else ()
        if self._as and subprocess.run([*self._as, "true"], capture_output=True, check=False).returncode:
            pytest.skip("Elasticsearch does not run as root, and there are no namespaces of users here")
        shutil.copytree(self._home / "config", self.folder / "config")
        (self.folder / "config" / "elasticsearch.yml").write_text(
            f"discovery.type: single-node\nhttp.port: {self.port}\ntransport.port: {free_port()}\n"
            f"network.host: 127.0.0.1\npath.data: {self.folder}/data\npath.logs: {self.folder}/logs\n"
            "xpack.security.enabled: false\ncluster.routing.allocation.disk.threshold_enabled: false\n"
        )

    def command(self) -> Sequence[str]:
        # A session of its own: the launcher starts the server, and both are to be ended.
        return ("setsid", "--wait", *self._as, "bash", str(self._home / "bin" / "elasticsearch"))

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "ES_JAVA_HOME": str(self._java),
            "ES_PATH_CONF": str(self.folder / "config"),
            "ES_JAVA_OPTS": "-Xms300m -Xmx300m -XX:TieredStopAtLevel=1",
            "ES_TMPDIR": str(self.folder),
        }

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            self.send(signal.SIGCONT)
            self.send(number)
        super().stop(number)


class Gateway(Peer):
    """versitygw: S3 over a folder. It knows one user and looks at every signature."""

    access, secret = "tests-access", "tests-secret"

    def __init__(self) -> None:
        super().__init__()
        self._binary = _built("versitygw-1.8.0")
        (self.folder / "data").mkdir()
        (self.folder / "about").mkdir()

    def command(self) -> Sequence[str]:
        who = ("--access", self.access, "--secret", self.secret)
        place = ("posix", "--sidecar", str(self.folder / "about"), str(self.folder / "data"))
        names = ("--virtual-domain", f"localhost:{self.port}")
        return (self._binary, *who, "--port", f"127.0.0.1:{self.port}", *names, "--quiet", *place)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Minio(Peer):
    """MinIO: one process over one folder."""

    access, secret = "tests-access", "tests-secret"

    def __init__(self) -> None:
        super().__init__()
        self._binary = _built("minio-20260212")

    def command(self) -> Sequence[str]:
        return (self._binary, "server", "--quiet", "--address", f"127.0.0.1:{self.port}", str(self.folder / "data"))

    def environment(self) -> dict[str, str]:
        who = {"MINIO_ROOT_USER": self.access, "MINIO_ROOT_PASSWORD": self.secret}
        return {**os.environ, **who, "MINIO_DOMAIN": "localhost", "MINIO_BROWSER": "off", "HOME": str(self.folder)}

    def ready(self) -> bool:
        try:
            return fetch(f"{self.url}/minio/health/ready") == b""
        except OSError:
            return False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Loki(Peer):
    """One process with everything. settings: of `limits_config`, one a line."""

    NO_LIMITS = (
        "ingestion_rate_mb: 1000\ningestion_burst_size_mb: 1000\n"
        "per_stream_rate_limit: 1GB\nper_stream_rate_limit_burst: 1GB"
    )

    def __init__(self, settings: str = NO_LIMITS) -> None:
        super().__init__()
        self._binary = _built("loki-3.7.8")
        folder = self.folder
        limits = "".join(f"  {line}\n" for line in settings.splitlines())
        (folder / "loki.yaml").write_text(
            "auth_enabled: false\nanalytics: {reporting_enabled: false}\n"
            f"server: {{http_listen_address: 127.0.0.1, http_listen_port: {self.port}, grpc_listen_address: 127.0.0.1, "
            f"grpc_listen_port: {free_port()}, log_level: warn, grpc_server_max_recv_msg_size: 104857600, "
            "grpc_server_max_send_msg_size: 104857600}\n"
            f"common:\n  instance_addr: 127.0.0.1\n  path_prefix: {folder}\n  replication_factor: 1\n"
            "  ring: {kvstore: {store: inmemory}}\n"
            f"  storage: {{filesystem: {{chunks_directory: {folder}/chunks, rules_directory: {folder}/rules}}}}\n"
            # Without end, and in this place: as one process, Loki sets two and a half hours here, which go before
            # `query_ingesters_within`, and lines that are older are not found until their chunk is written out.
            "ingester: {lifecycler: {min_ready_duration: 0s}, query_store_max_look_back_period: -1ns}\n"
            "schema_config: {configs: [{from: 2020-10-24, store: tsdb, object_store: filesystem, schema: v13, "
            "index: {prefix: index_, period: 24h}}]}\n"
            "frontend: {max_outstanding_per_tenant: 4096}\n"
            f"limits_config:\n  max_entries_limit_per_query: 5000000\n  max_query_series: 1000000\n{limits}"
        )

    def command(self) -> Sequence[str]:
        return (self._binary, f"-config.file={self.folder}/loki.yaml")

    def ready(self) -> bool:
        try:
            return super().ready() and b"ready" in fetch(f"{self.url}/ready")
        except OSError:
            return False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def lines(self, query: str, hours: int = 24) -> list[tuple[str, str, int]]:
        """Return (id, line, time in nanoseconds) of all that is there, the oldest first."""
        asked = {"query": query, "limit": "5000000", "direction": "forward", "since": f"{hours}h"}
        request = urllib.request.Request(f"{self.url}/loki/api/v1/query_range?{urllib.parse.urlencode(asked)}")
        # Else each id makes a stream of its own in the answer.
        request.add_header("X-Loki-Response-Encoding-Flags", "categorize-labels")
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: dict[str, Any] = json.loads(answer.read())
        entries = [
            (value[2].get("structuredMetadata", {}).get("id", ""), value[1], int(value[0]))
            for stream in found["data"]["result"]
            for value in stream["values"]
        ]
        return sorted(entries, key=lambda one: one[2])


class Collector(Peer):
    """OpenTelemetry's collector, which writes what it takes to a file."""

    def __init__(self) -> None:
        super().__init__()
        self._binary = _built("collector-0.110.0")
        self.logs, self.traces = self.folder / "logs.json", self.folder / "traces.json"
        (self.folder / "c.yaml").write_text(
            f"receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{self.port}'}}}}}}}}\n"
            f"exporters:\n  file/logs: {{path: {self.logs}, flush_interval: 100ms}}\n"
            f"  file/traces: {{path: {self.traces}, flush_interval: 100ms}}\n"
            "service:\n  telemetry: {metrics: {level: none}}\n  pipelines:\n"
            "    logs: {receivers: [otlp], exporters: [file/logs]}\n"
            "    traces: {receivers: [otlp], exporters: [file/traces]}\n"
        )

    def command(self) -> Sequence[str]:
        return (self._binary, f"--config=file:{self.folder}/c.yaml")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def records(self, service: str) -> list[dict[str, Any]]:
        """Return the log records of a service, as OTLP's JSON has them."""
        return [
            record
            for line in _whole_lines(self.logs)
            for resource in json.loads(line).get("resourceLogs", ())
            if attributes(resource["resource"]).get("service.name") == service
            for scope in resource["scopeLogs"]
            for record in scope["logRecords"]
        ]

    def spans(self) -> list[dict[str, Any]]:
        return [
            span
            for line in _whole_lines(self.traces)
            for resource in json.loads(line).get("resourceSpans", ())
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]


def attributes(holder: dict[str, Any]) -> dict[str, Any]:
    """Return attributes by name; of each value what it is, whatever its kind."""
    return {one["key"]: next(iter(one["value"].values()), None) for one in holder.get("attributes", ())}


def _whole_lines(path: Path) -> list[str]:
    return path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []


class Rsyslog(Peer):
    """Writes what comes to a file: name of the sender, structured data, message."""

    def __init__(self) -> None:
        super().__init__()
        self._binary = program("rsyslogd")
        self.out = self.folder / "out.log"
        (self.folder / "r.conf").write_text(
            'module(load="imtcp")\nglobal(maxMessageSize="1024k")\n'
            f'input(type="imtcp" address="127.0.0.1" port="{self.port}")\n'
            'template(name="all" type="string" string="%hostname%\\t%structured-data%\\t%msg:::drop-last-lf%\\n")\n'
            f'action(type="omfile" file="{self.out}" template="all")\n'
        )

    def command(self) -> Sequence[str]:
        return (self._binary, "-n", "-f", f"{self.folder}/r.conf", "-i", f"{self.folder}/r.pid")

    def lines(self, host: str) -> list[tuple[str, str]]:
        """Return (id, message) of what came from a host."""
        found = []
        for line in _whole_lines(self.out):
            name, data, message = line.split("\t", 2)
            if name == host:
                found.append((data.partition('id="')[2].partition('"')[0], message.removeprefix(" ")))
        return found
