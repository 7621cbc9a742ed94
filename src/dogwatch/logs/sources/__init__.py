"""The one list of sources. How lines are found and read lives in tail/."""

from __future__ import annotations

from dogwatch.core.component import Registry
from dogwatch.logs.source import Source

SOURCES: Registry[Source] = Registry(
    "log_source",
    "file = dogwatch.logs.sources.file:FileSource",
    "containers = dogwatch.logs.sources.containers:ContainersSource",
    "journald = dogwatch.logs.sources.journald:JournaldSource",
    "docker = dogwatch.logs.sources.docker:DockerSource",
    "syslog = dogwatch.logs.sources.syslog:SyslogSource",
    "http = dogwatch.logs.sources.http:HttpSource",
    "exec = dogwatch.logs.sources.exec:ExecSource",
    "stdin = dogwatch.logs.sources.stdin:StdinSource",
)
