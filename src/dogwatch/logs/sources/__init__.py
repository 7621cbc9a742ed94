"""The one list of sources. How lines are found and read lives in tail/."""

from __future__ import annotations

from dogwatch.core.component import Registry
from dogwatch.logs.source import Source
from dogwatch.logs.sources.file import FileSource
from dogwatch.logs.sources.stdin import StdinSource

SOURCES: Registry[Source] = Registry("log_source", FileSource, StdinSource)
