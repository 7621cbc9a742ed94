"""The one list of sources. How lines are found and read lives in tail/."""

from __future__ import annotations

from dogwatch.core.component import Registry
from dogwatch.logs.source import Source
from dogwatch.logs.sources.containers import ContainersSource
from dogwatch.logs.sources.docker import DockerSource
from dogwatch.logs.sources.exec import ExecSource
from dogwatch.logs.sources.file import FileSource
from dogwatch.logs.sources.http import HttpSource
from dogwatch.logs.sources.journald import JournaldSource
from dogwatch.logs.sources.stdin import StdinSource
from dogwatch.logs.sources.syslog import SyslogSource

SOURCES: Registry[Source] = Registry(
    "log_source",
    FileSource,
    ContainersSource,
    JournaldSource,
    DockerSource,
    SyslogSource,
    HttpSource,
    ExecSource,
    StdinSource,
)
