"""The agents that the benchmark of logs drives: ours, rsyslog, syslog-ng and OpenTelemetry's collector, each with its
configuration for each job that it can do.

Debian's packages of the first two peers exclude each other, so they are unpacked beside the results, not installed. The
third is built from Go modules (`scripts/install-soak-peers`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from bench.log_collector import EXPORTERS
from bench.log_collector import PROGRAM as COLLECTOR
from bench.log_collector import configuration as collector_configuration

HERE = Path(__file__).parent
ROOT = HERE / "bin" / "logs"
# The agents, the modules that the jobs need, and libraries that a small system lacks.
PACKAGES = (
    "rsyslog", "libestr0", "libfastjson4", "liblognorm5", "syslog-ng-core", "syslog-ng-mod-http", "libivykis0",
    "libnet1", "libjson-c5", "libwrap0", "libpcre3", "rsyslog-elasticsearch", "rsyslog-kafka", "librdkafka1",
)  # fmt: skip
EMAIL = r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+"
# What each job does, with {out}: a file, {port}: of the sink that counts.
JOBS = ("pass to file", "pass to network, compressed", "json, filter, add, redact to file", "nginx to json file")
# The same lines and changes as in the third job, to servers that take records, by the kind of server.
RECORD_JOBS = {
    kind: f"json, filter, add, redact to {kind}" for kind in ("elasticsearch", "loki", "otlp", "kafka", "nats")
}
_NAMES = ("rsyslogd", "syslog-ng", "collector")


def peers() -> tuple[dict[str, str], str]:
    """Return the programs of the peers that can be run, and why others cannot ("" if none is missing)."""
    found = {name: path for name in _NAMES if (path := _program(name))}
    unpacked = _MODULES / "omelasticsearch.so"
    if not ({*_NAMES[:2]} <= set(found) and unpacked.exists()) and shutil.which("apt-get") and shutil.which("dpkg-deb"):
        _unpack()
        found = {name: path for name in _NAMES if (path := _program(name))}
    missing = set(_NAMES) - set(found)
    return found, f"not to be had here: {', '.join(sorted(missing))}" if missing else ""


def does(agent: str, job: str) -> bool:
    """Return whether an agent can do a job."""
    known: Mapping[str, object] = {"rsyslogd": _RSYSLOG_JOBS, "syslog-ng": _SYSLOG_NG_JOBS, "collector": EXPORTERS}.get(
        agent, _OURS_JOBS
    )
    return job in known


def _program(name: str) -> str:
    path = ROOT / "usr/sbin" / name
    if name == "collector":
        return str(COLLECTOR) if COLLECTOR.exists() else ""
    if path.exists() and subprocess.run(
        [path, "-v"], env=environment(), capture_output=True, check=False
    ).returncode in (0, 1):
        return str(path)
    return ""


def environment() -> dict[str, str]:
    libraries = [ROOT / part for part in ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib/syslog-ng")]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, libraries)), "SYSLOGNG_PREFIX": str(ROOT / "usr")}


def _unpack() -> None:
    folder = ROOT / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", "-qq", *PACKAGES], cwd=folder, capture_output=True, check=False)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, ROOT], capture_output=True, check=False)


def command(agent: str, job: str, folder: Path, values: Mapping[str, object], programs: Mapping[str, str]) -> list[str]:
    """Write the agent's configuration into the folder and return the command line that runs it in the foreground."""
    if agent.startswith("dogwatch"):
        (folder / "c.yaml").write_text(_OURS + _OURS_JOBS[job].format(**values))
        return [sys.executable, "-m", "dogwatch", "logs", "run", "-c", "c.yaml", "--folder", str(folder / "state")]
    if agent == "rsyslogd":
        (folder / "c.conf").write_text(
            (_RSYSLOG % {**values, "folder": folder})
            + (_RSYSLOG_JOBS[job] % {**values, "email": EMAIL.replace("\\", "\\\\")})
        )
        arguments = ["-n", "-f", str(folder / "c.conf"), "-i", str(folder / "pid"), "-M", str(_MODULES)]
        return [programs[agent], *arguments]
    if agent == "collector":
        (folder / "c.yaml").write_text(collector_configuration(job, values))
        return [programs[agent], "--config", str(folder / "c.yaml")]
    (folder / "c.conf").write_text(
        (_SYSLOG_NG % {**values, "folder": folder})
        + (_SYSLOG_NG_JOBS[job] % {**values, "email": EMAIL.replace("\\", "\\\\")})
    )
    arguments = ["-F", "-f", str(folder / "c.conf"), "-R", str(folder / "persist"), "-c", str(folder / "ctl")]
    return [programs[agent], *arguments, "--no-caps", "-p", str(folder / "pid")]


