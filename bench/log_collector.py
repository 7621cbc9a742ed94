"""OpenTelemetry's collector as a log agent of the benchmark: its filelog receiver, its processors, its exporters."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

PROGRAM = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dogwatch-tests/collector-logs-0.110.0"
_EMAIL = r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(\\.[A-Za-z0-9-]+)+"
_NGINX = (
    r"^(?P<remote_addr>\S+) \S+ (?P<remote_user>\S+) \[(?P<time_local>[^\]]+)\] "
    r'"(?P<method>[A-Z]+) (?P<path>\S+) (?P<protocol>[^"]+)" (?P<status>\d{3}) (?P<body_bytes_sent>\d+|-)'
    r'(?: "(?P<http_referer>[^"]*)" "(?P<http_user_agent>[^"]*)")?'
)
_FILE = "file: {path: %(out)s}"
# How each job ends; those that parse and change have processors as well.
EXPORTERS: Mapping[str, str] = {
    "pass to file": _FILE,
    "json, filter, add, redact to file": _FILE,
    "nginx to json file": _FILE,
    "json, filter, add, redact to otlp": "otlphttp: {endpoint: 'http://127.0.0.1:%(port)s'}",
    "json, filter, add, redact to kafka": "kafka: {brokers: ['%(broker)s'], topic: %(topic)s, protocol_version: 2.1.0, "
    "encoding: raw, producer: {compression: zstd, max_message_bytes: 10000000}}",
}
_PROCESSORS = """  filter: {logs: {log_record: ['body["level"] == "debug"']}}
  transform:
    log_statements:
      - context: log
        statements:
          - set(body["env"], "prod")
          - replace_pattern(body["user"], "%(email)s", "***")
"""


def configuration(job: str, values: Mapping[str, object]) -> str:
    """Return the text of its configuration."""
    exporter = EXPORTERS[job] % values
    changes = job.startswith("json")
    # Into the body: else each record would have its line a second time.
    operators = "[{type: json_parser, parse_to: body}]" if changes else "[]"
    if job.startswith("nginx"):
        operators = f"[{{type: regex_parser, parse_to: body, regex: '{_NGINX}'}}]"
    processors = "  batch: {send_batch_size: 8192, timeout: 200ms}\n"
    if changes:
        processors += _PROCESSORS % {"email": _EMAIL}
    names = "[filter, transform, batch]" if changes else "[batch]"
    return (
        f"receivers: {{filelog: {{include: ['{values['source']}'], start_at: beginning, operators: {operators}}}}}\n"
        f"processors:\n{processors}exporters: {{{exporter}}}\n"
        "service:\n  telemetry: {metrics: {level: none}, logs: {level: error}}\n"
        f"  pipelines: {{logs: {{receivers: [filelog], processors: {names}, exporters: [{exporter.split(':')[0]}]}}}}\n"
    )
