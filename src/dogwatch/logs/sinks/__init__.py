"""The one list of sinks."""

from __future__ import annotations

from dogwatch.core.component import Registry
from dogwatch.logs.sink import Sink
from dogwatch.logs.sinks.elasticsearch import ElasticsearchSink
from dogwatch.logs.sinks.file import FileSink
from dogwatch.logs.sinks.http import HttpSink
from dogwatch.logs.sinks.loki import LokiSink
from dogwatch.logs.sinks.stdout import StdoutSink

SINKS: Registry[Sink] = Registry("log_sink", StdoutSink, FileSink, HttpSink, LokiSink, ElasticsearchSink)