_MODULES = ROOT / "usr/lib/x86_64-linux-gnu/rsyslog"
_OURS = "logs:\n"
_SOURCE = "  sources: [{{name: a, file: {{paths: ['{source}'], start: beginning}}}}]\n"
_TO_FILE = "  sinks: [{{name: o, file: {{path: '{out}', rotate: 0B, format: %s}}}}]\n"
_CHANGES = (
    "  routes: [{{do: [json, {{where: 'level != \"debug\"'}}, {{set: {{fields: {{env: prod}}}}}}, "
    "{{redact: [email]}}]}}]\n"
)
_HTTP_SINK = "  sinks: [{{name: o, %s: {{url: 'http://127.0.0.1:{port}'}}}}]\n"
_OURS_JOBS = {
    "pass to file": _SOURCE + _TO_FILE % "lines",
    "pass to network, compressed": _SOURCE
    + "  sinks: [{{name: o, http: {{url: 'http://127.0.0.1:{port}/in', compression: gzip, format: lines}}}}]\n",
    "json, filter, add, redact to file": _SOURCE + _CHANGES + _TO_FILE % "json",
    "nginx to json file": _SOURCE + "  routes: [{{do: [nginx]}}]\n" + _TO_FILE % "json",
    **{RECORD_JOBS[kind]: _SOURCE + _CHANGES + _HTTP_SINK % kind for kind in ("elasticsearch", "loki", "otlp")},
    RECORD_JOBS["kafka"]: _SOURCE
    + _CHANGES
    + "  sinks: [{{name: o, kafka: {{brokers: ['{broker}'], topic: {topic}}}}}]\n",
    RECORD_JOBS["nats"]: _SOURCE + _CHANGES + "  sinks: [{{name: o, nats: {{servers: ['{nats}'], subject: logs}}}}]\n",
}
_RSYSLOG = """global(workDirectory="%(folder)s" maxMessageSize="64k")
module(load="imfile" mode="inotify")
module(load="mmjsonparse")
input(type="imfile" File="%(source)s" Tag="t:" ruleset="all" persistStateInterval="1000")
template(name="raw" type="list") { property(name="msg") constant(value="\\n") }
template(name="json" type="list") { property(name="$!all-json-plain") constant(value="\\n") }
template(name="document" type="list") { property(name="$!all-json-plain") }
"""
_RSYSLOG_FILE = 'action(type="omfile" file="%(out)s" template="{}" ioBufferSize="256k" flushOnTXEnd="on")'
_NGINX_GROUPS = (
    ("remote_addr", 1), ("remote_user", 2), ("time_local", 3), ("method", 4), ("path", 5), ("protocol", 6),
    ("status", 7), ("body_bytes_sent", 8), ("http_referer", 9),
)  # fmt: skip
_NGINX_ERE = (
    r"^([^ ]+) [^ ]+ ([^ ]+) \\[([^]]+)\\] \"([A-Z]+) ([^ ]+) ([^\"]+)\" ([0-9]+) ([0-9]+) \"([^\"]*)\" \"([^\"]*)\""
)
_RSYSLOG_CHANGES = """ruleset(name="all") {
  action(type="mmjsonparse" cookie="")
  if $!level == "debug" then stop
  set $!env = "prod";
  if re_match($!user, "%(email)s") then set $!user = "***";
  """
_RSYSLOG_JOBS = {
    "pass to file": 'ruleset(name="all") {{ {} }}\n'.format(_RSYSLOG_FILE.format("raw")),
    # Without omhttp, which Debian does not build: TCP with its own compression, which is less work than HTTP.
    "pass to network, compressed": """ruleset(name="all") {
  action(type="omfwd" target="127.0.0.1" port="%(raw_port)s" protocol="tcp" template="raw"
         ZipLevel="1" compression.mode="stream:always")
}
""",
    "json, filter, add, redact to file": _RSYSLOG_CHANGES + _RSYSLOG_FILE.format("json") + "\n}\n",
    RECORD_JOBS["elasticsearch"]: 'module(load="omelasticsearch")\n'
    + _RSYSLOG_CHANGES
    + """action(type="omelasticsearch" server="127.0.0.1" serverport="%(port)s" template="document" searchIndex="logs"
    searchType="" bulkmode="on" maxbytes="1m" queue.type="linkedlist" queue.size="20000" queue.dequeuebatchsize="2000")
}
""",
    RECORD_JOBS["kafka"]: 'module(load="omkafka")\n'
    + _RSYSLOG_CHANGES
    + """action(type="omkafka" broker="%(broker)s" topic="%(topic)s" template="document"
    confParam=["compression.codec=zstd", "enable.idempotence=true", "queue.buffering.max.messages=1000000"]
    queue.type="linkedlist" queue.size="20000" queue.dequeuebatchsize="2000")
}
""",
    "nginx to json file": 'ruleset(name="all") {\n'
    + "".join(f'  set $!{name} = re_extract($msg, "{_NGINX_ERE}", 0, {at}, "");\n' for name, at in _NGINX_GROUPS)
    + "  "
    + _RSYSLOG_FILE.format("json")
    + "\n}\n",
}
_SYSLOG_NG = """@version: 3.38
options { threaded(yes); stats-freq(0); log-fifo-size(20000); };
source s { file("%(source)s" flags(no-parse) follow-freq(0.1) log-fetch-limit(1000) log-iw-size(10000)
  log-msg-size(65536)); };
"""
_SYSLOG_NG_FILE = 'destination d {{ file("%(out)s" template("{}\\n") flush-lines(1000)); }};\n'
_PCRE = (
    r"^(?<remote_addr>\\S+) \\S+ (?<remote_user>\\S+) \\[(?<time_local>[^\\]]+)\\] "
    r"\"(?<method>[A-Z]+) (?<path>\\S+) (?<protocol>[^\"]+)\" (?<status>\\d{3}) (?<body_bytes_sent>\\d+|-)"
    r"(?: \"(?<http_referer>[^\"]*)\" \"(?<http_user_agent>[^\"]*)\")?"
)
_SYSLOG_NG_NGINX = f'parser p {{ regexp-parser(prefix(".n.") patterns("{_PCRE}")); }};\n'
_SYSLOG_NG_CHANGES = """parser p { json-parser(prefix(".j.")); };
filter f { not ("${.j.level}" eq "debug"); };
rewrite r { set("prod" value(".j.env")); subst("%(email)s" "***" value(".j.user") type("pcre") flags("global")); };
"""
_SYSLOG_NG_CHANGED = "log { source(s); parser(p); filter(f); rewrite(r); destination(d); flags(flow-control); };\n"
_SYSLOG_NG_JOBS = {
    "pass to file": _SYSLOG_NG_FILE.format("${MESSAGE}") + "log { source(s); destination(d); flags(flow-control); };\n",
    # This version's HTTP cannot compress: it sends plain text, which costs it less.
    "pass to network, compressed": """destination d { http(url("http://127.0.0.1:%(port)s/in") method("POST")
  batch-lines(10000) batch-bytes(1048576) delimiter("\\n") body("${MESSAGE}") workers(1)); };
log { source(s); destination(d); flags(flow-control); };
""",
    "json, filter, add, redact to file": _SYSLOG_NG_CHANGES
    + _SYSLOG_NG_FILE.format("$(format-json .j.* --shift-levels 2)")
    + _SYSLOG_NG_CHANGED,
    RECORD_JOBS["elasticsearch"]: _SYSLOG_NG_CHANGES
    + """destination d { http(url("http://127.0.0.1:%(port)s/_bulk") method("POST") batch-lines(10000)
  batch-bytes(1048576) delimiter("\\n") workers(1) headers("Content-Type: application/x-ndjson")
  body('{"create":{"_index":"logs"}}\\n$(format-json .j.* --shift-levels 2)') body-suffix("\\n")); };
"""
    + _SYSLOG_NG_CHANGED,
    "nginx to json file": _SYSLOG_NG_NGINX
    + _SYSLOG_NG_FILE.format("$(format-json .n.* --shift-levels 2)")
    + "log { source(s); parser(p); destination(d); flags(flow-control); };\n",
}
